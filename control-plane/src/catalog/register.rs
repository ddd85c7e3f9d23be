//! Catalogs a whole bundle: model, version, variant, artifact, proof and aliases, as far as they are not there yet.
//!
//! Enters: a checked manifest whose files are known to be where the URIs say. Leaves: what it became. Never: half of it; the caller's
//! transaction is dropped on any error.

use akidb_domain::bundle::Manifest;
use akidb_domain::vocabulary::{ArtifactState, canonical_model};

use super::find::Place;
use super::{CatalogError, aliases, artifacts, cards};
use crate::change::Change;
use crate::db::artifacts as rows;
use crate::db::artifacts::ArtifactRow;
use crate::db::{models, variants, versions};

/// How a bundle is to be catalogued.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Name of the version; none: the one that it is in, else that of the artifact that it was made from, else [`FIRST_VERSION`].
    pub(crate) version: Option<String>,
    /// Move `stable` and `default` to it.
    pub(crate) set_default: bool,
}

/// The version of a model that has none.
const FIRST_VERSION: &str = "1";

/// Catalogs the bundle; the same one again answers the same artifact.
pub(crate) async fn bundle(change: &mut Change, manifest: &Manifest, uris: &[String], wish: &Wish) -> Result<ArtifactRow, CatalogError> {
    let version = match &wish.version {
        Some(version) => version.clone(),
        None => own_version(change, manifest).await?.unwrap_or_else(|| FIRST_VERSION.to_owned()),
    };
    let place = place(change, manifest, &version).await?;
    let digest = manifest.digest();
    let row = match rows::find(change.conn(), &digest).await? {
        Some(row) if row.variant_id != place.variant.id => {
            let there = variants::path(change.conn(), row.variant_id).await?;
            let problem = format!("artifact `{digest}` is catalogued as {} of version {} of {}", there.variant, there.version, there.model);
            return Err(CatalogError::Conflict(problem));
        }
        Some(row) => prove_again(change, &place, row, manifest).await?,
        None => artifacts::add(change, &place, manifest, uris).await?,
    };
    if wish.set_default {
        aliases::set_default(change, &place).await?;
    }
    Ok(row)
}

/// Where it is already, else where the artifact that it was made from is, if that is of the same model: a student's teacher is not.
async fn own_version(change: &mut Change, manifest: &Manifest) -> Result<Option<String>, CatalogError> {
    let (own, parent) = (manifest.digest(), manifest.lineage.parent_digest.as_ref());
    for digest in std::iter::once(&own).chain(parent) {
        let Some(row) = rows::find(change.conn(), digest).await? else { continue };
        let there = variants::path(change.conn(), row.variant_id).await?;
        if canonical_model(&there.model) == canonical_model(&manifest.model.name) {
            return Ok(Some(there.version));
        }
    }
    Ok(None)
}

/// An artifact that is not ready may come back with a better proof.
async fn prove_again(change: &mut Change, place: &Place, mut row: ArtifactRow, manifest: &Manifest) -> Result<ArtifactRow, CatalogError> {
    let waits = row.state == ArtifactState::Uploaded.as_str() || row.state == ArtifactState::Validated.as_str();
    if let (true, Some(evaluation)) = (waits, &manifest.evaluation) {
        artifacts::evaluate(change, place, &mut row, evaluation).await?;
    }
    Ok(row)
}

async fn place(change: &mut Change, manifest: &Manifest, version: &str) -> Result<Place, CatalogError> {
    let card = &manifest.model;
    let model = match models::find(change.conn(), &canonical_model(&card.name)).await? {
        Some(model) => model,
        None => cards::create_model(change, &card.name, "").await?,
    };
    let version = match versions::find(change.conn(), model.id, version).await? {
        Some(there) => match cards::difference(&there, &model, card) {
            Some(problem) => return Err(CatalogError::Conflict(format!("{problem}: import it as another version"))),
            None => there,
        },
        None => cards::create_version(change, &model, version, card).await?,
    };
    let wanted = &manifest.variant;
    match variants::find(change.conn(), version.id, &wanted.name).await? {
        Some(variant) if variant.precision != wanted.precision.as_str() => Err(CatalogError::Conflict(format!(
            "variant `{}` of version `{}` of `{}` has precision {}, the bundle {}",
            variant.name, version.name, model.name, variant.precision, wanted.precision
        ))),
        Some(variant) => Ok(Place { model, version, variant }),
        None => cards::create_variant(change, model, version, &wanted.name, wanted.precision).await,
    }
}
