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
/// Most probes a window may carry.
pub const MAX_PROBES: usize = 64;
/// Most devices a sidecar may occupy.
pub const MAX_DEVICES: u32 = 8;
/// Most lease gaps a window may carry: experiments and phases that lay in it.
pub const MAX_LEASE_GAPS: usize = 64;
/// Token-length buckets of a request's latency: up to so many tokens of its longest text, and one bucket for more.
pub const LENGTH_BOUNDS: [u32; 3] = [16, 64, 256];
/// Number of token-length buckets.
pub const LENGTH_BUCKETS: usize = LENGTH_BOUNDS.len() + 1;
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
    /// Paired probes that ended in it.
    #[serde(default)]
    pub probes: Vec<ProbeResult>,
    /// Experiments whose lease had run out for a part of it.
    #[serde(default)]
    pub lease_gaps: Vec<LeaseGap>,
}

impl Window {
    /// Time of its devices, ns: as long as it is, times their number.
    pub fn device_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns).saturating_mul(u64::from(self.device.devices))
    }
}

/// One batch on both engines of an experiment: same tensors, random order, off the request path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Experiment.
    pub experiment: String,
    /// Phase of it.
    pub phase: u32,
    /// End, Unix ns.
    pub at_ns: u64,
    /// Engine time of the canary, ns; not 0.
    pub canary_ns: u64,
    /// Engine time of the baseline, ns; not 0.
    pub baseline_ns: u64,
    /// Mean cosine of the two engines' vectors, -1 to 1.
    pub cosine: f64,
    /// Mean recall@10 of the canary's vectors against recent baseline vectors, 0 to 1.
    pub recall: f64,
    /// Texts in the batch; not 0.
    pub texts: u32,
    /// Tokens in it, padding excluded.
    pub tokens: u32,
    /// The canary ran first.
    pub canary_first: bool,
}

/// Part of a window in which an experiment's canary served nothing because its lease had run out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGap {
    /// Experiment.
    pub experiment: String,
    /// Phase of it.
    pub phase: u32,
    /// How long, ns.
    pub ns: u64,
}

/// The token-length bucket of a request whose longest text has so many tokens.
pub fn length_bucket(longest: u32) -> usize {
    LENGTH_BOUNDS.iter().take_while(|bound| longest > **bound).count()
}

/// What a sidecar's devices did in a window: one, or several of one kind that serve together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUsage {
    /// GPU UUID, of several the first's, or `cpu-<node>` for a CPU.
    pub uuid: String,
    /// Price book key, e.g. `nvidia-h200` or `cpu`.
    pub sku: String,
    /// Price book key.
    pub region: String,
    /// Part of each device this sidecar occupies, in parts in a million.
    pub share_ppm: u32,
    /// How many there are, 1 to [`MAX_DEVICES`]; each is paid for.
    #[serde(default = "one")]
    pub devices: u32,
    /// Engine time of lanes, ns, over all devices; the sum of the lanes' `engine_ns`.
    pub busy_ns: u64,
    /// Engine time that served no request.
    pub overheads: Vec<Overhead>,
    /// Since boot, this window included: a lost window shows as a jump.
    pub cumulative_elapsed_ns: u64,
    /// Since boot.
    pub cumulative_busy_ns: u64,
    /// Since boot, as this sidecar priced it; 0 without a price.
    pub cumulative_spend_picodollars: i64,
    /// What the devices drew, whole and all together, mJ; none where nothing measured it.
    #[serde(default)]
    pub energy_millijoules: Option<u64>,
    /// Of all windows since boot, this one included, mJ.
    #[serde(default)]
    pub cumulative_energy_millijoules: u64,
}

impl DeviceUsage {
    /// What is paid for, in parts in a million of one device.
    pub fn occupied_ppm(&self) -> u32 {
        self.share_ppm.saturating_mul(self.devices)
    }
}

impl Default for DeviceUsage {
    fn default() -> Self {
        Self {
            uuid: String::new(),
            sku: String::new(),
            region: String::new(),
            share_ppm: 0,
            devices: one(),
            busy_ns: 0,
            overheads: Vec::new(),
            cumulative_elapsed_ns: 0,
            cumulative_busy_ns: 0,
            cumulative_spend_picodollars: 0,
            energy_millijoules: None,
            cumulative_energy_millijoules: 0,
        }
    }
}

/// Before windows said how many devices they are of, it was one.
fn one() -> u32 {
    1
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
    /// Latency of requests answered with success, one sketch a token-length bucket; empty outside an experiment.
    #[serde(default)]
    pub latency_by_length: Vec<Sketch>,
    /// Distinct units met for the first time in this experiment and phase, at the router, before any 429.
    #[serde(default)]
    pub units: u64,
    /// Sticky units that exceeded the split's threshold for the first time.
    #[serde(default)]
    pub first_exceedances: u64,
    /// Sticky units that failed for the first time.
    #[serde(default)]
    pub first_failures: u64,
    /// Requests that ended, of sticky units that had not failed before.
    #[serde(default)]
    pub first_requests: u64,
    /// Timeouts, engine errors and disconnects in an experiment: they exceed any threshold.
    #[serde(default)]
    pub late_failures: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_in_one_bucket() {
        let at = |tokens| length_bucket(tokens);
        assert_eq!([0, 16, 17, 64, 65, 256, 257, u32::MAX].map(at), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(length_bucket(u32::MAX) + 1, LENGTH_BUCKETS);
    }

    #[test]
    fn a_window_from_before_devices_were_counted_is_of_one_and_was_not_measured() {
        let old = r#"{"sequence": 1, "snapshot": {"epoch": 1, "n": 2}, "start_ns": 5, "end_ns": 9, "lanes": [], "lost_observations": 0, "last": false,
            "device": {"uuid": "GPU-a", "sku": "h", "region": "r", "share_ppm": 500000, "busy_ns": 3, "overheads": [],
                       "cumulative_elapsed_ns": 9, "cumulative_busy_ns": 3, "cumulative_spend_picodollars": 1}}"#;
        let window: Window = serde_json::from_str(old).unwrap();
        let device = &window.device;
        assert_eq!((device.devices, device.energy_millijoules, device.cumulative_energy_millijoules), (1, None, 0));
        assert_eq!((device.occupied_ppm(), window.device_ns()), (500_000, 4));
    }
}
