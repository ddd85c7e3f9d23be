//! The gRPC service that sidecars speak to.
//!
//! Enters: messages of `akidb.v1`. Leaves: snapshots, marks, rows. Never: a rule of money or of the catalog.
//!
//! Rooms: [`watch`] one stream a sidecar, [`report`] telemetry, [`connections`] who is connected, [`identity`] checks of what a sidecar says
//! of itself.

pub(crate) mod connections;
pub(crate) mod identity;
pub(crate) mod report;
pub(crate) mod watch;

use std::sync::Arc;
use std::time::Duration;

use akidb_proto::v1::fleet_server::{Fleet, FleetServer};
use akidb_proto::{MAX_MESSAGE_BYTES, v1};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use self::connections::Connections;
use crate::access::{Access, AccessError, Caller};
use crate::clock::Clock;
use crate::db::{self, Db};
use crate::leases::Renewals;
use crate::metrics::Metrics;
use crate::publisher::Published;

/// How often a silent peer is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Serves sidecars until `stop`, then finishes what is in flight.
pub(crate) async fn serve(listener: TcpListener, fleet: FleetService, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
    let service = FleetServer::new(fleet).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
        .await
}

/// What the service needs; cheap to clone.
#[derive(Clone)]
pub(crate) struct FleetService {
    pub(crate) db: Db,
    pub(crate) access: Access,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) connections: Connections,
    pub(crate) published: tokio::sync::watch::Receiver<Arc<Published>>,
    pub(crate) renewals: Renewals,
    pub(crate) stop: CancellationToken,
    /// How long the marks of a sidecar outlive its last word.
    pub(crate) keep_marks: Duration,
}

#[tonic::async_trait]
impl Fleet for FleetService {
    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<v1::WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = self.caller(&request).await?;
        Ok(Response::new(watch::open(self.clone(), caller, request.into_inner()).await?))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let caller = self.caller(&request).await?;
        Ok(Response::new(report::count(self, &caller, request.into_inner()).await?))
    }
}

impl FleetService {
    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let header = request.metadata().get("authorization").and_then(|it| it.to_str().ok());
        let caller = self.access.caller(header).await.map_err(|error| match error {
            AccessError::Unauthenticated => Status::unauthenticated(error.to_string()),
            AccessError::TooMany => Status::resource_exhausted(error.to_string()),
            AccessError::Db(error) => internal(&error),
        })?;
        if caller.role == akidb_domain::vocabulary::Role::Viewer {
            return Err(Status::permission_denied("role `viewer` may not speak for a sidecar: use a token of role `sidecar`"));
        }
        Ok(caller)
    }
}

/// Logs the cause once; the peer gets none of it.
fn internal(error: &db::Error) -> Status {
    tracing::error!(%error, "the database failed");
    Status::unavailable("the control plane cannot use its database now: try again")
}
