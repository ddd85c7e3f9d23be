//! `GET /info` and `GET /health`. Enters: the table. Leaves: TEI's word on the default model. Never: a number that is not so.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{TeiError, TeiErrorBody};
use crate::http::error::ApiError;
use crate::http::{AppState, ops};
use crate::router::{self, RouteError};
use crate::serving::Loaded;

/// What serves. TEI's limits on concurrency and batches have no counterpart here and are left out.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiInfo {
    /// The default model.
    model_id: String,
    /// Digest of its artifact.
    model_sha: String,
    /// Number format: `float32`, `float16`, ...
    model_dtype: &'static str,
    /// What it is for.
    model_type: TeiModelType,
    /// Tokens of a text.
    max_input_length: u32,
    /// Texts of a request.
    max_client_batch_size: usize,
    /// Whether a request without `truncate` is cut.
    auto_truncate: bool,
    /// Of this sidecar.
    version: &'static str,
}

/// What the model is for.
#[derive(Debug, Serialize, ToSchema)]
struct TeiModelType {
    /// It embeds.
    embedding: TeiEmbeddingModel,
}

/// How it embeds.
#[derive(Debug, Serialize, ToSchema)]
struct TeiEmbeddingModel {
    /// How token vectors become one: `mean` or `cls`.
    pooling: &'static str,
}

/// The default model, as TEI tells it.
#[utoipa::path(get, path = "/info", tag = "TEI", responses(
    (status = 200, body = TeiInfo),
    (status = 503, body = TeiErrorBody, description = "Not ready; see retry-after"),
))]
pub(crate) async fn info(State(state): State<AppState>) -> Result<Json<TeiInfo>, TeiError> {
    let serving = state.serving.load();
    let found = router::default_loaded(&serving).map_err(|it: RouteError| ApiError::from(it))?;
    Ok(Json(describe(found, state.limits.texts)))
}

/// Whether the default model is warm: an empty 200, as TEI answers.
#[utoipa::path(get, path = "/health", tag = "TEI", responses(
    (status = 200, description = "Ready; no body"),
    (status = 503, body = TeiErrorBody, description = "Not ready; see retry-after"),
))]
pub(crate) async fn health(State(state): State<AppState>) -> Result<(), TeiError> {
    Ok(ops::readiness(&state).map_err(ApiError::NotReady)?)
}

fn describe(loaded: &Loaded, most: usize) -> TeiInfo {
    TeiInfo {
        model_id: loaded.model.clone(),
        model_sha: loaded.digest.clone(),
        model_dtype: dtype(loaded.precision.as_str()),
        model_type: TeiModelType { embedding: TeiEmbeddingModel { pooling: loaded.pooling.as_str() } },
        max_input_length: loaded.max_tokens,
        max_client_batch_size: most,
        auto_truncate: false,
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// TEI's word for a precision, where it has one.
fn dtype(precision: &'static str) -> &'static str {
    match precision {
        "fp32" => "float32",
        "fp16" => "float16",
        other => other,
    }
}
