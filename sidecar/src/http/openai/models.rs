//! `GET /v1/models` and `GET /v1/models/{id}`. Enters: the table. Leaves: OpenAI's list. Never: a wait.

use akidb_domain::snapshot::VariantRef;
use akidb_domain::vocabulary::ModelRef;
use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{OpenAiError, OpenAiErrorBody};
use crate::http::AppState;
use crate::http::error::ApiError;
use crate::router;
use crate::serving::Model;

/// OpenAI's list of models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiModels {
    /// `list`
    object: &'static str,
    /// By name.
    data: Vec<OpenAiModel>,
}

/// OpenAI's word on a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiModel {
    /// What `model` of a request may say.
    id: String,
    /// `model`
    object: &'static str,
    /// When it became ready here, Unix seconds; 0 while it is not loaded.
    created: u64,
    /// `akidb`
    owned_by: &'static str,
}

/// Lists models, as OpenAI's API does.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = OpenAiModels)))]
pub(crate) async fn models(State(state): State<AppState>) -> Json<OpenAiModels> {
    let serving = state.serving.load();
    let data = serving.models.values().map(|it| entry(it.name.clone(), it, &it.default)).collect();
    Json(OpenAiModels { object: "list", data })
}

/// One model, as OpenAI's API has it.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "OpenAI", params(("id" = String, Path, description = "`name`, `name@alias` or `name@variant`")),
    responses(
        (status = 200, body = OpenAiModel),
        (status = 400, body = OpenAiErrorBody, description = "The id is not UTF-8"),
        (status = 404, body = OpenAiErrorBody, description = "Unknown model or variant"),
    ))]
pub(crate) async fn model(
    State(state): State<AppState>,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<OpenAiModel>, OpenAiError> {
    let Path(id) = id.map_err(|it| ApiError::Malformed(it.to_string()))?;
    let serving = state.serving.load();
    let asked: ModelRef = id.parse().map_err(|_| ApiError::from(router::unknown_model(&serving, &id)))?;
    let (model, variant) = router::find_named(&serving, &asked).map_err(ApiError::from)?;
    let id = asked.selector.as_ref().map_or_else(|| model.name.clone(), |it| format!("{}@{it}", model.name));
    Ok(Json(entry(id, model, &variant)))
}

fn entry(id: String, model: &Model, at: &VariantRef) -> OpenAiModel {
    let variant = model.variants.iter().find(|it| it.version == at.version && it.name == at.variant);
    let created = variant.and_then(|it| it.loaded.as_ref()).map_or(0, |it| it.loaded_at_ns / 1_000_000_000);
    OpenAiModel { id, object: "model", created, owned_by: "akidb" }
}
