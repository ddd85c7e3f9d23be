//! Aliases: moved by compare-and-swap, and only to what can be served.
//!
//! Enters: a move and the revision its caller saw. Leaves: the new revision. Never: an alias on a variant without a ready artifact.

use akidb_domain::vocabulary::{ArtifactState, canonical_model};
use serde_json::json;

use super::find::Place;
use super::{CatalogError, check_name};
use crate::change::Change;
use crate::db::aliases::{self, AliasRow, Move};
use crate::db::models::ModelRow;
use crate::db::{Conn, artifacts, variants, versions};

/// What the caller believes of the alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It has this revision.
    Revision(i64),
    /// It is not there.
    Absent,
    /// Anything: only the system itself moves like this.
    Any,
}

pub(crate) async fn find(conn: &mut Conn, model: &ModelRow, name: &str) -> Result<AliasRow, CatalogError> {
    let found = aliases::find(conn, model.id, &name.to_ascii_lowercase()).await?;
    found.ok_or_else(|| CatalogError::NotFound(format!("model `{}` has no alias `{name}`", model.name)))
}

/// Moves an alias as a caller wishes. `stable` takes `default` along, unless that was moved by hand.
pub(crate) async fn put(change: &mut Change, place: &Place, name: &str, expected: Expected) -> Result<i64, CatalogError> {
    check_name("alias", name)?;
    let name = name.to_ascii_lowercase();
    refuse_variant_name(change.conn(), &place.model, &name).await?;
    let there = aliases::find(change.conn(), place.model.id, &name).await?;
    check_expected(&name, there.as_ref(), expected)?;
    if artifacts::count(change.conn(), place.variant.id).await?.1 == 0 {
        return Err(CatalogError::Invalid(format!("{} has no artifact in state `{}`", place.path(), ArtifactState::Ready)));
    }
    let revision = write(change, place, &name, name == "default").await?;
    if name == "stable" {
        let default = aliases::find(change.conn(), place.model.id, "default").await?;
        if default.is_none_or(|it| !it.moved_by_hand) {
            write(change, place, "default", false).await?;
        }
    }
    Ok(revision)
}

/// `stable` and `default` at once, as by hand.
pub(crate) async fn set_default(change: &mut Change, place: &Place) -> Result<(), CatalogError> {
    put(change, place, "stable", Expected::Any).await?;
    put(change, place, "default", Expected::Any).await?;
    Ok(())
}

/// Moves `stable`, and `default` where it names the same, from one variant to another. Refused when `stable` is elsewhere by now.
pub(crate) async fn promote(change: &mut Change, from: &Place, to: &Place) -> Result<bool, CatalogError> {
    let there = aliases::list(change.conn(), from.model.id).await?;
    let named = |name: &str| there.iter().find(|it| it.name == name);
    let stable = named("stable").filter(|it| it.variant_id == from.variant.id);
    let Some(stable) = stable else {
        return Err(CatalogError::Stale(format!("alias `stable` of `{}` no longer names {}", from.model.name, from.path())));
    };
    let follows = named("default").filter(|it| it.variant_id == from.variant.id);
    put(change, to, "stable", Expected::Revision(stable.revision)).await?;
    // Moved by hand or not, it names what the experiment was about.
    if let Some(default) = follows {
        write(change, to, "default", default.moved_by_hand).await?;
    }
    Ok(follows.is_some())
}

/// A model's first ready artifact is what it serves.
pub(crate) async fn adopt_first(change: &mut Change, place: &Place) -> Result<(), CatalogError> {
    let there = aliases::list(change.conn(), place.model.id).await?;
    if there.iter().any(|it| it.name == "stable" || it.name == "default") {
        return Ok(());
    }
    write(change, place, "stable", false).await?;
    write(change, place, "default", false).await?;
    Ok(())
}

pub(crate) async fn delete(change: &mut Change, model: &ModelRow, name: &str, expected: Expected) -> Result<(), CatalogError> {
    let there = find(change.conn(), model, name).await?;
    check_expected(&there.name, Some(&there), expected)?;
    aliases::delete(change.conn(), model.id, &there.name).await?;
    change.audit("alias.delete", &subject(model, &there.name), json!({"version": there.version, "variant": there.variant})).await?;
    change.visible();
    Ok(())
}

fn check_expected(name: &str, there: Option<&AliasRow>, expected: Expected) -> Result<(), CatalogError> {
    let stale = |problem: String| Err(CatalogError::Stale(format!("alias `{name}` {problem}: read it and decide again")));
    match (expected, there) {
        (Expected::Any, _) | (Expected::Absent, None) => Ok(()),
        (Expected::Absent, Some(it)) => stale(format!("exists, at revision {}", it.revision)),
        (Expected::Revision(wanted), Some(it)) if it.revision == wanted => Ok(()),
        (Expected::Revision(wanted), Some(it)) => stale(format!("is at revision {}, not {wanted}", it.revision)),
        (Expected::Revision(wanted), None) => stale(format!("does not exist, so it is not at revision {wanted}")),
    }
}

/// `name@x` must mean one thing: an alias may not carry a variant's name.
async fn refuse_variant_name(conn: &mut Conn, model: &ModelRow, name: &str) -> Result<(), CatalogError> {
    for version in versions::list(conn, model.id, 0, 1_000).await? {
        let variants = variants::list(conn, version.id, 0, 1_000).await?;
        if variants.iter().any(|it| it.name.eq_ignore_ascii_case(name)) {
            return Err(CatalogError::Invalid(format!("alias `{name}` is the name of a variant of `{}`", canonical_model(&model.name))));
        }
    }
    Ok(())
}

async fn write(change: &mut Change, place: &Place, name: &str, moved_by_hand: bool) -> Result<i64, CatalogError> {
    let step = Move { model_id: place.model.id, name, variant_id: place.variant.id, moved_by_hand, at: change.at };
    let revision = aliases::put(change.conn(), step).await?;
    change.visible();
    let detail = json!({"version": place.version.name, "variant": place.variant.name, "revision": revision, "by_hand": moved_by_hand});
    change.audit("alias.move", &subject(&place.model, name), detail).await?;
    Ok(revision)
}

fn subject(model: &ModelRow, name: &str) -> String {
    format!("models/{}/aliases/{name}", model.name)
}
