//! What happened, counted: observations in, windows out to the spool, and the cost meter behind `/api/v1/cost-per-request`.
//!
//! Enters: [`Observation`]s from executors and the HTTP room. Leaves: windows on disk, figures on request. Never: a request held up;
//! a full channel drops the observation and counts it.
//!
//! Rooms, in reading order:
//! - [`observation`]: the facts that other rooms tell
//! - [`report`]: the figures they may ask for
//! - [`busy`]: which of the device's time is credited; pure
//! - [`aggregate`]: from observations to windows; pure
//! - [`energy`]: what the devices drew; pure but for the place where readings are left
//! - [`units`]: which units an experiment has met; pure
//! - [`meter`]: what they cost; pure
//! - [`recorder`]: the task that cuts windows
//! - [`spool`]: windows on disk until the control plane has them, on [`segments`]

pub mod aggregate;
pub mod busy;
pub mod energy;
pub mod meter;
pub mod observation;
pub mod recorder;
pub mod report;
pub mod segments;
pub mod spool;
pub mod units;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc;

pub use energy::Energy;
pub use observation::{BatchDone, Consumer, Observation, RequestDone};
pub use recorder::Recorder;
pub use report::CostReport;
pub use spool::Spool;

use crate::clock::Clock;
use report::CostWindow;

/// Observations that may wait for the task; more are dropped and counted. At 10,000 requests a second: half a second of them.
const CHANNEL: usize = 16_384;

/// The handle that other rooms hold; cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry {
    observations: mpsc::Sender<Observation>,
    shared: Arc<Shared>,
}

/// What this sidecar's device costs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Price of the whole device for an hour.
    pub picodollars_per_hour: i64,
    /// Part of it that this sidecar occupies.
    pub share_ppm: u32,
}

#[derive(Debug)]
struct Shared {
    lost: AtomicU64,
    rate: ArcSwapOption<Rate>,
    report: ArcSwap<CostReport>,
}

impl Telemetry {
    /// A handle and the end at which its observations arrive.
    pub fn channel(clock: Clock) -> (Self, mpsc::Receiver<Observation>) {
        let (observations, receiver) = mpsc::channel(CHANNEL);
        let at = rfc3339(clock.boot_unix_ns());
        let report = CostReport {
            cost: None,
            currency: "USD",
            total_picodollars: 0,
            idle_picodollars: 0,
            requests: 0,
            unpriced_requests: 0,
            energy_joules: None,
            total_energy_millijoules: None,
            idle_energy_millijoules: None,
            unmeasured_requests: 0,
            window: CostWindow { from: at.clone(), to: at },
            scope: "sidecar",
            spend: Vec::new(),
            variants: Vec::new(),
        };
        let shared = Shared { lost: AtomicU64::new(0), rate: ArcSwapOption::empty(), report: ArcSwap::from_pointee(report) };
        (Self { observations, shared: Arc::new(shared) }, receiver)
    }

    /// Tells what happened. Never blocks: a full channel drops the fact and counts it.
    pub fn observe(&self, observation: Observation) {
        if self.observations.try_send(observation).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the device costs now; `None` without a price.
    pub fn price(&self) -> Option<Rate> {
        self.shared.rate.load().as_deref().copied()
    }

    /// The figures as of the last cut.
    pub fn cost(&self) -> CostReport {
        CostReport::clone(&self.shared.report.load())
    }
}

/// A moment as RFC 3339 UTC with nanoseconds.
pub(crate) fn rfc3339(unix_ns: u64) -> String {
    let (seconds, nanos) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
    let Ok(at) = time::OffsetDateTime::from_unix_timestamp(seconds as i64) else { return String::new() };
    let (date, clock) = (at.date(), at.time());
    let (hour, minute, second) = clock.as_hms();
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}
