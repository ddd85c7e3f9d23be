//! Which handler answers what. The OpenAPI document is made from the same list.
//!
//! Enters: state. Leaves: routers. Never: an answer that is not JSON, but for `/metrics`
//! and `/health`.

use std::any::Any;

use axum::Router;
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ApiError;
use super::openai::{self, OpenAiError};
use super::tei::{self, TeiError};
use super::{AppState, embed, models, ops};
use crate::tokenizer::pool::panic_message;

/// The embedding API, ops routes included.
pub fn api_router(state: AppState) -> Router {
    let router = Router::from(api()).with_state(state);
    finish(router)
}

/// `/healthz`, `/readyz` and `/metrics` only.
pub fn ops_router(state: AppState) -> Router {
    let router = Router::from(ops_routes()).with_state(state);
    finish(router)
}

/// The OpenAPI document of the embedding API.
pub fn document() -> OpenApi {
    api().into_openapi()
}

fn api() -> OpenApiRouter<AppState> {
    let info = InfoBuilder::new().title("AkiDB sidecar: embedding API").version(env!("CARGO_PKG_VERSION")).build();
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info).build())
        .routes(routes!(embed::embed))
        .routes(routes!(models::models))
        .routes(routes!(openai::embeddings))
        .routes(routes!(openai::models))
        .routes(routes!(openai::model))
        .routes(routes!(tei::embed))
        .routes(routes!(tei::embed_at_root))
        .routes(routes!(tei::info))
        .routes(routes!(tei::health))
        .routes(routes!(ops::cost_per_request))
        .routes(routes!(ops::openapi))
        .merge(ops_routes())
}

fn ops_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(ops::healthz)).routes(routes!(ops::readyz)).routes(routes!(ops::metrics))
}

fn finish(router: Router) -> Router {
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed).layer(CatchPanicLayer::custom(panicked))
}

async fn not_found(uri: Uri) -> Response {
    in_dialect(&uri, ApiError::NotFound { path: uri.path().chars().take(200).collect() })
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    in_dialect(&uri, ApiError::MethodNotAllowed { method: method.to_string() })
}

/// An error in the shape of the API that a path belongs to.
fn in_dialect(uri: &Uri, error: ApiError) -> Response {
    match uri.path() {
        "/" | "/embed" | "/info" | "/health" => TeiError(error).into_response(),
        path if path.starts_with("/v1/") => OpenAiError(error).into_response(),
        _ => error.into_response(),
    }
}

// The signature is the layer's.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    ApiError::Internal { cause: panic_message(panic.as_ref()) }.into_response()
}
