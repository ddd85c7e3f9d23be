//! From observations to windows; pure. Enters: facts and the moment of a cut. Leaves: a [`Window`]. Never: a nanosecond of device time
//! counted twice or dropped at a cut, a hole in the sequence, more lanes or consumers than a window may carry.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use akidb_domain::sketch::Sketch;
use akidb_domain::snapshot::{SnapshotVersion, TrafficSplit};
use akidb_domain::window::{
    ConsumerUsage, DeviceUsage, ErrorCount, LENGTH_BUCKETS, LaneId, LaneUsage, MAX_CONSUMERS, MAX_LANES, MAX_PROBES, OTHER_CONSUMER,
    Overhead, ProbeResult, Window, length_bucket,
};

use super::busy::Credited;
use super::units::{End, Units};
use super::{BatchDone, Consumer, Observation, RequestDone};
use crate::clock::Clock;
use crate::config::Device;

/// A window with work is cut this long after its first observation.
pub const WORK_NS: u64 = 1_000_000_000;
/// A window without work is cut this long after its start.
pub const IDLE_NS: u64 = 10_000_000_000;
/// Windows are cut at full hours, so that each lies in one.
const HOUR_NS: u64 = 3_600_000_000_000;
/// Most overheads a window may carry; the rest is summed under `other`.
const MAX_OVERHEADS: usize = 256;

/// The open window.
#[derive(Debug)]
pub struct Aggregate {
    clock: Clock,
    device: Device,
    snapshot: SnapshotVersion,
    sequence: u64,
    start_ns: u64,
    work_since: Option<u64>,
    lanes: HashMap<Arc<LaneId>, Lane>,
    overheads: BTreeMap<Cause, u64>,
    probes: Vec<ProbeResult>,
    units: Units,
    /// The batch that each executor runs, and when it began.
    running: BTreeMap<usize, (Arc<LaneId>, u64)>,
    /// One a device.
    credited: Vec<Credited>,
    cumulative_busy_ns: u64,
}

