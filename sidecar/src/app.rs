//! Wiring and shutdown: the only room that sees all the others.
//!
//! Enters: a [`Config`]. Leaves: a running sidecar. Never: logic of a room.

pub mod build_engine;
#[cfg(feature = "tensorrt")]
mod gpus;
mod start;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

pub use start::StartError;

use crate::artifacts::Artifacts;
use crate::config::{Config, LogFormat, Logs};
use crate::http::{self, AppState, Listener};
use crate::models::Models;
use crate::telemetry::{Recorder, Spool};

/// A sidecar whose parts are there and whose sockets are bound.
#[derive(Debug)]
pub struct App {
    /// What the HTTP room works with.
    pub state: AppState,
    /// Where the embedding API listens.
    pub address: SocketAddr,
    /// Where the ops routes listen.
    pub ops_address: SocketAddr,
    /// Engines.
    pub models: Models,
    pub(crate) config: Config,
    pub(crate) recorder: Recorder,
    pub(crate) spool: Spool,
    pub(crate) artifacts: Artifacts,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) ops: Listener,
    pub(crate) control: Option<crate::control::Control>,
    pub(crate) tasks: Vec<JoinHandle<()>>,
    pub(crate) stop: CancellationToken,
}

/// Part of the drain deadline that is kept for telemetry.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long `/readyz` says no before the sockets close, so that nobody is sent to a closed door.
const NOTICE: Duration = Duration::from_millis(200);

impl App {
    /// Makes every part. Errors are about the configuration or the machine; what can heal by itself is not one of them.
    pub async fn build(config: Config) -> Result<Self, StartError> {
        Box::pin(start::build(config, None)).await
    }

    /// As [`App::build`], with a store of the caller's.
    pub async fn build_with_store(config: Config, store: akidb_store::Store) -> Result<Self, StartError> {
        Box::pin(start::build(config, Some(store))).await
    }

    /// Serves until `shutdown`, then drains: no new requests, those in flight end, the last window is cut and reported.
    pub async fn run(self, shutdown: CancellationToken) {
        let grace = self.config.server.drain_timeout;
        let sockets = CancellationToken::new();
        let api = http::api_router(self.state.clone());
        let mut servers = Vec::new();
        for listener in self.listeners {
            servers.push(tokio::spawn(http::serve(listener, api.clone(), sockets.clone(), grace)));
        }
        let ops = tokio::spawn(http::serve(self.ops, http::ops_router(self.state.clone()), self.stop.clone(), NOTICE));
        tracing::info!(api = %self.address, ops = %self.ops_address, "listening");
        shutdown.cancelled().await;

        tracing::info!(deadline_ms = grace.as_millis() as u64, "draining");
        let deadline = Instant::now() + grace;
        self.state.readiness.drain();
        tokio::time::sleep(NOTICE.min(grace)).await;
        sockets.cancel();
        for server in servers {
            join(server).await;
        }
        self.state.batcher.shutdown(deadline).await;
        self.recorder.close().await;
        self.spool.flush().await;
        if let Some(control) = &self.control {
            control.flush(LAST_WORDS.max(deadline.saturating_duration_since(Instant::now()))).await;
        }
        let traces = self.state.traces.clone();
        join(tokio::task::spawn_blocking(move || traces.flush())).await;
        self.artifacts.close();
        self.stop.cancel();
        join(ops).await;
        for task in self.tasks {
            join(task).await;
        }
        if let Some(socket) = &self.config.server.unix_socket {
            // It may be gone already.
            drop(std::fs::remove_file(socket));
        }
        tracing::info!("ended");
    }
}

/// Starts logging.
pub fn log(logs: &Logs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&logs.level).map_err(|e| anyhow::anyhow!("`logs.level` (`AKIDB_LOG`): `{}`: {e}", logs.level))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let started = match logs.format {
        LogFormat::Text => lines.try_init(),
        // Flat, so that `grep "embed_request" | jq -r '.text'` works.
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("logging cannot be started: {e}"))
}

/// Cancels `shutdown` at SIGTERM or SIGINT.
pub fn on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

async fn join(task: JoinHandle<()>) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        tracing::error!(%error, "a task ended with a panic");
    }
}
