//! Several workers, at chosen moments.

use std::sync::Arc;

use akidb_domain::snapshot::ProbeBudget;
use akidb_domain::window::LaneId;

use super::super::Pair;
use super::super::policy::{ENOUGH_VECTORS, SPACING};
use super::*;

const BASELINE: EngineId = EngineId(1);
const CANARY: EngineId = EngineId(2);

fn candidate(experiment: &str, budget: ProbeBudget) -> Candidate {
    let it = super::super::tests::candidate();
    let lane = LaneId { experiment: experiment.into(), ..LaneId::clone(&it.lane) };
    Candidate { lane: Arc::new(lane), pair: Arc::new(Pair { budget, ..Pair::clone(&it.pair) }), ..it }
}

/// A device with a batch of each experiment to probe, long after the last.
fn bench(experiments: &[&str], device_ppm: u32, idle_ppm: u32) -> (Turns, Instant) {
    let (mut turns, begun) = (Turns::default(), Instant::now());
    let budget = ProbeBudget { device_ppm, idle_ppm, shed_queue_texts: 8 };
    for experiment in experiments {
        turns.offer(begun, candidate(experiment, budget), ENOUGH_VECTORS, 0);
    }
    (turns, begun)
}

#[test]
fn a_probe_is_for_a_worker_with_both_engines() {
    let (mut turns, begun) = bench(&["e"], 10_000, 0);
    let now = begun + Duration::from_secs(1);
    for has in [&[][..], &[BASELINE], &[CANARY]] {
        assert!(matches!(turns.next(now, 0, false, |it| has.contains(&it)), Next::Nothing), "{has:?}");
    }
    assert!(matches!(turns.next(now, 0, false, |it| [CANARY, BASELINE].contains(&it)), Next::Probe(_)), "it was kept for that worker");
}

#[test]
fn one_probe_at_a_time_and_the_next_once_it_is_paid_for() {
    let (mut turns, begun) = bench(&["e", "f"], 10_000, 0);
    let mut now = begun + Duration::from_secs(1);
    let ask = |turns: &mut Turns, now| turns.next(now, 0, false, |_| true);
    assert!(matches!(ask(&mut turns, now), Next::Probe(it) if it.lane.experiment == "e"));
    // Its worker is at it for 2 s; another asks meanwhile, with a new batch of the same experiment.
    now += SPACING;
    turns.offer(now, candidate("e", ProbeBudget { device_ppm: 10_000, idle_ppm: 0, shed_queue_texts: 8 }), 1, 0);
    assert!(matches!(ask(&mut turns, now), Next::Nothing));
    now += Duration::from_secs(2);
    turns.finished("e", Duration::from_secs(2));
    assert!(matches!(ask(&mut turns, now), Next::Probe(it) if it.lane.experiment == "f"), "e is in debt");
    turns.finished("f", Duration::from_millis(1));
    assert!(matches!(ask(&mut turns, now + SPACING), Next::Nothing), "e's debt is 2 s at 1 %, its batch too old by then");
}

#[test]
fn loads_and_a_shutdown_hold_every_worker() {
    let (mut turns, begun) = bench(&["e"], 10_000, 0);
    let now = begun + Duration::from_secs(1);
    turns.hold(true);
    turns.hold(true);
    turns.hold(false);
    assert!(matches!(turns.next(now, 0, false, |_| true), Next::Nothing));
    turns.hold(false);
    assert!(matches!(turns.next(now, 0, true, |_| true), Next::Nothing));
    assert!(matches!(turns.next(now, 9, false, |_| true), Next::Nothing));
    assert_eq!(turns.take_shed(), 1);
    assert!(matches!(turns.next(now, 8, false, |_| true), Next::Probe(_)));
}

#[test]
fn idle_time_is_the_devices_and_counts_once() {
    // Only idle time gives credit: each probe costs all that a second of it gives.
    let (mut turns, mut now) = bench(&["e"], 0, 10_000);
    let budget = ProbeBudget { device_ppm: 0, idle_ppm: 10_000, shed_queue_texts: 8 };
    let mut second = |busy: usize| {
        for _ in busy..3 {
            turns.sleeps(now, 3);
        }
        now += Duration::from_secs(1);
        for _ in busy..3 {
            turns.wakes(now);
        }
        turns.offer(now, candidate("e", budget), 1, 0);
        let Next::Probe(_) = turns.next(now, 0, false, |_| true) else { return false };
        turns.finished("e", Duration::from_millis(10));
        true
    };
    assert_eq!([1, 2, 3].map(&mut second), [false; 3], "a worker that runs something keeps the device busy");
    assert_eq!([0, 0, 0].map(&mut second), [true; 3]);
    // Three workers' sleep is no more than one's: three seconds of it would be left over here.
    assert!(!second(1), "there was no more credit than what was spent");
}
