//! How an experiment's stage divides the traffic. Enters: an experiment. Leaves: a [`TrafficSplit`], and which lanes are compared. Never: a
//! split of what is over.
//!
//! Below 50 % the canary has a control lane of its size; at 50 % the other half is the control; above, a canary sample as large as the hold-back
//! is compared with it.

use akidb_domain::decision::config::{Unit, WHOLE_PPM};
use akidb_domain::decision::verdict::{Probing, Threshold};
use akidb_domain::decision::{Config, Stage};
use akidb_domain::sketch::lower_bound;
use akidb_domain::snapshot::{ProbeBudget, TrafficSplit};
use akidb_domain::vocabulary::Arm;

use crate::db::experiments::Experiment;

/// Once probes have proven their point, this part of the budget is left.
const TRICKLE: u32 = 50;

/// The split of a live experiment; `None` when its canary gets nothing.
pub(crate) fn of(it: &Experiment, lease_ms: u64) -> Option<TrafficSplit> {
    if !it.life.is_live() {
        return None;
    }
    let stage = it.decision.stage;
    let shares = Shares::of(stage_share(&it.config, stage)?);
    let sticky = it.config.unit == Unit::Sticky;
    let thresholds = it.outcome.as_ref().filter(|_| sticky).map_or(&[][..], |it| &it.thresholds);
    Some(TrafficSplit {
        model: it.model.clone(),
        experiment: it.id.clone(),
        phase: number(&it.config, stage),
        salt: it.config.salt.clone(),
        sticky,
        baseline: it.baseline.clone(),
        canary: it.canary.clone(),
        canary_ppm: shares.canary,
        control_ppm: shares.control,
        apps_all_traffic: it.scope.apps_all_traffic.clone(),
        lease_ms,
        canary_sample_ppm: shares.sample,
        burn_in: stage == Stage::BurnIn,
        probe: probe(it),
        latency_threshold_s: seconds(thresholds, |it| it.control),
        canary_latency_threshold_s: seconds(thresholds, |it| it.canary),
    })
}

/// Numbers the stages of an experiment, so that no two share their counts: a burn-in is 0, and the phases follow.
pub(crate) fn number(config: &Config, stage: Stage) -> u32 {
    let burn_in = u32::from(config.burn_in_ms > 0);
    match stage {
        Stage::BurnIn => 0,
        Stage::Phase(at) => at as u32 + burn_in,
        Stage::Complete | Stage::RolledBack => config.phases.len() as u32 + burn_in,
    }
}

/// Share of the canary's arm in a stage; a burn-in has that of the first phase.
pub(crate) fn stage_share(config: &Config, stage: Stage) -> Option<u32> {
    let at = match stage {
        Stage::BurnIn => 0,
        Stage::Phase(at) => at,
        Stage::Complete | Stage::RolledBack => return None,
    };
    config.phases.get(at).map(|it| it.share_ppm)
}

/// Parts in a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    canary: u32,
    control: u32,
    sample: u32,
}

impl Shares {
    const fn of(share: u32) -> Self {
        Self {
            canary: share,
            control: if share < WHOLE_PPM / 2 { share } else { 0 },
            sample: if share > WHOLE_PPM / 2 { WHOLE_PPM - share } else { 0 },
        }
    }
}

/// Which arms are the canary's compared lane, the lane it is compared with, and the rest.
pub(crate) const fn lanes(share: u32) -> [&'static [Arm]; 3] {
    if share < WHOLE_PPM / 2 {
        [&[Arm::Canary], &[Arm::Control], &[Arm::Baseline]]
    } else if share == WHOLE_PPM / 2 {
        [&[Arm::Canary], &[Arm::Control, Arm::Baseline], &[]]
    } else {
        [&[Arm::CanarySample], &[Arm::Control, Arm::Baseline], &[Arm::Canary]]
    }
}

fn probe(it: &Experiment) -> Option<ProbeBudget> {
    let probing = it.outcome.as_ref().map_or_else(|| it.decision.probing(), |it| it.probing);
    let probing = if it.decision.probing() == Probing::Off { Probing::Off } else { probing };
    let parts = match probing {
        Probing::Off => return None,
        Probing::Budget => 1,
        Probing::Trickle => TRICKLE,
    };
    Some(ProbeBudget { device_ppm: it.probe.device_ppm / parts, idle_ppm: it.probe.idle_ppm / parts, ..it.probe })
}

fn seconds(thresholds: &[Option<Threshold>], of: impl Fn(&Threshold) -> i32) -> Vec<f64> {
    thresholds.iter().map(|it| it.as_ref().map_or(0.0, |it| lower_bound(of(it)) as f64 / 1e9)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_share_has_two_lanes_of_one_size_to_compare() {
        let check = |share, canary, control, sample| assert_eq!(Shares::of(share), Shares { canary, control, sample });
        check(50_000, 50_000, 50_000, 0);
        check(250_000, 250_000, 250_000, 0);
        check(500_000, 500_000, 0, 0);
        check(950_000, 950_000, 0, 50_000);
        assert_eq!(lanes(950_000)[0], [Arm::CanarySample]);
        assert_eq!(lanes(500_000)[1], [Arm::Control, Arm::Baseline]);
        assert_eq!(lanes(50_000)[1], [Arm::Control]);
    }

    #[test]
    fn no_two_stages_share_a_number() {
        let mut config = Config::default();
        assert_eq!([0, 3].map(|it| number(&config, Stage::Phase(it))), [0, 3]);
        (config.unit, config.burn_in_ms) = (Unit::Sticky, 1);
        assert_eq!([Stage::BurnIn, Stage::Phase(0), Stage::Complete].map(|it| number(&config, it)), [0, 1, 5]);
    }
}
