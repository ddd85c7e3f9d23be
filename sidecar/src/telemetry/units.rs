//! Which sticky units an experiment has met, and what happened to them for the first time; pure.
//!
//! Enters: hashes of units, how their requests ended, the splits in force. Leaves: whether something is new. Never: a unit's name; more than
//! [`MAX_UNITS`] units in memory. Past that, a unit that is not known yet is served as ever and counted nowhere, whichever its arm, so that the
//! arms stay comparable; how often that happened is counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use akidb_domain::snapshot::TrafficSplit;
use akidb_domain::vocabulary::Arm;
use akidb_domain::window::{LENGTH_BUCKETS, LaneId, length_bucket};

/// Most units known over all experiments and phases: some 20 MB.
pub const MAX_UNITS: usize = 1 << 19;
/// Experiments and phases that are over but may have requests on their way, or come back after a pause.
const MAX_OVER: usize = 8;

/// What is known of units.
#[derive(Debug, Default)]
pub struct Units {
    /// Those in force first, then the others, the last in force first.
    stages: Vec<Stage>,
    known: usize,
    uncounted: u64,
}

/// A phase of an experiment.
#[derive(Debug)]
struct Stage {
    experiment: String,
    phase: u32,
    in_force: bool,
    /// Exceeded: latency above this, ns, by token-length bucket. None: no threshold.
    thresholds: [Option<u64>; LENGTH_BUCKETS],
    canary_thresholds: [Option<u64>; LENGTH_BUCKETS],
    units: HashMap<u64, Past>,
}

/// What has happened to a unit.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    exceeded: bool,
    failed: bool,
}

/// How a unit's request ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// From the request read to the answer ready.
    pub latency: Duration,
    /// Tokens of its longest text.
    pub longest: u32,
    /// It failed, by the service's fault.
    pub failed: bool,
    /// It ended in a way that exceeds any threshold.
    pub late: bool,
}

/// What is new about a unit; 0 or 1 each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Firsts {
    /// A request of a unit that had not failed before.
    pub requests: u64,
    /// Its first failure.
    pub failures: u64,
    /// Its first exceedance.
    pub exceedances: u64,
}

impl Units {
    /// The splits in force from now on.
    pub fn follow(&mut self, splits: &[TrafficSplit]) {
        let mut before = std::mem::take(&mut self.stages);
        for split in splits.iter().filter(|it| it.sticky) {
            let known = before.iter().position(|it| it.experiment == split.experiment && it.phase == split.phase);
            let units = known.map(|at| before.remove(at).units).unwrap_or_default();
            self.stages.push(Stage::new(split, units));
        }
        let over = before.into_iter().map(|it| Stage { in_force: false, ..it });
        self.stages.extend(over);
        let in_force = self.stages.iter().filter(|it| it.in_force).count();
        self.stages.truncate(in_force + MAX_OVER);
        self.count();
    }

    /// A request of a unit came to its lane: whether the unit is new there.
    pub fn met(&mut self, lane: &LaneId, unit: u64) -> bool {
        if self.known >= MAX_UNITS {
            self.forget_what_is_over();
        }
        let full = self.known >= MAX_UNITS;
        let Some(stage) = self.stages.iter_mut().find(|it| it.is(lane)) else { return false };
        match stage.units.entry(unit) {
            Entry::Occupied(_) => false,
            Entry::Vacant(_) if full => {
                self.uncounted += 1;
                false
            }
            Entry::Vacant(new) => {
                new.insert(Past::default());
                self.known += 1;
                true
            }
        }
    }

    /// A request of a unit ended.
    pub fn ended(&mut self, lane: &LaneId, unit: u64, end: End) -> Firsts {
        let Some(stage) = self.stages.iter_mut().find(|it| it.is(lane)) else { return Firsts::default() };
        let exceeds = end.late || (!end.failed && stage.exceeds(lane.arm, end));
        let Some(past) = stage.units.get_mut(&unit) else { return Firsts::default() };
        let firsts = Firsts {
            requests: u64::from(!past.failed),
            failures: u64::from(!past.failed && end.failed),
            exceedances: u64::from(!past.exceeded && exceeds),
        };
        past.failed |= end.failed;
        past.exceeded |= exceeds;
        firsts
    }

    /// Requests of units that there was no room for, since this was last asked.
    pub fn take_uncounted(&mut self) -> u64 {
        std::mem::take(&mut self.uncounted)
    }

    fn forget_what_is_over(&mut self) {
        self.stages.retain(|it| it.in_force);
        self.count();
    }

    fn count(&mut self) {
        self.known = self.stages.iter().map(|it| it.units.len()).sum();
    }
}

impl Stage {
    fn new(split: &TrafficSplit, units: HashMap<u64, Past>) -> Self {
        let (all, canary) = (&split.latency_threshold_s, &split.canary_latency_threshold_s);
        Self {
            experiment: split.experiment.clone(),
            phase: split.phase,
            in_force: true,
            thresholds: nanos(all),
            canary_thresholds: nanos(if canary.is_empty() { all } else { canary }),
            units,
        }
    }

    fn is(&self, lane: &LaneId) -> bool {
        self.phase == lane.phase && self.experiment == lane.experiment
    }

    fn exceeds(&self, arm: Arm, end: End) -> bool {
        let thresholds = if matches!(arm, Arm::Canary | Arm::CanarySample) { &self.canary_thresholds } else { &self.thresholds };
        thresholds[length_bucket(end.longest)].is_some_and(|it| end.latency.as_nanos() as u64 > it)
    }
}

/// Thresholds rounded as a sketch rounds the bounds of its buckets; 0 is none.
fn nanos(seconds: &[f64]) -> [Option<u64>; LENGTH_BUCKETS] {
    std::array::from_fn(|i| seconds.get(i).filter(|it| **it > 0.0).map(|it| it.mul_add(1e9, 0.5) as u64))
}

#[cfg(test)]
#[path = "units_tests.rs"]
pub(crate) mod tests;
