//! The wiring: every room, its task and its address.
//!
//! Enters: a configuration and a clock. Leaves: a server that runs until told to stop, then drains. Never: behaviour of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use akidb_store::Store;
use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::api::{self, ApiState};
use crate::blobs::Blobs;
use crate::change::{Actor, Change};
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::db::{Db, imports, meta};
use crate::decider::Decider;
use crate::grpc::connections::Connections;
use crate::grpc::{self, FleetService};
use crate::import::Importer;
use crate::leases;
use crate::metrics::Metrics;
use crate::publisher::{Notifier, Published, Publisher};
use crate::retention::Retention;
use crate::token;

/// A control plane that is ready to run.
pub struct App {
    config: Config,
    data_dir: DataDir,
    rest: TcpListener,
    grpc: TcpListener,
    db: Db,
    api: ApiState,
    fleet: FleetService,
    publisher: Publisher,
    decider: Decider,
    retention: Retention,
    stop: CancellationToken,
}

impl App {
    /// Opens the database, binds both addresses, leaves a first admin token when there is none.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let data_dir = DataDir::hold(&config.data_dir)?;
        let db = Db::open(&data_dir.database()).await.with_context(|| format!("database `{}`", data_dir.database().display()))?;
        let notifier = Notifier::new();
        start(&db, &notifier, clock.now_ms()).await?;
        token::first_admin(&db, &notifier, &config.admin_token_file, clock.now_ms()).await?;
        let (metrics, stop) = (Arc::new(Metrics::new()?), CancellationToken::new());
        let access = Access::new(db.clone(), metrics.clone());
        let connections = Connections::new(metrics.clone());
        let blobs = Blobs::new(Store::new(config.s3.clone()), config.artifact_store.clone(), data_dir.incoming()?, config.max_blob_bytes);
        let importer = Importer::new(db.clone(), blobs.clone(), clock.clone(), notifier.clone(), metrics.clone(), stop.child_token());
        let (newest, snapshots) = watch::channel(Arc::new(Published::default()));
        let publisher = Publisher {
            db: db.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            debounce: config.snapshot_debounce,
            lease: config.experiments.lease,
            notifier: notifier.clone(),
            published: newest,
        };
        publisher.publish().await?;
        let (renewer, renewals) = leases::channel(config.experiments.lease);
        let decider = Decider {
            db: db.clone(),
            clock: clock.clone(),
            notifier: notifier.clone(),
            metrics: metrics.clone(),
            connections: connections.clone(),
            config: config.experiments,
            leases: renewer,
            since_ns: clock.now_ns(),
        };
        let fleet = FleetService {
            db: db.clone(),
            access: access.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            connections: connections.clone(),
            published: snapshots,
            renewals,
            stop: stop.child_token(),
            keep_marks: config.retention.sidecars,
        };
        let retention =
            Retention { db: db.clone(), clock: clock.clone(), keep: config.retention, experiment_windows: config.experiments.windows };
        let openapi = api::openapi()?.into();
        let lease_ms = config.experiments.lease.as_millis() as u64;
        let (look_ms, until) = (config.experiments.look.as_millis() as u64, stop.child_token());
        let api = ApiState {
            db: db.clone(),
            access,
            clock,
            notifier,
            metrics,
            blobs,
            importer,
            connections,
            openapi,
            lease_ms,
            look_ms,
            stop: until,
        };
        let rest = bind(config.listen_rest).await?;
        let grpc = bind(config.listen_grpc).await?;
        Ok(Self { config, data_dir, rest, grpc, db, api, fleet, publisher, decider, retention, stop })
    }

    /// Where REST is answered.
    pub fn rest_addr(&self) -> std::io::Result<SocketAddr> {
        self.rest.local_addr()
    }

    /// Where gRPC is answered.
    pub fn grpc_addr(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Serves until `shutdown`, then drains for at most the configured time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { config, data_dir, rest, grpc, db, api, fleet, publisher, decider, retention, stop } = self;
        tracing::info!(rest = %rest.local_addr()?, grpc = %grpc.local_addr()?, data_dir = %data_dir.path().display(), "control plane is up");
        let (tasks, imports) = (TaskTracker::new(), api.importer.tasks.clone());
        tasks.spawn(publisher.run(stop.child_token()));
        tasks.spawn(decider.run(stop.child_token()));
        tasks.spawn(retention.run(stop.child_token()));
        let mut serving = tasks.spawn(serve(rest, grpc, api, fleet, stop.clone()));
        let early = tokio::select! {
            () = shutdown => None,
            ended = &mut serving => Some(ended),
        };
        tracing::info!("control plane stops");
        stop.cancel();
        tasks.close();
        imports.close();
        let drained = tokio::time::timeout(config.shutdown_deadline, async { tokio::join!(tasks.wait(), imports.wait()) }).await;
        if drained.is_err() {
            tracing::warn!("requests were still open at the deadline and are cut off");
        }
        db.close().await;
        drop(data_dir);
        early.map_or(Ok(()), |ended| ended.context("the server's task failed")?)
    }
}

async fn serve(rest: TcpListener, grpc: TcpListener, api: ApiState, fleet: FleetService, stop: CancellationToken) -> anyhow::Result<()> {
    let rest = api::server::serve(rest, api::router(api), api::server::PATIENCE, stop.clone());
    let grpc = async { grpc::serve(grpc, fleet, stop.clone()).await.context("the gRPC server failed") };
    let rest = async {
        rest.await;
        Ok(())
    };
    tokio::try_join!(grpc, rest)?;
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("`{address}` cannot be listened on"))
}

/// What every start writes.
async fn start(db: &Db, notifier: &Notifier, at: i64) -> anyhow::Result<()> {
    let mut change = Change::begin(db, notifier, Actor::system(), at).await?;
    meta::initialise(change.conn(), &uuid::Uuid::new_v4().to_string(), at).await?;
    let cut = imports::fail_running(change.conn(), "the control plane stopped before the import was done: start it again", at).await?;
    if cut > 0 {
        change.audit("import.fail", "imports", serde_json::json!({"count": cut, "error": "stopped"})).await?;
    }
    change.commit().await?;
    Ok(())
}
