//! Lanes, batches and the executors of a device.
//!
//! Enters: token ids of requests, engines. Leaves: vectors, and observations of what the device did. Never: a request lost, answered
//! twice or waited for past its deadline; a second thread that runs a context of an engine.
//!
//! On a CPU there is one executor. For GPUs there is one for each execution context, so that one batch is prepared and answered while the
//! device runs another; whichever is free takes the next batch.
//!
//! Rooms, in reading order:
//! - [`policy`]: what runs next; pure
//! - [`probes`]: an experiment's batches, once more on both its engines
//! - [`budget`]: how many tokens a batch of an engine should hold
//! - `queue`: the work that waits, behind one lock
//! - `executor`: a thread that owns engines
//! - `row`: a vector in the memory of its batch

pub mod budget;
mod executor;
pub mod policy;
pub mod probes;
mod queue;
mod row;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use akidb_domain::window::LaneId;
use tokio::sync::oneshot;

use executor::Executor;
use probes::Judge;
use queue::{Answered, Overhead, Queue};

use crate::config::{MAX_CONTEXTS, MAX_DEVICES};
use crate::engine::{Engine, EngineError, TokenBatch};
use crate::metrics::Metrics;
use crate::telemetry::Telemetry;
use crate::traces::TraceLink;

pub use probes::Pair;

/// An engine's place in the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EngineId(u64);

/// How batches are cut: `[embedding.batching]` and the bounds of the queue.
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the configuration, or says that one was not given")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatcherConfig {
    /// `enabled`: false runs every request by itself.
    pub enabled: bool,
    /// `max_batch_size`: most texts in a batch.
    pub max_batch_size: usize,
    /// `max_batch_size` is not set: an engine with a shape profile says its own.
    pub learn_size: bool,
    /// Threads that run batches: one for each execution context of the devices, 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// Devices that the threads are dealt to in turn.
    pub devices: usize,
    /// `max_wait_time_ms`: longest that a request waits for others.
    pub max_wait: Duration,
    /// `adaptive`: learn a shorter wait from arrivals and engine time.
    pub adaptive: bool,
    /// `max_batch_tokens`: most tokens in a batch, padding included; a longer text runs alone.
    pub max_batch_tokens: usize,
    /// `max_batch_tokens` is not set: an engine's own is learnt when it is warmed up, and the above holds until then.
    pub learn_budget: bool,
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
            learn_size: true,
            workers: 1,
            devices: 1,
            max_wait: Duration::from_millis(10),
            adaptive: true,
            max_batch_tokens: 512,
            learn_budget: true,
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
    /// The request's span, if it is traced.
    pub trace: Option<TraceLink>,
    /// The engines of its experiment, if its batches may be probed.
    pub probe: Option<Arc<Pair>>,
}

/// Whose budget it is: the next engine of a variant takes it over where it is about as large.
#[derive(Debug, Clone, Copy)]
pub struct Family<'a> {
    /// Model.
    pub model: &'a str,
    /// Variant.
    pub variant: &'a str,
    /// Bytes of its artifact.
    pub bytes: u64,
}

/// A request's vectors and what they took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedded {
    /// One a text, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Time waited.
    pub queue: Duration,
    /// Time of the batches that carried it.
    pub engine: Duration,
    /// Its part of those batches, by tokens; padding is shared in the same proportion. Time that batches take of one device together counts once,
    /// for the one that ends first.
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

/// Most threads that run batches: the bits of the sets that they are in.
pub const MAX_WORKERS: usize = u128::BITS as usize;
const _: () = assert!(MAX_CONTEXTS * MAX_DEVICES <= MAX_WORKERS, "the configuration allows more contexts than there can be workers");
/// How long a batch may take to notice that it is stopped.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// The handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Batcher {
    queue: Arc<Queue>,
    #[cfg(test)]
    judge: Judge,
}

impl Batcher {
    /// Starts the executors' threads, 1 to [`MAX_WORKERS`]. They end at [`Batcher::shutdown`].
    pub fn start(config: BatcherConfig, telemetry: &Telemetry, metrics: &Metrics) -> std::io::Result<(Self, Vec<JoinHandle<()>>)> {
        let workers = config.workers;
        if !(1..=MAX_WORKERS).contains(&workers) {
            let why = format!("{workers} threads for batches; 1 to {MAX_WORKERS} can be: fewer `runtime.contexts` or `runtime.device_ids`");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
        }
        let queue = Arc::new(Queue::new(config, workers, metrics.clone()));
        let judge = Judge::start(telemetry.clone(), metrics.clone())?;
        let start = |worker: usize| {
            let (queue, telemetry, metrics, judge) = (queue.clone(), telemetry.clone(), metrics.clone(), judge.clone());
            let (engines, tensors, spares) = (HashMap::new(), TokenBatch::default(), Arc::default());
            let executor = Executor { worker, queue, telemetry, metrics, judge, engines, tensors, spares };
            std::thread::Builder::new().name(format!("executor-{worker}")).spawn(move || executor.run())
        };
        let threads = (0..workers).map(start).collect::<std::io::Result<_>>()?;
        let batcher = Self {
            queue,
            #[cfg(test)]
            judge,
        };
        Ok((batcher, threads))
    }

