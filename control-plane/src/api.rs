//! The admin REST API, as `docs/API/control-plane.md` has it.
//!
//! Enters: HTTP. Leaves: JSON. Never: SQL, a rule; handlers extract, call once, answer. The router and the `OpenAPI` document are one thing, so
//! they cannot differ.
//!
//! Rooms: [`error`] every failure's status, [`extract`] what handlers take, [`page`] lists, [`server`] connections; then one file an aggregate.

pub(crate) mod aliases;
pub(crate) mod artifacts;
pub(crate) mod audit;
pub(crate) mod blobs;
pub(crate) mod costs;
pub(crate) mod error;
pub(crate) mod experiments;
pub(crate) mod extract;
pub(crate) mod fleet;
pub(crate) mod imports;
pub(crate) mod models;
pub(crate) mod ops;
pub(crate) mod page;
pub(crate) mod prices;
pub(crate) mod server;
pub(crate) mod tokens;
pub(crate) mod variants;
pub(crate) mod versions;
pub(crate) mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::error::ApiError;
use crate::access::Access;
use crate::blobs::Blobs;
use crate::change::{Actor, Change};
use crate::clock::Clock;
use crate::db::{self, Db};
use crate::grpc::connections::Connections;
use crate::import::Importer;
use crate::metrics::Metrics;
use crate::publisher::Notifier;

/// Largest JSON body.
const MAX_BODY_BYTES: usize = 8 << 20;

/// What handlers need; cheap to clone.
#[derive(Clone)]
pub(crate) struct ApiState {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) notifier: Notifier,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) blobs: Blobs,
    pub(crate) importer: Importer,
    pub(crate) connections: Connections,
    pub(crate) openapi: Arc<str>,
    /// How long a lease lasts, as snapshots say.
    pub(crate) lease_ms: u64,
    /// How long a look is, for plans.
    pub(crate) look_ms: u64,
    /// Ends what would stream for ever.
    pub(crate) stop: CancellationToken,
}

impl ApiState {
    /// Opens a change in the caller's name.
    async fn change(&self, actor: Actor) -> Result<Change, db::Error> {
        Change::begin(&self.db, &self.notifier, actor, self.clock.now_ms()).await
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "AkiDB Inference control plane",
    description = "Models, engines, prices and costs of a fleet of embedding sidecars."
))]
struct Document;

/// Every route, and the document of them.
fn routes() -> (Router<ApiState>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi()).nest("/api/v1", v1()).merge(open()).split_for_parts()
}

fn v1() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(models::list, models::create))
        .routes(routes!(models::get, models::delete))
        .routes(routes!(versions::list, versions::create))
        .routes(routes!(versions::get, versions::delete))
        .routes(routes!(variants::list, variants::create))
        .routes(routes!(variants::get, variants::delete))
        .routes(routes!(artifacts::list, artifacts::create))
        .routes(routes!(artifacts::get, artifacts::delete))
        .routes(routes!(artifacts::evaluate))
        .routes(routes!(artifacts::set_state))
        .routes(routes!(aliases::list))
        .routes(routes!(aliases::get, aliases::put, aliases::delete))
        .routes(routes!(imports::create))
        .routes(routes!(imports::get))
        .routes(routes!(blobs::put, blobs::head))
        .routes(routes!(prices::list, prices::create))
        .routes(routes!(costs::costs))
        .routes(routes!(costs::per_request::cost_per_request))
        .routes(routes!(fleet::list))
        .routes(routes!(fleet::get))
        .routes(routes!(fleet::snapshot))
        .routes(routes!(experiments::list, experiments::create))
        .routes(routes!(experiments::validate))
        .routes(routes!(experiments::get))
        .routes(routes!(experiments::steps::start))
        .routes(routes!(experiments::steps::pause))
        .routes(routes!(experiments::steps::resume))
        .routes(routes!(experiments::steps::abort))
        .routes(routes!(experiments::steps::promote))
        .routes(routes!(experiments::decision::decision))
        .routes(routes!(experiments::decision::record))
        .routes(routes!(experiments::events::history))
        .routes(routes!(experiments::events::events))
        .routes(routes!(experiments::mesh::routes))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::delete))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
}

fn open() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(ops::healthz))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::metrics))
        .routes(routes!(ops::openapi))
}

/// The `OpenAPI` document as JSON.
pub(crate) fn openapi() -> Result<String, serde_json::Error> {
    routes().1.to_json()
}

/// The whole API as a service.
pub(crate) fn router(state: ApiState) -> Router {
    let (router, _) = routes();
    router
        .fallback(async || ApiError::NotFound("there is no such route: see /api/openapi.json".to_owned()))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(middleware::from_fn_with_state(state.clone(), extract::authorize))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(state.clone(), ops::measure))
        .with_state(state)
}
