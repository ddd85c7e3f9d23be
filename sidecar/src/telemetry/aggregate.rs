//! From observations to windows; pure. Enters: facts and the moment of a cut. Leaves: a [`Window`]. Never: a nanosecond of device time
//! counted twice or dropped at a cut, a hole in the sequence, more lanes or consumers than a window may carry.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use akidb_domain::snapshot::SnapshotVersion;
use akidb_domain::window::{
    ConsumerUsage, DeviceUsage, ErrorCount, LaneId, LaneUsage, MAX_CONSUMERS, MAX_LANES, OTHER_CONSUMER, Overhead, Window,
};

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
    overheads: BTreeMap<(&'static str, String, String), u64>,
    /// The batch that each executor runs, and when it began.
    running: BTreeMap<usize, (Arc<LaneId>, u64)>,
    /// Device time is credited up to here.
    credited_to: u64,
    cumulative_busy_ns: u64,
}

#[derive(Debug)]
struct Lane {
    usage: LaneUsage,
    errors: BTreeMap<&'static str, u64>,
    consumers: HashMap<Consumer, ConsumerUsage>,
}

impl Aggregate {
    /// The first window of a boot.
    pub fn new(clock: Clock, device: Device) -> Self {
        Self {
            clock,
            device,
            snapshot: SnapshotVersion::default(),
            sequence: 1,
            start_ns: clock.boot_unix_ns(),
            work_since: None,
            lanes: HashMap::new(),
            overheads: BTreeMap::new(),
            running: BTreeMap::new(),
            credited_to: 0,
            cumulative_busy_ns: 0,
        }
    }

    /// The snapshot from here on; the window before must have been cut.
    pub fn follow(&mut self, snapshot: SnapshotVersion) {
        self.snapshot = snapshot;
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

    /// Whether another lane might not find room: cut before the next observation.
    pub fn is_full(&self) -> bool {
        self.lanes.len() + 1 >= MAX_LANES
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
            Observation::Request(done) => self.lane(&done.lane).answered(done),
            Observation::Overhead { cause, model, variant, from, to } => {
                let device_ns = self.credit(self.clock.unix_ns(from), self.clock.unix_ns(to));
                self.overhead((cause, model, variant), device_ns);
            }
            Observation::Beside { cause, model, variant, device } => self.overhead((cause, model, variant), device.as_nanos() as u64),
        }
    }

    fn overhead(&mut self, key: (&'static str, String, String), device_ns: u64) {
        let known = self.overheads.len() < MAX_OVERHEADS || self.overheads.contains_key(&key);
        let key = if known { key } else { ("other", String::new(), String::new()) };
        *self.overheads.entry(key).or_default() += device_ns;
    }

    /// Ends the window at `end_ns` and opens the next one there. A batch that runs is credited up to here.
    pub fn cut(&mut self, end_ns: u64, lost_observations: u64, last: bool) -> Window {
        let end_ns = end_ns.max(self.start_ns);
        let running: Vec<(Arc<LaneId>, u64)> = self.running.values().cloned().collect();
        for (lane, from) in running {
            let engine_ns = self.credit(from, end_ns);
            self.lane(&lane).usage.engine_ns += engine_ns;
        }
        let mut lanes: Vec<LaneUsage> = self.lanes.drain().map(|(_, it)| it.usage()).collect();
        lanes.sort_by(|a, b| a.lane.cmp(&b.lane));
        let busy_ns = lanes.iter().map(|it| it.engine_ns).sum();
        self.cumulative_busy_ns += busy_ns;
        let overhead = |((cause, model, variant), device_ns): ((&str, _, _), _)| Overhead {
            cause: cause.to_owned(),
            model,
            variant,
            experiment: String::new(),
            device_ns,
        };
        let device = DeviceUsage {
            uuid: self.device.uuid.clone(),
            sku: self.device.sku.clone(),
            region: self.device.region.clone(),
            share_ppm: self.device.share_ppm,
            busy_ns,
            overheads: std::mem::take(&mut self.overheads).into_iter().map(overhead).collect(),
            cumulative_elapsed_ns: end_ns - self.clock.boot_unix_ns(),
            cumulative_busy_ns: self.cumulative_busy_ns,
            cumulative_spend_picodollars: 0,
        };
        let (sequence, start_ns) = (self.sequence, self.start_ns);
        self.sequence += 1;
        self.start_ns = end_ns;
        self.work_since = (!self.running.is_empty()).then_some(end_ns);
        Window { sequence, snapshot: self.snapshot, start_ns, end_ns, device, lanes, lost_observations, last }
    }

    fn finished(&mut self, done: &BatchDone) {
        let (from, to) = (self.clock.unix_ns(done.from), self.clock.unix_ns(done.to));
        self.running.remove(&done.worker);
        let engine_ns = self.credit(from, to);
        let usage = &mut self.lane(&done.lane).usage;
        usage.engine_ns += engine_ns;
        usage.batches += 1;
        usage.padded_tokens += done.padded_tokens;
        usage.engine.record(to.saturating_sub(from));
    }

    /// The part of `[from, to)` that is not yet credited; what executors do at the same time is one time of the device.
    fn credit(&mut self, from: u64, to: u64) -> u64 {
        let from = from.max(self.credited_to);
        self.credited_to = self.credited_to.max(to);
        to.saturating_sub(from)
    }

    fn lane(&mut self, id: &Arc<LaneId>) -> &mut Lane {
        self.lanes.entry(id.clone()).or_insert_with(|| Lane::new(id))
    }
}

impl Lane {
    fn new(id: &LaneId) -> Self {
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
            latency: akidb_domain::sketch::Sketch::default(),
            queue: akidb_domain::sketch::Sketch::default(),
            engine: akidb_domain::sketch::Sketch::default(),
            consumers: Vec::new(),
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

#[cfg(test)]
#[path = "aggregate_tests.rs"]
pub(crate) mod tests;
