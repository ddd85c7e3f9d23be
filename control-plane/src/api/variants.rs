//! Variants of versions. Enters: names. Leaves: variants. Never: one deleted that an alias names.

use akidb_domain::vocabulary::Precision;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Who};
use super::page::Page;
use super::view::VariantView;
use crate::catalog::{cards, find};
use crate::db::variants;

/// A new variant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewVariant {
    /// Not the name of an alias.
    name: String,
    /// `fp32`, `tf32`, `fp16`, `fp8` or `int8`.
    #[schema(value_type = String)]
    precision: Precision,
}

/// A page of variants.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Variants {
    variants: Vec<VariantView>,
    next: Option<String>,
}

/// Lists a version's variants.
#[utoipa::path(get, path = "/models/{model}/versions/{version}/variants", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), Page), responses((status = 200, body = Variants), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Path((model, version)): Path<(String, String)>,
    Params(page): Params<Page>,
) -> Result<Json<Variants>, ApiError> {
    let mut conn = state.db.reader().await?;
    let (_, version) = find::version(&mut conn, &model, &version).await?;
    let mut rows = variants::list(&mut conn, version.id, page.after_number()?, page.fetch()?).await?;
    let next = page.cut(&mut rows, |it| it.id.to_string())?;
    Ok(Json(Variants { variants: rows.into_iter().map(Into::into).collect(), next }))
}

/// Creates a variant.
#[utoipa::path(post, path = "/models/{model}/versions/{version}/variants", tag = "catalog", params(("model" = String, Path), ("version" = String, Path)), request_body = NewVariant, responses((status = 201, body = VariantView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    who: Who,
    Path((model, version)): Path<(String, String)>,
    Body(new): Body<NewVariant>,
) -> Result<(StatusCode, Json<VariantView>), ApiError> {
    let mut change = state.change(who.actor()).await?;
    let (model, version) = find::version(change.conn(), &model, &version).await?;
    let place = cards::create_variant(&mut change, model, version, &new.name, new.precision).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(place.variant.into())))
}

/// A variant.
#[utoipa::path(get, path = "/models/{model}/versions/{version}/variants/{variant}", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), ("variant" = String, Path)), responses((status = 200, body = VariantView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    Path((model, version, variant)): Path<(String, String, String)>,
) -> Result<Json<VariantView>, ApiError> {
    let place = find::variant(&mut *state.db.reader().await?, &model, &version, &variant).await?;
    Ok(Json(place.variant.into()))
}

/// Deletes a variant without artifacts that no alias names.
#[utoipa::path(delete, path = "/models/{model}/versions/{version}/variants/{variant}", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), ("variant" = String, Path)), responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    who: Who,
    Path((model, version, variant)): Path<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    let mut change = state.change(who.actor()).await?;
    let place = find::variant(change.conn(), &model, &version, &variant).await?;
    cards::delete_variant(&mut change, &place).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
