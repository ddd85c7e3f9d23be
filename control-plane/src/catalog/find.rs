//! Finds what a path names. Enters: names. Leaves: rows, or which part of the path is not there. Never: a row of another parent.

use akidb_domain::vocabulary::canonical_model;

use super::CatalogError;
use crate::db::artifacts::ArtifactRow;
use crate::db::models::ModelRow;
use crate::db::variants::VariantRow;
use crate::db::versions::VersionRow;
use crate::db::{Conn, artifacts, models, variants, versions};

/// A variant and what it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) model: ModelRow,
    pub(crate) version: VersionRow,
    pub(crate) variant: VariantRow,
}

impl Place {
    /// Its path, as the audit log writes it.
    pub(crate) fn path(&self) -> String {
        format!("models/{}/versions/{}/variants/{}", self.model.name, self.version.name, self.variant.name)
    }
}

pub(crate) async fn model(conn: &mut Conn, name: &str) -> Result<ModelRow, CatalogError> {
    let found = models::find(conn, &canonical_model(name)).await?;
    found.ok_or_else(|| CatalogError::NotFound(format!("model `{name}` does not exist")))
}

pub(crate) async fn version(conn: &mut Conn, model_name: &str, name: &str) -> Result<(ModelRow, VersionRow), CatalogError> {
    let model = model(conn, model_name).await?;
    let found = versions::find(conn, model.id, name).await?;
    let version = found.ok_or_else(|| CatalogError::NotFound(format!("model `{}` has no version `{name}`", model.name)))?;
    Ok((model, version))
}

pub(crate) async fn variant(conn: &mut Conn, model_name: &str, version_name: &str, name: &str) -> Result<Place, CatalogError> {
    let (model, version) = version(conn, model_name, version_name).await?;
    let found = variants::find(conn, version.id, name).await?;
    let variant =
        found.ok_or_else(|| CatalogError::NotFound(format!("version `{}` of `{}` has no variant `{name}`", version.name, model.name)))?;
    Ok(Place { model, version, variant })
}

pub(crate) async fn artifact(conn: &mut Conn, place: &Place, digest: &str) -> Result<ArtifactRow, CatalogError> {
    let found = artifacts::find(conn, digest).await?.filter(|it| it.variant_id == place.variant.id);
    found.ok_or_else(|| CatalogError::NotFound(format!("{} has no artifact `{digest}`", place.path())))
}
