//! The task that cuts windows. Enters: observations, snapshots, the end. Leaves: windows to the spool, figures to the handle. Never: a
//! wait on the disk; the spool has a thread of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use akidb_domain::cost::Price;
use akidb_domain::energy;
use akidb_domain::snapshot::{Snapshot, SnapshotVersion, TrafficSplit};
use akidb_domain::window::{LeaseGap, MAX_LEASE_GAPS, Window};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::aggregate::Aggregate;
use super::energy::Drawn;
use super::meter::Meter;
use super::{Energy, Observation, Spool, Telemetry};
use crate::clock::Clock;
use crate::config::Device;
use crate::lease::Leases;
use crate::metrics::Metrics;

/// While nothing happens, the meter charges idle time this often, so that its figures are at most 5 s old.
const METER_NS: u64 = 4_000_000_000;
/// Observations taken at a time.
const BATCH: usize = 1_024;
/// Pause after taking what there was: a task that is woken by each observation takes a core from the very requests it counts.
const REST: Duration = Duration::from_millis(20);

/// Tells the task about snapshots and the end; cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    Follow { version: SnapshotVersion, prices: Vec<Price>, splits: Vec<TrafficSplit>, done: oneshot::Sender<()> },
    Close { done: oneshot::Sender<()> },
}

/// What the task works with.
#[derive(Debug)]
pub struct Parts {
    /// What is paid for.
    pub device: Device,
    /// Where windows go.
    pub spool: Spool,
    /// Metrics.
    pub metrics: Metrics,
    /// Time.
    pub clock: Clock,
    /// Leases of experiments.
    pub leases: Leases,
    /// What the devices have drawn.
    pub energy: Energy,
}

impl Recorder {
    /// Starts the task that serves `telemetry`.
    pub fn start(parts: Parts, telemetry: Telemetry, observations: mpsc::Receiver<Observation>) -> (Self, JoinHandle<()>) {
        let (orders, receiver) = mpsc::channel(16);
        let meter = Meter::new((parts.device.share_ppm, parts.device.count), parts.clock.boot_unix_ns());
        let aggregate = Aggregate::new(parts.clock, parts.device.clone());
        let drawn = Drawn::since(parts.energy.newest());
        let task = Task { parts, telemetry, aggregate, meter, drawn, splits: Vec::new(), observations };
        (Self { orders }, tokio::spawn(task.run(receiver)))
    }

    /// Cuts the window, and goes on under a new snapshot, its prices and its experiments.
    pub async fn follow(&self, snapshot: &Snapshot) {
        let (done, wait) = oneshot::channel();
        let (version, prices, splits) = (snapshot.version, snapshot.prices.clone(), snapshot.splits.clone());
        if self.orders.send(Order::Follow { version, prices, splits, done }).await.is_ok() {
            // An error means that the task ended first; then there is nothing left to cut.
            drop(wait.await);
        }
    }

    /// Cuts the last window of the boot.
    pub async fn close(&self) {
        let (done, wait) = oneshot::channel();
        if self.orders.send(Order::Close { done }).await.is_ok() {
            // As above.
            drop(wait.await);
        }
    }
}

