//! The facts other rooms tell telemetry. Enters and leaves: plain values. Never: a text or a vector.

use std::sync::Arc;
use std::time::{Duration, Instant};

use akidb_domain::window::{LaneId, ProbeResult};

/// One fact.
#[derive(Debug, Clone)]
pub enum Observation {
    /// An executor began a batch; a window cut now credits the lane with the time so far.
    BatchStarted {
        /// Which of the executors.
        worker: usize,
        /// Whose.
        lane: Arc<LaneId>,
        /// When.
        at: Instant,
    },
    /// An executor ended the batch it began last.
    BatchFinished(BatchDone),
    /// The router gave a request of an experiment its arm.
    Met {
        /// Which.
        lane: Arc<LaneId>,
        /// Its sticky unit's hash; none for a unit drawn for this request.
        unit: Option<u64>,
    },
    /// A request was answered.
    Request(RequestDone),
    /// A paired probe was made.
    Probe {
        /// When both engines were done; what the result says of it is filled in by whoever has the clock.
        at: Instant,
        /// What came of it.
        result: ProbeResult,
    },
    /// What threads beside the executor took from the device that no request asked for (a load, its warm-up and its proof).
    Beside {
        /// `load`, `warmup`, `parity`.
        cause: &'static str,
        /// Model that caused it.
        model: String,
        /// Variant that caused it.
        variant: String,
        /// As long as the whole device would have taken, or all of them: a load is made on each.
        device: Duration,
    },
    /// Device time of an executor that no request asked for.
    Overhead {
        /// Which of them.
        worker: usize,
        /// `warmup`, ...
        cause: &'static str,
        /// Model that caused it.
        model: String,
        /// Variant that caused it.
        variant: String,
        /// Experiment that caused it, or empty.
        experiment: String,
        /// When it began.
        from: Instant,
        /// When it ended.
        to: Instant,
    },
}

/// A batch that ran, or failed.
#[derive(Debug, Clone)]
pub struct BatchDone {
    /// Which of the executors.
    pub worker: usize,
    /// Whose.
    pub lane: Arc<LaneId>,
    /// When it began; where the device tells its own time, so long before its end.
    pub from: Instant,
    /// When it ended.
    pub to: Instant,
    /// Tokens, padding excluded.
    pub tokens: u64,
    /// Tokens computed.
    pub padded_tokens: u64,
}

/// A request that was answered, well or not.
#[derive(Debug, Clone)]
pub struct RequestDone {
    /// What served it, or was to.
    pub lane: Arc<LaneId>,
    /// Who asked.
    pub consumer: Consumer,
    /// Its sticky unit's hash, in an experiment.
    pub unit: Option<u64>,
    /// Texts in it.
    pub texts: u64,
    /// Tokens in it.
    pub tokens: u64,
    /// Tokens of its longest text.
    pub longest: u32,
    /// Texts cut at the model's limit.
    pub truncated: u64,
    /// From the request read to the answer ready.
    pub latency: Duration,
    /// Time in the queue.
    pub queue: Duration,
    /// The code of the error it was answered with.
    pub error: Option<&'static str>,
}

/// Who asked: `x-akidb-app` and `x-akidb-tenant`, empty where not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Consumer {
    /// App.
    pub app: String,
    /// Tenant.
    pub tenant: String,
}
