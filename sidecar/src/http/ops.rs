//! Health, metrics, figures, the document. Enters: state. Leaves: text or JSON. Never: a wait for the device.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::error::ApiError;
use super::routes::document;
use crate::serving::Serving;
use crate::telemetry::CostReport;

/// Whether this sidecar lives or wants traffic.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`, or `not_ready`.
    status: &'static str,
    /// Why not; empty otherwise.
    reason: String,
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok", reason: String::new() })
}

/// The default model is warm.
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = Health), (status = 503, body = Health)))]
pub(super) async fn readyz(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    match readiness(&state) {
        Ok(()) => (StatusCode::OK, Json(Health { status: "ok", reason: String::new() })),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "not_ready", reason })),
    }
}

/// Why this sidecar wants no traffic.
pub(super) fn readiness(state: &AppState) -> Result<(), String> {
    if state.readiness.draining() {
        return Err("this sidecar is shutting down".into());
    }
    if let Some(why) = state.batcher.fault() {
        return Err(format!("the device runs nothing any more: {why}"));
    }
    warm(&state.serving.load())
}

/// Whether the default model's default variant is loaded.
fn warm(serving: &Serving) -> Result<(), String> {
    let Some(name) = &serving.default_model else { return Err("no default model is configured yet".into()) };
    let Some(model) = serving.models.get(name) else { return Err(format!("the default model `{name}` is not known yet")) };
    let at = &model.default;
    let variant = model.variants.iter().find(|it| it.version == at.version && it.name == at.variant);
    match variant {
        Some(it) if it.loaded.is_some() => Ok(()),
        Some(it) => {
            let reason = if it.reason.is_empty() { String::new() } else { format!(": {}", it.reason) };
            Err(format!("`{}@{}` is {}{reason}", model.name, at.variant, it.state.as_str()))
        }
        None => Err(format!("`{}@{}` is not known yet", model.name, at.variant)),
    }
}

/// Prometheus text.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    state.metrics.set_ready(readiness(&state).is_ok());
    let text = state.metrics.render().map_err(|it| ApiError::Internal { cause: it.to_string() })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// What this sidecar has cost since its start.
#[utoipa::path(get, path = "/api/v1/cost-per-request", responses((status = 200, body = CostReport)))]
pub(super) async fn cost_per_request(State(state): State<AppState>) -> Json<CostReport> {
    Json(state.telemetry.cost())
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", responses((status = 200, body = serde_json::Value)))]
pub(super) async fn openapi() -> Response {
    Json(document()).into_response()
}
