//! Models. Enters: names. Leaves: models, alone or with all that belongs to them. Never: a model with versions deleted.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Who};
use super::page::Page;
use super::view::{AliasView, ArtifactView, ModelView, VariantView, VersionView};
use crate::catalog::{cards, find};
use crate::db::{Conn, aliases, artifacts, models, variants, versions};

/// Most of anything inside a model that its tree shows.
const MOST: i64 = 1_000;

/// A new model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewModel {
    /// 1-128 of `A-Za-z0-9._-`.
    name: String,
    #[serde(default)]
    description: String,
}

/// A page of models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Models {
    models: Vec<ModelView>,
    next: Option<String>,
}

/// A model with all that belongs to it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelTree {
    #[serde(flatten)]
    model: ModelView,
    versions: Vec<VersionTree>,
    aliases: Vec<AliasView>,
}

/// A version with its variants.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionTree {
    #[serde(flatten)]
    version: VersionView,
    variants: Vec<VariantTree>,
}

/// A variant with its artifacts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VariantTree {
    #[serde(flatten)]
    variant: VariantView,
    artifacts: Vec<ArtifactView>,
}

/// Lists models.
#[utoipa::path(get, path = "/models", tag = "catalog", params(Page), responses((status = 200, body = Models), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(State(state): State<ApiState>, Params(page): Params<Page>) -> Result<Json<Models>, ApiError> {
    let mut rows = models::list(&mut *state.db.reader().await?, page.after_number()?, page.fetch()?).await?;
    let next = page.cut(&mut rows, |it| it.id.to_string())?;
    Ok(Json(Models { models: rows.into_iter().map(Into::into).collect(), next }))
}

/// Creates a model.
#[utoipa::path(post, path = "/models", tag = "catalog", request_body = NewModel, responses((status = 201, body = ModelView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    who: Who,
    Body(new): Body<NewModel>,
) -> Result<(StatusCode, Json<ModelView>), ApiError> {
    let mut change = state.change(who.actor()).await?;
    let model = cards::create_model(&mut change, &new.name, &new.description).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(model.into())))
}

/// A model with versions, variants, artifacts and aliases inside.
#[utoipa::path(get, path = "/models/{model}", tag = "catalog", params(("model" = String, Path)), responses((status = 200, body = ModelTree), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn get(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Json<ModelTree>, ApiError> {
    let mut tx = state.db.begin_read().await?;
    let model = find::model(&mut tx, &name).await?;
    let aliases = aliases::list(&mut tx, model.id).await?.into_iter().map(Into::into).collect();
    let mut trees = Vec::new();
    for version in versions::list(&mut tx, model.id, 0, MOST).await? {
        let variants = variant_trees(&mut tx, version.id).await?;
        trees.push(VersionTree { version: version.into(), variants });
    }
    Ok(Json(ModelTree { model: model.into(), versions: trees, aliases }))
}

async fn variant_trees(conn: &mut Conn, version_id: i64) -> Result<Vec<VariantTree>, ApiError> {
    let mut trees = Vec::new();
    for variant in variants::list(conn, version_id, 0, MOST).await? {
        let mut views = Vec::new();
        for row in artifacts::list(conn, variant.id, "", MOST).await? {
            views.push(ArtifactView::load(conn, row).await?);
        }
        trees.push(VariantTree { variant: variant.into(), artifacts: views });
    }
    Ok(trees)
}

/// Deletes a model without versions.
#[utoipa::path(delete, path = "/models/{model}", tag = "catalog", params(("model" = String, Path)), responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn delete(State(state): State<ApiState>, who: Who, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let mut change = state.change(who.actor()).await?;
    cards::delete_model(&mut change, &name).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
