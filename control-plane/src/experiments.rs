//! The rules of experiments: what may be tried, when it starts and ends, and what a verdict changes.
//!
//! Enters: an open [`Change`](crate::change::Change) and what is wanted. Leaves: rows with their audit rows and events, or the rule that
//! forbids it. Never: a verdict; those are the decision engine's. Never: SQL, HTTP, a commit.
//!
//! Rooms: [`create`] what may be tried, [`plan`] whether it can reach a verdict, [`hand`] what people do to it, [`moves`] what a look and an
//! end change, [`split`] the traffic, [`record`] the decisions.

pub(crate) mod create;
pub(crate) mod hand;
pub(crate) mod moves;
pub(crate) mod plan;
pub(crate) mod record;
pub(crate) mod split;

use crate::catalog::CatalogError;
use crate::db::experiments::{self, Experiment, Scope};
use crate::db::{Conn, Error};

impl Scope {
    /// Apps whose sidecars get the split; empty: all. Another space is only for those that agreed to it.
    pub(crate) fn served_apps(&self) -> Vec<String> {
        if self.apps.is_empty() { self.apps_space_change.clone() } else { self.apps.clone() }
    }
}

/// The experiment, or that there is none.
pub(crate) async fn find(conn: &mut Conn, id: &str) -> Result<Experiment, CatalogError> {
    let found: Result<_, Error> = experiments::find(conn, id).await;
    found?.ok_or_else(|| CatalogError::NotFound(format!("experiment `{id}` does not exist")))
}
