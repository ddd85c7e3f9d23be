//! `GET /api/v1/models`. Enters: the table. Leaves: JSON. Never: a wait.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use crate::serving::{Model, Serving, Variant, VariantState};
use crate::telemetry::rfc3339;

/// Everything that can be asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// By name.
    models: Vec<ModelEntry>,
    /// Configured entries that cannot be served, and why.
    problems: Vec<String>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
struct ModelEntry {
    /// As in the catalog.
    name: String,
    /// Length of an embedding.
    dimension: u32,
    /// Tokens kept of a text.
    max_tokens: u32,
    /// Only vectors with the same id may be compared.
    embedding_space: String,
    /// Random weights: for speed and size only, its vectors mean nothing.
    seeded: bool,
    /// Variant that a request without `@` gets.
    default_variant: String,
    /// Its number format; null while it is not known.
    default_precision: Option<&'static str>,
    /// Every variant known.
    variants: Vec<VariantEntry>,
}

/// One variant.
#[derive(Debug, Serialize, ToSchema)]
struct VariantEntry {
    /// Name.
    name: String,
    /// Version it belongs to.
    version: String,
    /// Number format.
    precision: &'static str,
    /// What runs it; null while it is not loaded.
    provider: Option<&'static str>,
    /// `pulling`, `cached`, `loading`, `ready` or `failed`.
    state: &'static str,
    /// Part of the files that is here, 0 to 1.
    progress: f64,
    /// Of the artifact chosen; empty while none fits.
    digest: String,
    /// Memory of the host that its engine takes, of both where CPU and GPU share theirs; null while it is not loaded.
    memory_bytes: Option<u64>,
    /// Memory that it takes on each GPU that serves; null while it is not loaded.
    gpu_memory_bytes: Option<u64>,
    /// RFC 3339; null while it is not loaded.
    loaded_at: Option<String>,
    /// Of a failure or a fallback.
    reason: String,
}

/// Lists models and their variants.
#[utoipa::path(get, path = "/api/v1/models", responses((status = 200, body = ModelList)))]
pub(super) async fn models(State(state): State<AppState>) -> Json<ModelList> {
    Json(list(&state.serving.load()))
}

fn list(serving: &Serving) -> ModelList {
    ModelList { models: serving.models.values().map(model).collect(), problems: serving.problems.clone() }
}

fn model(model: &Model) -> ModelEntry {
    let default = model.variants.iter().find(|it| it.name == model.default.variant && it.version == model.default.version);
    ModelEntry {
        name: model.name.clone(),
        dimension: model.dimension,
        max_tokens: model.max_tokens,
        embedding_space: model.embedding_space.clone(),
        seeded: model.seeded,
        default_variant: model.default.variant.clone(),
        default_precision: default.map(|it| it.precision.as_str()),
        variants: model.variants.iter().map(variant).collect(),
    }
}

fn variant(variant: &Variant) -> VariantEntry {
    let loaded = variant.loaded.as_ref();
    VariantEntry {
        name: variant.name.clone(),
        version: variant.version.clone(),
        precision: variant.precision.as_str(),
        provider: loaded.map(|it| it.provider.as_str()),
        state: variant.state.as_str(),
        progress: progress(variant.state),
        digest: variant.digest.clone(),
        memory_bytes: loaded.map(|it| it.residence.memory_bytes),
        gpu_memory_bytes: loaded.map(|it| it.residence.gpu_memory_bytes),
        loaded_at: loaded.map(|it| rfc3339(it.loaded_at_ns)),
        reason: variant.reason.clone(),
    }
}

fn progress(state: VariantState) -> f64 {
    match state {
        VariantState::Pulling { done, total } => done.min(total) as f64 / total.max(1) as f64,
        VariantState::Cached | VariantState::Loading | VariantState::Ready => 1.0,
        VariantState::Failed => 0.0,
    }
}
