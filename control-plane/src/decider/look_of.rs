//! Windows into a look.
//!
//! Enters: the windows of one stretch, whole, and what is known of the fleet. Leaves: a [`Look`], the same for the same windows in
//! whatever order they came. Never: a lane of another stage, or one that stood in for another artifact.

use std::collections::BTreeMap;

use akidb_domain::decision::Look;
use akidb_domain::decision::config::Unit;
use akidb_domain::decision::look::{self, Answers, Crashes, Probe, Units};
use akidb_domain::sketch::Sketch;
use akidb_domain::window::{LENGTH_BUCKETS, LaneUsage, Window};

use super::fleet::Fleet;
use crate::db::experiments::Experiment;
use crate::experiments::split;

/// A canary that served nothing for less than this in a look was not missed: neither was its control lane there.
const LEASE_GAP_NS: u64 = 100_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Errors that are the caller's own; they say nothing of an engine.
const CALLERS: [&str; 8] = [
    "malformed",
    "invalid",
    "not_found",
    "method_not_allowed",
    "unsupported_media_type",
    "body_too_large",
    "unknown_model",
    "unknown_variant",
];

/// A window as it was kept, without what is not the experiment's.
#[derive(Debug, Clone)]
pub(crate) struct StoredWindow {
    pub(crate) sidecar: String,
    pub(crate) window: Window,
}

/// What a look is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) number: u64,
    pub(crate) from_ns: u64,
    pub(crate) to_ns: u64,
}

/// The look at these windows, which start within the stretch. `lost_windows`: given up by their sidecars since the look before.
pub(crate) fn look(it: &Experiment, stretch: Stretch, windows: &[StoredWindow], fleet: &Fleet, lost_windows: u64) -> Look {
    let number = split::number(&it.config, it.decision.stage);
    let share = split::stage_share(&it.config, it.decision.stage).unwrap_or_default();
    let (arms, sticky) = (split::lanes(share), it.config.unit == Unit::Sticky);
    let mut counts = [Lane::default(), Lane::default(), Lane::default()];
    for stored in windows {
        let second = stored.window.start_ns / SECOND_NS;
        for usage in stored.window.lanes.iter().filter(|lane| counts_for(it, number, lane)) {
            if let Some(at) = arms.iter().position(|arms| arms.contains(&usage.lane.arm)) {
                counts[at].add(usage, second, sticky);
            }
        }
    }
    let [canary, control, rest] = counts;
    let length_ms = (stretch.to_ns - stretch.from_ns) / 1_000_000;
    let mut missing = fleet.missing.clone();
    missing.lost_windows += lost_windows;
    missing.lost_observations += windows.iter().map(|it| it.window.lost_observations).sum::<u64>();
    missing.lease_expired = lease_expired(it, number, windows);
    Look {
        number: stretch.number,
        length_ms,
        probes: probes(it, number, windows),
        windows: seconds(&canary, &control),
        units: Units { canary: canary.units, control: control.units, rest: rest.units },
        canary: canary.lane(sticky),
        control: control.lane(sticky),
        utilisation: utilisation(windows),
        missing,
        crashes: Crashes {
            canary_seconds: fleet.serving[0] * length_ms / 1_000,
            control_seconds: fleet.serving[1] * length_ms / 1_000,
            ..fleet.crashes
        },
    }
}

fn counts_for(it: &Experiment, number: u32, lane: &LaneUsage) -> bool {
    lane.lane.experiment == it.id && lane.lane.phase == number && !lane.lane.fallback
}

/// One of the compared lanes while it is counted.
#[derive(Debug, Default)]
struct Lane {
    latency: [Sketch; LENGTH_BUCKETS],
    failures: u64,
    first_exceedances: u64,
    units: u64,
    seconds: BTreeMap<u64, Answers>,
}

impl Lane {
    fn add(&mut self, it: &LaneUsage, second: u64, sticky: bool) {
        self.latency.iter_mut().zip(&it.latency_by_length).for_each(|(all, one)| all.merge(one));
        self.failures += it.late_failures;
        self.first_exceedances += it.first_exceedances;
        self.units += it.units;
        let errors = it.errors.iter().filter(|it| !CALLERS.contains(&it.code.as_str())).map(|it| it.count).sum();
        let answers = if sticky {
            Answers { requests: it.first_requests, errors: it.first_failures }
        } else {
            Answers { requests: it.requests + errors, errors }
        };
        self.seconds.entry(second).or_default().add(answers);
    }

    fn lane(self, sticky: bool) -> look::Lane {
        look::Lane { latency: self.latency.into(), failures: self.failures, first_exceedances: sticky.then_some(self.first_exceedances) }
    }
}

/// Second by second, over all sidecars; those in which neither lane answered say nothing.
fn seconds(canary: &Lane, control: &Lane) -> Vec<look::Window> {
    let mut seconds: BTreeMap<u64, look::Window> = BTreeMap::new();
    canary.seconds.iter().for_each(|(at, it)| seconds.entry(*at).or_default().canary.add(*it));
    control.seconds.iter().for_each(|(at, it)| seconds.entry(*at).or_default().control.add(*it));
    seconds.into_values().filter(|it| it.canary.requests + it.control.requests > 0).collect()
}

/// In the order in which they were made.
fn probes(it: &Experiment, number: u32, windows: &[StoredWindow]) -> Vec<Probe> {
    let all = windows.iter().flat_map(|stored| stored.window.probes.iter().map(|probe| (probe.at_ns, &stored.sidecar, probe)));
    let mut ours: Vec<_> = all.filter(|(_, _, probe)| probe.experiment == it.id && probe.phase == number).collect();
    ours.sort_by_key(|(at, sidecar, _)| (*at, *sidecar));
    let probe = |(_, _, it): (u64, &String, &akidb_domain::window::ProbeResult)| Probe {
        canary_ns: it.canary_ns,
        baseline_ns: it.baseline_ns,
        cosine: it.cosine,
        recall: it.recall,
    };
    ours.into_iter().map(probe).collect()
}

/// Of the devices, while they served this experiment.
fn utilisation(windows: &[StoredWindow]) -> Option<f64> {
    let elapsed: u64 = windows.iter().map(|it| it.window.device_ns()).sum();
    let busy: u64 = windows.iter().map(|it| it.window.device.busy_ns).sum();
    (elapsed > 0).then(|| (busy as f64 / elapsed as f64).min(1.0))
}

/// A sidecar served no canary for a part of the stretch that matters.
fn lease_expired(it: &Experiment, number: u32, windows: &[StoredWindow]) -> bool {
    let mut gaps: BTreeMap<&str, u64> = BTreeMap::new();
    for stored in windows {
        let ours = stored.window.lease_gaps.iter().filter(|gap| gap.experiment == it.id && gap.phase == number);
        *gaps.entry(&stored.sidecar).or_default() += ours.map(|it| it.ns).sum::<u64>();
    }
    gaps.into_values().any(|ns| ns > LEASE_GAP_NS)
}

#[cfg(test)]
#[path = "look_of_tests.rs"]
pub(crate) mod tests;
