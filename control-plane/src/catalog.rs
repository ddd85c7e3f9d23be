//! The rules of the catalog: what may be created, moved, proven and deleted.
//!
//! Enters: an open [`Change`](crate::change::Change) and what is wanted. Leaves: rows written with their audit rows, or the rule that
//! forbids it. Never: SQL, HTTP, a commit.
//!
//! Rooms: [`find`] by path, [`cards`] models, versions and variants, [`artifacts`] and their proofs, [`aliases`], [`register`] a whole
//! bundle at once, [`served`] what sidecars get of it.

pub(crate) mod aliases;
pub(crate) mod artifacts;
pub(crate) mod cards;
pub(crate) mod find;
pub(crate) mod register;
pub(crate) mod served;

use crate::db;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    #[error("{0}")]
    NotFound(String),
    /// Exists already, or is still referenced.
    #[error("{0}")]
    Conflict(String),
    /// Someone moved it in between.
    #[error("{0}")]
    Stale(String),
    /// A value out of range, or a gate not passed.
    #[error("{0}")]
    Invalid(String),
    #[error("the database failed: {0}")]
    Db(#[from] db::Error),
}

/// Refuses what is not a name.
fn check_name(what: &str, name: &str) -> Result<(), CatalogError> {
    if akidb_domain::vocabulary::is_name(name) {
        return Ok(());
    }
    Err(CatalogError::Invalid(format!("{what} `{}` is not 1-128 of A-Za-z0-9._-", name.chars().take(200).collect::<String>())))
}
