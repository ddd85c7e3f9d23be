//! The embedding API and the ops port.
//!
//! Enters: HTTP/1.1 and HTTP/2 on TCP and a Unix socket. Leaves: embeddings, figures, errors as JSON. Never: a panic, a wait of `/healthz`
//! or `/readyz` for a batch, a body past the limit in memory.
//!
//! Rooms, in reading order:
//! - [`server`]: sockets, connections, drain
//! - [`routes`]: which handler answers what, and the OpenAPI document
//! - `embed`, `models`, `ops`: the handlers of our own routes
//! - `openai`, `tei`: the same answers in other servers' shapes
//! - `pipeline`: one request's way through router, tokenizer and batcher; `question` is what enters it
//! - `record`: one observation a request, whatever becomes of it
//! - [`text_log`]: the opt-in `embed_request` event
//! - `body`, `caller`, `vectors`, `headers`, `error`: what comes in and how it goes out

mod body;
mod caller;
mod embed;
mod error;
mod headers;
mod models;
mod openai;
mod ops;
mod pipeline;
mod question;
mod record;
pub mod routes;
pub mod server;
mod tei;
pub mod text_log;
mod vectors;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::batcher::Batcher;
use crate::clock::Clock;
use crate::lease::Leases;
use crate::metrics::Metrics;
use crate::models::Demand;
use crate::serving::Table;
use crate::telemetry::Telemetry;
use crate::traces::Traces;

pub use routes::{api_router, document, ops_router};
pub use server::{Listener, serve};
pub use text_log::TextLog;

/// What handlers need; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// What can be served now.
    pub serving: Table,
    /// Where a request waits for what is not loaded.
    pub demand: Demand,
    /// The device.
    pub batcher: Batcher,
    /// Where observations go, and the cost figures.
    pub telemetry: Telemetry,
    /// Metrics.
    pub metrics: Metrics,
    /// Time.
    pub clock: Clock,
    /// Bounds of a request.
    pub limits: Limits,
    /// Whether this sidecar wants traffic.
    pub readiness: Readiness,
    /// Where spans go if that was asked for.
    pub traces: Traces,
    /// Where texts go if that was asked for.
    pub text_log: TextLog,
    /// Leases of experiments.
    pub leases: Leases,
}

/// Bounds of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body, bytes.
    pub body_bytes: usize,
    /// Bytes of a larger body that are read and thrown away, so that the client sees its 413.
    pub drain_bytes: usize,
    /// Most texts.
    pub texts: usize,
    /// Deadline of a request that names none.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes: 2 << 20, drain_bytes: 16 << 20, texts: 1_024, deadline: Duration::from_secs(30) }
    }
}

/// Whether this sidecar wants traffic: off while it drains. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    draining: Arc<AtomicBool>,
}

impl Readiness {
    /// `/readyz` answers 503 from here on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`Readiness::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
