//! What one look sees: a stretch of telemetry, merged over the sidecars that serve the experiment.
//!
//! Enters: counts of windows that lie wholly within one stage of the rollout. Leaves: nothing. Never: what a sidecar could not know.

use serde::{Deserialize, Serialize};

use crate::sketch::Sketch;

/// A stretch of telemetry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// 1, 2, 3, ... without holes.
    pub number: u64,
    /// Length of the stretch, ms; pauses are left out.
    pub length_ms: u64,
    /// Paired probes, in the order they were made.
    pub probes: Vec<Probe>,
    /// The canary's compared lane: `canary`, above 50 % `canary-sample`.
    pub canary: Lane,
    /// The lane it is compared with: `control`, at 50 % the baseline's own, above 50 % the hold-back.
    pub control: Lane,
    /// Requests and failures of the two lanes, a telemetry window (a second) each, in order; merged over sidecars.
    pub windows: Vec<Window>,
    /// Distinct units that the router met for the first time in this stage.
    pub units: Units,
    /// Part of the stretch that the devices served requests, 0 to 1; `None` where nobody knows.
    pub utilisation: Option<f64>,
    /// What is not in the counts.
    pub missing: Missing,
    /// Sidecars lost.
    pub crashes: Crashes,
}

/// One batch on both engines: same tensors, random order, off the request path.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Engine time of the canary, ns.
    pub canary_ns: u64,
    /// Engine time of the baseline, ns.
    pub baseline_ns: u64,
    /// Mean cosine of the two engines' vectors over the batch.
    pub cosine: f64,
    /// Mean recall@10 of the canary's vectors against the reservoir of the baseline's.
    pub recall: f64,
}

/// A second of the two compared lanes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The canary's lane.
    pub canary: Answers,
    /// The lane it is compared with.
    pub control: Answers,
}

/// How requests ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// Requests ended, with success or not. With a sticky unit: those of units that had not failed before in this stage.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
}

impl Answers {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
    }
}

/// One of the two compared lanes, over the whole look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    /// Latency of answered requests, a sketch a token-length bucket; both lanes have the same buckets.
    pub latency: Vec<Sketch>,
    /// Timeouts, engine errors and disconnects past the threshold: exceedances of any threshold.
    pub failures: u64,
    /// With a sticky unit: units that for the first time in this stage exceeded the threshold given with the look before.
    pub first_exceedances: Option<u64>,
}

/// Distinct units a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field is the lane of its name")]
pub struct Units {
    pub canary: u64,
    pub control: u64,
    pub rest: u64,
}

/// What is not in the counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Missing {
    /// Sidecars that the experiment targets.
    pub targeted_sidecars: u32,
    /// Targeted sidecars that reported nothing.
    pub silent_sidecars: Vec<String>,
    /// Windows that never came, and boots without a last one.
    pub lost_windows: u64,
    /// Observations that telemetry dropped.
    pub lost_observations: u64,
    /// Sidecars whose canary artifact failed, as `name: reason`.
    pub failed_artifacts: Vec<String>,
    /// SKUs on all of whose sidecars it failed.
    pub failed_skus: Vec<String>,
    /// The lease ran out in this stretch: the canary served nothing for a part of it.
    pub lease_expired: bool,
}

/// Sidecars lost without their last window, of those with and without the canary loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crashes {
    /// Lost while serving the canary.
    pub canary: u64,
    /// Sidecar-seconds serving the canary.
    pub canary_seconds: u64,
    /// Lost while not serving it.
    pub control: u64,
    /// Sidecar-seconds not serving it.
    pub control_seconds: u64,
}

impl Missing {
    /// Each piece that makes this look incomplete, in words; empty: complete.
    pub fn pieces(&self, max_failing: f64) -> Vec<String> {
        let mut pieces = Vec::new();
        if let Some(first) = self.silent_sidecars.first() {
            pieces.push(format!("telemetry of {} silent sidecars, {first} among them", self.silent_sidecars.len()));
        }
        if self.lost_windows > 0 {
            pieces.push(format!("{} telemetry windows that never came", self.lost_windows));
        }
        if self.lost_observations > 0 {
            pieces.push(format!("{} observations that telemetry dropped", self.lost_observations));
        }
        if let Some(first) = self.failed_artifacts.first().filter(|_| self.too_many_failed(max_failing)) {
            let (failed, all) = (self.failed_artifacts.len(), self.targeted_sidecars);
            pieces.push(format!("the canary's artifact on {failed} of {all} sidecars ({first})"));
        }
        pieces.extend(self.failed_skus.iter().map(|sku| format!("the canary's artifact on every {sku}")));
        if self.lease_expired {
            pieces.push("the canary's traffic while its lease was not renewed".to_owned());
        }
        pieces
    }

    fn too_many_failed(&self, max_failing: f64) -> bool {
        self.failed_artifacts.len() as f64 > max_failing * f64::from(self.targeted_sidecars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_piece_is_named() {
        let check = |missing: Missing, expected: &[&str]| assert_eq!(missing.pieces(0.05), expected);
        check(Missing::default(), &[]);
        check(
            Missing { silent_sidecars: vec!["pod-7".to_owned()], ..Missing::default() },
            &["telemetry of 1 silent sidecars, pod-7 among them"],
        );
        check(
            Missing { lost_windows: 3, lost_observations: 9, ..Missing::default() },
            &["3 telemetry windows that never came", "9 observations that telemetry dropped"],
        );
        let failed = |all| Missing { targeted_sidecars: all, failed_artifacts: vec!["pod-1: bad digest".to_owned()], ..Missing::default() };
        check(failed(100), &[]);
        check(failed(10), &["the canary's artifact on 1 of 10 sidecars (pod-1: bad digest)"]);
        check(
            Missing { failed_skus: vec!["cpu".to_owned()], lease_expired: true, ..Missing::default() },
            &["the canary's artifact on every cpu", "the canary's traffic while its lease was not renewed"],
        );
    }
}
