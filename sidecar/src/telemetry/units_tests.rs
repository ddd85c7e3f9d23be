//! First times, once each; and what happens when memory is full.

use akidb_domain::snapshot::VariantRef;

use super::super::aggregate::tests::lane;
use super::*;

pub(crate) fn split(phase: u32, sticky: bool, thresholds: [f64; 4], canary: [f64; 4]) -> TrafficSplit {
    let at = |name: &str| VariantRef { version: "1".into(), variant: name.into() };
    TrafficSplit {
        model: "m".into(),
        experiment: "e".into(),
        phase,
        salt: "s".into(),
        sticky,
        baseline: at("a"),
        canary: at("b"),
        canary_ppm: 50_000,
        control_ppm: 50_000,
        apps_all_traffic: Vec::new(),
        lease_ms: 60_000,
        canary_sample_ppm: 0,
        burn_in: false,
        probe: None,
        latency_threshold_s: thresholds.to_vec(),
        canary_latency_threshold_s: canary.to_vec(),
    }
}

fn at(arm: Arm, phase: u32) -> LaneId {
    LaneId { arm, phase, experiment: "e".into(), ..LaneId::clone(&lane("a")) }
}

fn end(millis: u64, longest: u32) -> End {
    End { latency: Duration::from_millis(millis), longest, failed: false, late: false }
}

fn following(phase: u32) -> Units {
    let mut units = Units::default();
    units.follow(&[split(phase, true, [0.1, 0.2, 0.0, 0.4], [0.11, 0.22, 0.0, 0.44])]);
    units
}

fn firsts(requests: u64, failures: u64, exceedances: u64) -> Firsts {
    Firsts { requests, failures, exceedances }
}

#[test]
fn a_unit_is_new_once_and_again_in_another_phase() {
    let mut units = following(0);
    let lane = at(Arm::Canary, 0);
    assert_eq!([7, 7, 8, 7].map(|unit| units.met(&lane, unit)), [true, false, true, false]);
    assert!(!units.met(&at(Arm::Canary, 1), 7), "a phase that nobody spoke of counts nothing");
    units.follow(&[split(1, true, [0.0; 4], [0.0; 4])]);
    assert!(units.met(&at(Arm::Canary, 1), 7));
    assert!(!units.met(&lane, 7), "a request of the phase before is still known");
    units.follow(&[split(0, true, [0.0; 4], [0.0; 4])]);
    assert!(!units.met(&lane, 8), "and so is a phase that comes back");
    units.follow(&[split(2, false, [0.0; 4], [0.0; 4])]);
    assert!(!units.met(&at(Arm::Canary, 2), 7), "without a sticky unit nothing is kept");
}

#[test]
fn first_exceedances_and_failures_are_counted_once_against_the_arms_own_thresholds() {
    let mut units = following(0);
    let (canary, control) = (at(Arm::Canary, 0), at(Arm::Control, 0));
    for (lane, unit) in [(&canary, 1), (&control, 2), (&control, 3)] {
        units.met(lane, unit);
    }
    // 105 ms: above control's 100, below the canary's 110.
    assert_eq!(units.ended(&canary, 1, end(105, 16)), firsts(1, 0, 0));
    assert_eq!(units.ended(&control, 2, end(105, 16)), firsts(1, 0, 1));
    assert_eq!(units.ended(&control, 2, end(105, 16)), firsts(1, 0, 0), "once a unit");
    assert_eq!(units.ended(&canary, 1, end(105, 17)), firsts(1, 0, 0), "another bucket");
    assert_eq!(units.ended(&canary, 1, end(5_000, 100)), firsts(1, 0, 0), "a bucket without a threshold");
    assert_eq!(units.ended(&canary, 1, end(441, 300)), firsts(1, 0, 1));
    let failure = End { failed: true, late: true, ..end(1, 0) };
    assert_eq!(units.ended(&control, 3, failure), firsts(1, 1, 1));
    assert_eq!(units.ended(&control, 3, end(1, 1)), firsts(0, 0, 0), "it has failed before");
    assert_eq!(units.ended(&control, 3, failure), firsts(0, 0, 0));
    assert_eq!(units.ended(&control, 99, failure), firsts(0, 0, 0), "a unit that was not met");
}

#[test]
fn memory_is_bounded_and_the_arms_are_cut_off_alike() {
    let mut units = following(0);
    units.follow(&[split(1, true, [0.0; 4], [0.0; 4])]);
    let (old, canary, control) = (at(Arm::Canary, 0), at(Arm::Canary, 1), at(Arm::Control, 1));
    assert!(units.met(&old, 1));
    for unit in 0..MAX_UNITS as u64 - 1 {
        assert!(units.met(if unit % 2 == 0 { &canary } else { &control }, unit));
    }
    assert!(units.met(&canary, u64::MAX), "what is over makes room first");
    assert!(!units.met(&canary, u64::MAX - 1) && !units.met(&control, u64::MAX - 2));
    assert!(!units.met(&canary, 0), "a known one is known");
    assert_eq!(units.ended(&canary, 0, end(1, 1)), firsts(1, 0, 0));
    assert_eq!(units.ended(&canary, u64::MAX - 1, end(1, 1)), firsts(0, 0, 0));
    assert_eq!((units.take_uncounted(), units.take_uncounted()), (2, 0));
}
