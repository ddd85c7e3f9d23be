//! Versions of models. Enters: cards. Leaves: versions. Never: a change of one.

use std::collections::BTreeMap;

use akidb_domain::bundle::ModelCard;
use akidb_domain::vocabulary::Pooling;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Who};
use super::page::Page;
use super::view::VersionView;
use crate::catalog::{cards, find};
use crate::db::versions;

/// A new version.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewVersion {
    name: String,
    dimension: u32,
    max_tokens: u32,
    /// `mean` or `cls`.
    #[schema(value_type = String)]
    pooling: Pooling,
    normalized: bool,
    embedding_space: String,
    tokenizer_sha256: String,
    license: Option<String>,
    source: Option<String>,
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    #[serde(default)]
    seeded: bool,
}

/// A page of versions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Versions {
    versions: Vec<VersionView>,
    next: Option<String>,
}

/// Lists a model's versions.
#[utoipa::path(get, path = "/models/{model}/versions", tag = "catalog", params(("model" = String, Path), Page), responses((status = 200, body = Versions), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Path(model): Path<String>,
    Params(page): Params<Page>,
) -> Result<Json<Versions>, ApiError> {
    let mut conn = state.db.reader().await?;
    let model = find::model(&mut conn, &model).await?;
    let mut rows = versions::list(&mut conn, model.id, page.after_number()?, page.fetch()?).await?;
    let next = page.cut(&mut rows, |it| it.id.to_string())?;
    Ok(Json(Versions { versions: rows.into_iter().map(Into::into).collect(), next }))
}

/// Creates a version.
#[utoipa::path(post, path = "/models/{model}/versions", tag = "catalog", params(("model" = String, Path)), request_body = NewVersion, responses((status = 201, body = VersionView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    who: Who,
    Path(model): Path<String>,
    Body(new): Body<NewVersion>,
) -> Result<(StatusCode, Json<VersionView>), ApiError> {
    let mut change = state.change(who.actor()).await?;
    let model = find::model(change.conn(), &model).await?;
    let card = ModelCard {
        name: model.name.clone(),
        source: new.source,
        license: new.license,
        dimension: new.dimension,
        max_tokens: new.max_tokens,
        pooling: new.pooling,
        normalized: new.normalized,
        embedding_space: new.embedding_space,
        tokenizer_sha256: new.tokenizer_sha256,
        prompts: new.prompts,
        seeded: new.seeded,
    };
    let version = cards::create_version(&mut change, &model, &new.name, &card).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(version.into())))
}

/// A version.
#[utoipa::path(get, path = "/models/{model}/versions/{version}", tag = "catalog", params(("model" = String, Path), ("version" = String, Path)), responses((status = 200, body = VersionView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<VersionView>, ApiError> {
    let (_, version) = find::version(&mut *state.db.reader().await?, &model, &version).await?;
    Ok(Json(version.into()))
}

/// Deletes a version without variants.
#[utoipa::path(delete, path = "/models/{model}/versions/{version}", tag = "catalog", params(("model" = String, Path), ("version" = String, Path)), responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    who: Who,
    Path((model, version)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let mut change = state.change(who.actor()).await?;
    cards::delete_version(&mut change, &model, &version).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