/// What device time went to: a cause, model, variant and experiment.
type Cause = (&'static str, String, String, String);

#[derive(Debug)]
struct Lane {
    usage: LaneUsage,
    errors: BTreeMap<&'static str, u64>,
    consumers: HashMap<Consumer, ConsumerUsage>,
}

impl Aggregate {
    /// The first window of a boot.
    pub fn new(clock: Clock, device: Device) -> Self {
        let credited = (0..device.count.max(1)).map(|_| Credited::default()).collect();
        Self {
            clock,
            device,
            snapshot: SnapshotVersion::default(),
            sequence: 1,
            start_ns: clock.boot_unix_ns(),
            work_since: None,
            lanes: HashMap::new(),
            overheads: BTreeMap::new(),
            probes: Vec::new(),
            units: Units::default(),
            running: BTreeMap::new(),
            credited,
            cumulative_busy_ns: 0,
        }
    }

    /// The snapshot from here on; the window before must have been cut.
    pub fn follow(&mut self, snapshot: SnapshotVersion, splits: &[TrafficSplit]) {
        self.snapshot = snapshot;
        self.units.follow(splits);
    }

    /// Requests of units that there was no room for, since this was last asked.
    pub fn take_uncounted_units(&mut self) -> u64 {
        self.units.take_uncounted()
    }

    /// When the open window is to be cut, Unix ns.
    pub fn due_ns(&self) -> u64 {
        let by_work = self.work_since.map_or(self.start_ns + IDLE_NS, |it| it + WORK_NS);
        by_work.min(self.start_ns + IDLE_NS).min(self.next_hour_ns())
    }

    /// The full hour in or after the open window.
    pub fn next_hour_ns(&self) -> u64 {
        (self.start_ns / HOUR_NS + 1) * HOUR_NS
    }

    /// Whether another lane or probe might not find room: cut before the next observation.
    pub fn is_full(&self) -> bool {
        self.lanes.len() + 1 >= MAX_LANES || self.probes.len() >= MAX_PROBES
    }

    /// Whether the window has seen anything, a running batch included.
    pub fn has_work(&self) -> bool {
        self.work_since.is_some() || !self.running.is_empty()
    }

    /// Counts one fact, at `now_ns`.
    pub fn observe(&mut self, observation: Observation, now_ns: u64) {
        self.work_since.get_or_insert(now_ns.max(self.start_ns));
        match observation {
            Observation::BatchStarted { worker, lane, at } => drop(self.running.insert(worker, (lane, self.clock.unix_ns(at)))),
            Observation::BatchFinished(done) => self.finished(&done),
            Observation::Met { lane, unit } => {
                let new = unit.is_none_or(|it| self.units.met(&lane, it));
                self.lane(&lane).usage.units += u64::from(new);
            }
            Observation::Request(done) => self.answered(done),
            Observation::Probe { at, result } => self.probes.push(ProbeResult { at_ns: self.clock.unix_ns(at), ..result }),
            Observation::Overhead { worker, cause, model, variant, experiment, from, to } => {
                let device_ns = self.credit(worker, self.clock.unix_ns(from), self.clock.unix_ns(to));
                self.overhead((cause, model, variant, experiment), device_ns);
            }
            Observation::Beside { cause, model, variant, device } => {
                let device_ns = device.as_nanos() as u64 * self.credited.len() as u64;
                self.overhead((cause, model, variant, String::new()), device_ns);
            }
        }
    }

    fn answered(&mut self, done: RequestDone) {
        if !done.lane.experiment.is_empty() {
            let (failed, late) = (done.error.is_some_and(is_failure), done.error.is_some_and(is_late));
            let end = End { latency: done.latency, longest: done.longest, failed, late };
            // What the client did wrong, or left, says nothing of the arm's errors.
            let counts = done.error.is_none() || failed || late;
            let firsts = done.unit.filter(|_| counts).map(|unit| self.units.ended(&done.lane, unit, end)).unwrap_or_default();
            let usage = &mut self.lane(&done.lane).usage;
            usage.late_failures += u64::from(late);
            usage.first_requests += firsts.requests;
            usage.first_failures += firsts.failures;
            usage.first_exceedances += firsts.exceedances;
        }
        self.lane(&done.lane).answered(done);
    }

    fn overhead(&mut self, key: Cause, device_ns: u64) {
        let known = self.overheads.len() < MAX_OVERHEADS || self.overheads.contains_key(&key);
        let key = if known { key } else { ("other", String::new(), String::new(), String::new()) };
        *self.overheads.entry(key).or_default() += device_ns;
    }

    /// Ends the window at `end_ns` and opens the next one there. A batch that runs is credited up to here.
    pub fn cut(&mut self, end_ns: u64, lost_observations: u64, last: bool) -> Window {
        let end_ns = end_ns.max(self.start_ns);
        let running: Vec<(usize, (Arc<LaneId>, u64))> = self.running.iter().map(|(worker, it)| (*worker, it.clone())).collect();
        for (worker, (lane, from)) in running {
            let engine_ns = self.credit(worker, from, end_ns);
            self.lane(&lane).usage.engine_ns += engine_ns;
        }
        let mut lanes: Vec<LaneUsage> = self.lanes.drain().map(|(_, it)| it.usage()).collect();
        lanes.sort_by(|a, b| a.lane.cmp(&b.lane));
        let busy_ns = lanes.iter().map(|it| it.engine_ns).sum();
        self.cumulative_busy_ns += busy_ns;
        let overhead = |((cause, model, variant, experiment), device_ns): (Cause, _)| {
            let cause = cause.to_owned();
            Overhead { cause, model, variant, experiment, device_ns }
        };
        let device = DeviceUsage {
            uuid: self.device.uuid.clone(),
            sku: self.device.sku.clone(),
            region: self.device.region.clone(),
            share_ppm: self.device.share_ppm,
            devices: self.credited.len() as u32,
            busy_ns,
            overheads: std::mem::take(&mut self.overheads).into_iter().map(overhead).collect(),
            cumulative_elapsed_ns: end_ns - self.clock.boot_unix_ns(),
            cumulative_busy_ns: self.cumulative_busy_ns,
            // The recorder knows these, and the leases.
            cumulative_spend_picodollars: 0,
            energy_millijoules: None,
            cumulative_energy_millijoules: 0,
        };
        let (sequence, start_ns) = (self.sequence, self.start_ns);
        self.sequence += 1;
        self.start_ns = end_ns;
        self.work_since = (!self.running.is_empty()).then_some(end_ns);
        let (probes, lease_gaps) = (std::mem::take(&mut self.probes), Vec::new());
        Window { sequence, snapshot: self.snapshot, start_ns, end_ns, device, lanes, lost_observations, last, probes, lease_gaps }
    }

    fn finished(&mut self, done: &BatchDone) {
        let (from, to) = (self.clock.unix_ns(done.from), self.clock.unix_ns(done.to));
        self.running.remove(&done.worker);
        let engine_ns = self.credit(done.worker, from, to);
        let usage = &mut self.lane(&done.lane).usage;
        usage.engine_ns += engine_ns;
        usage.batches += 1;
        usage.padded_tokens += done.padded_tokens;
        usage.engine.record(to.saturating_sub(from));
    }

    /// What the executors of one device do at the same time is one time of it. They are dealt to the devices in turn, as an engine's contexts are.
    fn credit(&mut self, worker: usize, from: u64, to: u64) -> u64 {
        let device = worker % self.credited.len();
        self.credited[device].credit(from, to)
    }

    fn lane(&mut self, id: &Arc<LaneId>) -> &mut Lane {
        self.lanes.entry(id.clone()).or_insert_with(|| Lane::new(id))
    }
}

impl Lane {
    fn new(id: &LaneId) -> Self {
        let latency_by_length = if id.experiment.is_empty() { Vec::new() } else { vec![Sketch::default(); LENGTH_BUCKETS] };
        let usage = LaneUsage {
            lane: id.clone(),
            requests: 0,
            texts: 0,
            tokens: 0,
            padded_tokens: 0,
            truncated: 0,
            errors: Vec::new(),
            engine_ns: 0,
            batches: 0,
            latency: Sketch::default(),
            queue: Sketch::default(),
            engine: Sketch::default(),
            consumers: Vec::new(),
            latency_by_length,
            units: 0,
            first_exceedances: 0,
            first_failures: 0,
            first_requests: 0,
            late_failures: 0,
        };
        Self { usage, errors: BTreeMap::new(), consumers: HashMap::new() }
    }

    fn answered(&mut self, done: RequestDone) {
        if let Some(code) = done.error {
            *self.errors.entry(code).or_default() += 1;
            return;
        }
        let usage = &mut self.usage;
        usage.requests += 1;
        usage.texts += done.texts;
        usage.tokens += done.tokens;
        usage.truncated += done.truncated;
        usage.latency.record(done.latency.as_nanos() as u64);
        if let Some(sketch) = usage.latency_by_length.get_mut(length_bucket(done.longest)) {
            sketch.record(done.latency.as_nanos() as u64);
        }
        usage.queue.record(done.queue.as_nanos() as u64);
        let consumer = self.consumer(done.consumer);
        consumer.requests += 1;
        consumer.tokens += done.tokens;
    }

    fn consumer(&mut self, who: Consumer) -> &mut ConsumerUsage {
        let known = self.consumers.len() < MAX_CONSUMERS || self.consumers.contains_key(&who);
        let who = if known { who } else { Consumer { app: OTHER_CONSUMER.into(), tenant: OTHER_CONSUMER.into() } };
        let empty = |who: &Consumer| ConsumerUsage { app: who.app.clone(), tenant: who.tenant.clone(), requests: 0, tokens: 0 };
        self.consumers.entry(who.clone()).or_insert_with(|| empty(&who))
    }

    fn usage(self) -> LaneUsage {
        let mut usage = self.usage;
        usage.errors = self.errors.into_iter().map(|(code, count)| ErrorCount { code: code.to_owned(), count }).collect();
        usage.consumers = self.consumers.into_values().collect();
        usage.consumers.sort_by(|a, b| (&a.app, &a.tenant).cmp(&(&b.app, &b.tenant)));
        usage
    }
}

/// Errors that are the service's: not what the client sent wrong, and not that it left.
fn is_failure(code: &str) -> bool {
    !matches!(code, "invalid" | "cancelled")
}

/// Timeouts, engine errors and disconnects: later than any threshold.
fn is_late(code: &str) -> bool {
    matches!(code, "deadline" | "engine_failed" | "internal" | "cancelled")
}

#[cfg(test)]
#[path = "aggregate_tests.rs"]
pub(crate) mod tests;