    /// Why the device runs nothing any more; none: it does.
    pub fn fault(&self) -> Option<String> {
        self.queue.fault()
    }

    /// An engine's place, for tests that run none.
    #[cfg(test)]
    pub(crate) fn engine_of_test(number: u64) -> EngineId {
        EngineId(number)
    }

    /// Takes an engine in; returns when the executor has it.
    pub async fn install(&self, engine: Box<dyn Engine>) -> EngineId {
        let (id, taken) = self.queue.install(engine);
        // An error means that the executor has ended; work for the engine is then refused as `Closed`.
        drop(taken.await);
        id
    }

    /// Drops an engine once the work queued for it is done; returns when it is gone.
    pub async fn remove(&self, engine: EngineId) {
        // An error means that there is no such engine, or no executor any more.
        drop(self.queue.remove(engine).await);
    }

    /// Runs a batch that no request asked for, and says how long it took: when nothing waits, until a request comes in
    /// ([`EngineError::Interrupted`]); or within a tenth of a busy device. `cause` is `warmup`, ...
    pub async fn run_overhead(
        &self,
        engine: EngineId,
        batch: TokenBatch,
        cause: &'static str,
        model: &str,
        variant: &str,
    ) -> Result<(Vec<f32>, Duration), EngineError> {
        let (done, answer) = oneshot::channel();
        let (model, variant) = (model.to_owned(), variant.to_owned());
        self.queue.overhead(Overhead { engine, batch, cause, model, variant, yields: false, done });
        answer.await.unwrap_or_else(|_| Err(EngineError::Run("the batcher has stopped".into())))
    }

    /// Learns an engine's token budget from a few batches at low priority, unless the budget is pinned or an engine of its family had one.
    /// Returns the budget that holds now.
    pub async fn learn_budget(&self, engine: EngineId, family: Family<'_>, max_tokens: usize) -> usize {
        let Family { model, variant, .. } = family;
        if !self.queue.learns_budgets() || self.queue.take_over_budget(engine, family) {
            return self.queue.budget(engine);
        }
        let until = Instant::now() + budget::MOST_TIME;
        let (max_rows, largest) = self.queue.sizes(engine);
        let mut sweep = budget::Sweep::new(max_rows, max_tokens, largest);
        while let Some(batch) = sweep.next_batch().filter(|_| Instant::now() < until) {
            let tokens = batch.ids.len();
            match self.run_overhead(engine, batch, "warmup", model, variant).await {
                Ok((_, took)) => {
                    sweep.ran(took);
                    self.queue.probed(engine, tokens as u64, took);
                }
                Err(EngineError::Interrupted) => {}
                Err(_) => break,
            }
        }
        if let Some(best) = sweep.best() {
            self.queue.learnt_budget(engine, best, family);
        }
        self.queue.budget(engine)
    }

    /// No engine is probed while the value lives: one is being loaded, which would be timed with it.
    pub fn hold_probes(&self) -> ProbesHeld {
        self.queue.hold_probes(true);
        ProbesHeld { queue: self.queue.clone() }
    }

    /// Runs a request's texts. Dropping the future drops what of them still waits.
    pub async fn submit(&self, work: Work) -> Result<Embedded, BatchError> {
        if work.texts.is_empty() {
            return Ok(Embedded::default());
        }
        let deadline = tokio::time::Instant::from_std(work.deadline);
        let (ticket, answer) = self.queue.push(work, Instant::now())?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(answer) => {
                ticket.answered();
                answer.unwrap_or(Err(BatchError::Closed)).map(Answered::embedded)
            }
            Err(_) => Err(BatchError::Deadline),
        }
    }

    /// Takes no more work, finishes what waits until `deadline`, and ends the executor. A batch that still runs then is stopped, if its
    /// engine can be; this returns a moment after the deadline at the latest.
    pub async fn shutdown(&self, deadline: Instant) {
        self.queue.close(deadline);
        let mut ended = self.queue.ended();
        if tokio::time::timeout_at(tokio::time::Instant::from_std(deadline), ended.wait_for(|it| *it)).await.is_ok() {
            return;
        }
        self.queue.stop_engines();
        if tokio::time::timeout(STOP_GRACE, ended.wait_for(|it| *it)).await.is_err() {
            tracing::warn!("a batch still ran after the deadline of the shutdown");
        }
    }
}

/// See [`Batcher::hold_probes`].
#[derive(Debug)]
pub struct ProbesHeld {
    queue: Arc<Queue>,
}

impl Drop for ProbesHeld {
    fn drop(&mut self) {
        self.queue.hold_probes(false);
    }
}

#[cfg(test)]
mod tests;
