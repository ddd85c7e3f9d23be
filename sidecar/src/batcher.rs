//! Lanes, batches and the one executor of a device.
//!
//! Enters: token ids of requests, engines. Leaves: vectors, and observations of what the device did. Never: a request lost, answered
//! twice or waited for past its deadline; a second thread that runs an engine.
//!
//! Rooms, in reading order:
//! - [`policy`]: what runs next; pure
//! - `queue`: the work that waits, behind one lock
//! - `executor`: the thread that owns the engines

mod executor;
pub mod policy;
mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use akidb_domain::window::LaneId;

use crate::clock::Clock;
use crate::engine::{Engine, EngineError, TokenBatch};
use crate::metrics::Metrics;
use crate::telemetry::Telemetry;

/// An engine's place in the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EngineId(u64);

/// How batches are cut: `[embedding.batching]` and the bounds of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatcherConfig {
    /// `enabled`: false runs every request by itself.
    pub enabled: bool,
    /// `max_batch_size`: most texts in a batch.
    pub max_batch_size: usize,
    /// `max_wait_time_ms`: longest that a request waits for others.
    pub max_wait: Duration,
    /// `adaptive`: learn a shorter wait from arrivals and engine time.
    pub adaptive: bool,
    /// `max_batch_tokens`: most tokens in a batch, padding included; a longer text runs alone.
    pub max_batch_tokens: usize,
    /// `max_queued_texts`: most texts that wait.
    pub max_queued_texts: usize,
    /// `max_queued_ms`: most estimated work that waits.
    pub max_queued: Duration,
}

impl Default for BatcherConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            max_batch_size: 64,
            max_wait: Duration::from_millis(10),
            adaptive: true,
            max_batch_tokens: 512,
            max_queued_texts: 4_096,
            max_queued: Duration::from_secs(4),
        }
    }
}

/// A request's texts for one engine.
#[derive(Debug, Clone)]
pub struct Work {
    /// Lane it is counted in.
    pub lane: Arc<LaneId>,
    /// Engine that runs it.
    pub engine: EngineId,
    /// Token ids, one list a text.
    pub texts: Vec<Vec<u32>>,
    /// When an answer is no longer wanted.
    pub deadline: Instant,
    /// Who asks; apps share the device fairly.
    pub app: String,
}

/// A request's vectors and what they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// One a text, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Time waited.
    pub queue: Duration,
    /// Time of the batches that carried it.
    pub engine: Duration,
    /// Its part of those batches, by tokens; padding is shared in the same proportion.
    pub engine_share_ns: u64,
}

/// Why work was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Come back later.
    #[error("the queue is full")]
    QueueFull {
        /// When there should be room.
        retry_after: Duration,
    },
    /// Its time is up.
    #[error("the deadline has passed")]
    Deadline,
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
    /// The engine was removed before the work came; the table has a newer one.
    #[error("the engine is gone")]
    Gone,
    /// The batcher has stopped.
    #[error("the batcher has stopped")]
    Closed,
}

/// The handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Batcher {
    queue: Arc<queue::Queue>,
    next_engine: Arc<AtomicU64>,
}

impl Batcher {
    /// Starts the executor's thread.
    pub fn start(config: BatcherConfig, telemetry: Telemetry, metrics: Metrics, clock: Clock) -> std::io::Result<(Self, JoinHandle<()>)> {
        let _ = (telemetry, metrics, clock, config);
        Err(std::io::Error::other("not yet"))
    }

    /// Takes an engine in.
    pub async fn install(&self, engine: Box<dyn Engine>) -> EngineId {
        let _ = engine;
        EngineId(self.next_engine.fetch_add(1, Ordering::Relaxed))
    }

    /// Drops an engine once the work queued for it is done.
    pub async fn remove(&self, engine: EngineId) {
        let _ = engine;
    }

    /// Runs a batch that no request asked for, when there is nothing better to do.
    pub async fn run_overhead(&self, engine: EngineId, batch: TokenBatch, cause: &'static str, model: &str, variant: &str) -> Result<Vec<f32>, EngineError> {
        let _ = (engine, batch, cause, model, variant);
        Err(EngineError::Run("the batcher has stopped".into()))
    }

    /// Runs a request's texts.
    pub async fn submit(&self, work: Work) -> Result<Embedded, BatchError> {
        let _ = work;
        Err(BatchError::Closed)
    }

    /// Takes no more work, and ends the executor when the queue is empty or `deadline` has come.
    pub async fn shutdown(&self, deadline: Instant) {
        let _ = deadline;
    }
}