struct Task {
    parts: Parts,
    telemetry: Telemetry,
    aggregate: Aggregate,
    meter: Meter,
    drawn: Drawn,
    /// Of the snapshot in force.
    splits: Vec<TrafficSplit>,
    observations: mpsc::Receiver<Observation>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut rests = false;
        loop {
            let wait = Duration::from_nanos(self.next_ns().saturating_sub(self.parts.clock.now_ns()));
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Follow { version, prices, splits, done }) => {
                        self.follow(version, &prices, splits);
                        // Nobody may be waiting any more.
                        done.send(()).ok();
                    }
                    Some(Order::Close { done }) => {
                        self.cut(true);
                        // As above.
                        done.send(()).ok();
                        return;
                    }
                    None => return,
                },
                () = tokio::time::sleep(wait) => self.due(),
                () = tokio::time::sleep(REST), if rests => rests = false,
                taken = self.observations.recv_many(&mut batch, BATCH), if !rests => {
                    rests = taken < BATCH;
                    // None left and none to come: every handle is gone, but orders may still arrive.
                    if taken == 0 {
                        tokio::time::sleep(wait).await;
                        self.due();
                    }
                    batch.drain(..).for_each(|it| self.observe(it));
                }
            }
        }
    }

    /// When something is to be done, whatever happens.
    fn next_ns(&self) -> u64 {
        let due = self.aggregate.due_ns();
        if self.aggregate.has_work() { due } else { due.min(self.meter.settled_to() + METER_NS) }
    }

    fn due(&mut self) {
        let now = self.parts.clock.now_ns();
        while self.aggregate.next_hour_ns() <= now {
            self.cut_at(self.aggregate.next_hour_ns(), false);
        }
        if self.aggregate.due_ns() <= now {
            self.cut(false);
        } else if !self.aggregate.has_work() && self.meter.settled_to() + METER_NS <= now {
            self.meter.settle_idle(now);
            self.publish();
        }
    }

    fn observe(&mut self, observation: Observation) {
        if self.aggregate.is_full() {
            self.cut_at(self.parts.clock.now_ns(), false);
        }
        self.aggregate.observe(observation, self.parts.clock.now_ns());
    }

    fn follow(&mut self, version: SnapshotVersion, prices: &[Price], splits: Vec<TrafficSplit>) {
        self.cut(false);
        self.parts.leases.follow(splits.iter().map(|it| it.experiment.as_str()));
        self.aggregate.follow(version, &splits);
        self.splits = splits;
        self.meter.set_prices(prices);
        self.publish();
    }

    /// Takes what has arrived, then cuts.
    fn cut(&mut self, last: bool) {
        let now = self.parts.clock.now_ns();
        while let Ok(observation) = self.observations.try_recv() {
            self.observe(observation);
        }
        self.cut_at(now.max(self.meter.settled_to()), last);
    }

    fn cut_at(&mut self, end_ns: u64, last: bool) {
        let dropped = self.telemetry.shared.lost.swap(0, Ordering::Relaxed);
        self.parts.metrics.add_lost_observations(dropped);
        let mut window = self.aggregate.cut(end_ns, dropped, last);
        window.lease_gaps = self.lease_gaps(window.end_ns - window.start_ns);
        self.parts.metrics.add_uncounted_units(self.aggregate.take_uncounted_units());
        window.device.energy_millijoules = self.drawn.take(self.parts.energy.newest(), Instant::now());
        window.device.cumulative_energy_millijoules = self.drawn.total();
        self.show_energy(&window);
        self.meter.settle(&window);
        window.device.cumulative_spend_picodollars = self.meter.spent();
        self.publish();
        self.parts.spool.append(window);
    }

    fn show_energy(&self, window: &Window) {
        let Some(parts) = energy::divide(window) else { return };
        for (lane, millijoules) in window.lanes.iter().zip(parts.direct) {
            self.parts.metrics.add_energy(&lane.lane.model, &lane.lane.variant, millijoules as f64 / 1e3);
        }
    }

    /// Experiments whose lease did not hold all the time since the last cut.
    fn lease_gaps(&self, window_ns: u64) -> Vec<LeaseGap> {
        let gap = |split: &TrafficSplit| {
            // The lease's clock runs on while the machine is suspended, the window's does not.
            let ns = (self.parts.leases.take_gap(&split.experiment).as_nanos() as u64).min(window_ns);
            LeaseGap { experiment: split.experiment.clone(), phase: split.phase, ns }
        };
        self.splits.iter().map(gap).filter(|it| it.ns > 0).take(MAX_LEASE_GAPS).collect()
    }

    fn publish(&self) {
        self.telemetry.shared.rate.store(self.meter.rate(self.parts.clock.now_ns()).map(Arc::new));
        self.telemetry.shared.report.store(Arc::new(self.meter.report()));
    }
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
