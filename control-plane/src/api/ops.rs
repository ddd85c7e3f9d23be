//! What operators ask without a token. Enters: nothing. Leaves: life, readiness, metrics, the API's own description. Never: data.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{AppendHeaders, IntoResponse, Response};

use super::ApiState;
use super::error::ApiError;
use crate::db::meta;

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "ops", responses((status = 200, body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// The database answers.
#[utoipa::path(get, path = "/readyz", tag = "ops", responses((status = 200, body = String), (status = 503)))]
pub(crate) async fn readyz(State(state): State<ApiState>) -> Result<&'static str, ApiError> {
    let mut conn = state.db.reader().await.map_err(|_| ApiError::NotReady)?;
    meta::version(&mut conn).await.map_err(|_| ApiError::NotReady)?;
    Ok("ready\n")
}

/// Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "ops", responses((status = 200, body = String)))]
pub(crate) async fn metrics(State(state): State<ApiState>) -> Result<impl IntoResponse, ApiError> {
    let text = state.metrics.render().map_err(|e| ApiError::Internal(e.to_string()))?;
    Ok((AppendHeaders([(header::CONTENT_TYPE, "text/plain; version=0.0.4")]), text))
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "ops", responses((status = 200, body = Object)))]
pub(crate) async fn openapi(State(state): State<ApiState>) -> impl IntoResponse {
    (AppendHeaders([(header::CONTENT_TYPE, "application/json")]), state.openapi.to_string())
}

/// Counts answers by status class.
pub(crate) async fn measure(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let class = match response.status() {
        it if it.is_success() => "2xx",
        it if it.is_redirection() => "3xx",
        it if it.is_client_error() => "4xx",
        _ => "5xx",
    };
    state.metrics.rest_requests.with_label_values(&[class]).inc();
    response
}
