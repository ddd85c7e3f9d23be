//! What a sidecar reports of a stretch of work: the unit of the ledger and of every decision.
//!
//! Enters: counts. Leaves: counts. A window is cut every second while there is work (every 10 s while there is none), at every
//! snapshot change and at every full hour, so each lies under one snapshot and in one hour. Never: a text or a vector.

use serde::{Deserialize, Serialize};

use crate::sketch::Sketch;
use crate::snapshot::SnapshotVersion;
use crate::vocabulary::{Arm, ExecutionProvider, Precision};

/// Most lanes a window may carry.
pub const MAX_LANES: usize = 256;
/// Most (app, tenant) pairs a lane may carry; the rest is summed under `other`.
pub const MAX_CONSUMERS: usize = 128;
/// Name under which consumers past [`MAX_CONSUMERS`] are summed.
pub const OTHER_CONSUMER: &str = "other";

/// One report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// 1, 2, 3, ... within a boot, without holes.
    pub sequence: u64,
    /// Snapshot in force.
    pub snapshot: SnapshotVersion,
    /// Start, Unix ns; the end of the window before.
    pub start_ns: u64,
    /// End, Unix ns. The clock is the wall clock at boot plus monotonic time, so windows of a boot neither overlap nor leave gaps.
    pub end_ns: u64,
    /// The device the work ran on.
    pub device: DeviceUsage,
    /// One a (model, version, variant, arm, digest).
    pub lanes: Vec<LaneUsage>,
    /// Observations dropped before they were counted; not zero means the counts are too low.
    pub lost_observations: u64,
    /// The boot ends here in good order.
    pub last: bool,
}

/// What a device did in a window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUsage {
    /// GPU UUID, or `cpu-<node>` for a CPU.
    pub uuid: String,
    /// Price book key, e.g. `nvidia-h200` or `cpu`.
    pub sku: String,
    /// Price book key.
    pub region: String,
    /// Part of the device this sidecar occupies, in parts in a million.
    pub share_ppm: u32,
    /// Engine time of lanes, ns; the sum of the lanes' `engine_ns`.
    pub busy_ns: u64,
    /// Engine time that served no request.
    pub overheads: Vec<Overhead>,
    /// Since boot, this window included: a lost window shows as a jump.
    pub cumulative_elapsed_ns: u64,
    /// Since boot.
    pub cumulative_busy_ns: u64,
    /// Since boot, as this sidecar priced it; 0 without a price.
    pub cumulative_spend_picodollars: i64,
}

/// Device time that no request asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overhead {
    /// `load`, `warmup`, `parity`, `probe`, `shadow` or `build`.
    pub cause: String,
    /// Model that caused it.
    pub model: String,
    /// Variant that caused it.
    pub variant: String,
    /// Experiment that caused it, or empty.
    pub experiment: String,
    /// Time, ns.
    pub device_ns: u64,
}

/// What one lane did in a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneUsage {
    /// Which lane.
    pub lane: LaneId,
    /// Requests answered with success.
    pub requests: u64,
    /// Texts in them.
    pub texts: u64,
    /// Tokens in them, special tokens included, padding excluded.
    pub tokens: u64,
    /// Tokens computed, padding included.
    pub padded_tokens: u64,
    /// Texts that were cut at the model's limit.
    pub truncated: u64,
    /// Requests answered with an error, by code.
    pub errors: Vec<ErrorCount>,
    /// Engine time, ns.
    pub engine_ns: u64,
    /// Batches run.
    pub batches: u64,
    /// Request latency inside the sidecar, from the request read to the answer ready.
    pub latency: Sketch,
    /// Time in the queue.
    pub queue: Sketch,
    /// Engine time of batches.
    pub engine: Sketch,
    /// Who asked.
    pub consumers: Vec<ConsumerUsage>,
}

/// Names a lane and what really served it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LaneId {
    /// Model.
    pub model: String,
    /// Version.
    pub version: String,
    /// Variant: the `model_version` label.
    pub variant: String,
    /// Precision of the engine.
    pub precision: Precision,
    /// Arm.
    pub arm: Arm,
    /// Experiment, or empty.
    pub experiment: String,
    /// Phase of the experiment.
    pub phase: u32,
    /// Digest of the artifact that really served.
    pub digest: String,
    /// Provider that really ran it.
    pub provider: ExecutionProvider,
    /// It stood in for another artifact or provider: kept apart from an experiment's counts.
    pub fallback: bool,
}

/// Errors of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// The code in the error body.
    pub code: String,
    /// How many.
    pub count: u64,
}

/// What one app and tenant used in a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerUsage {
    /// `x-akidb-app`, or empty.
    pub app: String,
    /// `x-akidb-tenant`, or empty.
    pub tenant: String,
    /// Requests answered with success.
    pub requests: u64,
    /// Tokens, padding excluded: the share by which the lane's cost is divided.
    pub tokens: u64,
}
