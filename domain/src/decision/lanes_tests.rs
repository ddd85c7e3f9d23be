//! The lane tests on made-up lanes. Enters: nothing. Leaves: failures. Never: a queue; that is what `akidb-loadtest rehearse` is for.

use super::*;
use crate::decision::testing::Coin;
use crate::sketch::Sketch;

fn answers(coin: &mut Coin, requests: u64, errors_per_10_000: u64) -> Answers {
    Answers { requests, errors: (0..requests).filter(|_| coin.below(10_000) < errors_per_10_000).count() as u64 }
}

/// How many of `runs` runs of 5,000 canary requests ever prove `worse` and `within` at `alpha`, given errors in ten thousand of canary and
/// control and the requests of a window.
fn errors(rates: [u64; 2], requests: u64, alpha: f64, runs: u64) -> [usize; 2] {
    let mut counts = [0; 2];
    for run in 0..runs {
        let (mut coin, mut errors, mut seen) = (Coin::new(run), Errors::default(), [false; 2]);
        for _ in 0..5_000 / requests {
            let [canary, control] = rates.map(|it| answers(&mut coin, requests, it));
            errors.push(Window { canary, control }, 0.005, false);
            seen[0] |= errors.worse.log_e() >= -libm::log(alpha);
            seen[1] |= errors.within.log_e() >= -libm::log(alpha);
        }
        counts.iter_mut().zip(seen).for_each(|(count, seen)| *count += usize::from(seen));
    }
    counts
}

#[test]
fn errors_are_judged_against_the_margin() {
    let [worse, within] = errors([10, 10], 10, 0.05, 200);
    assert!(worse <= 1 && within >= 198, "0.1 % each: {worse} and {within} of 200");
    let [worse, within] = errors([300, 100], 10, 0.01, 200);
    assert!(worse >= 196 && within == 0, "3 % against 1 %: {worse} and {within} of 200");
}

#[test]
fn exactly_half_a_point_apart_nothing_is_proven_but_by_chance() {
    for (rates, requests) in [([150, 100], 5), ([150, 100], 50), ([50, 0], 2), ([50, 0], 50), ([50, 0], 500), ([60, 10], 200)] {
        let proven = errors(rates, requests, 0.05, 400);
        // 5 % of 400 and three standard errors.
        assert!(proven.iter().all(|it| *it <= 33), "{rates:?} of 10,000 at {requests}: {proven:?} of 400");
    }
}

/// The canary's draw has a third less traffic than the control's, for good: exactly at the margin its fewer errors must not prove it good.
#[test]
fn a_lighter_draw_proves_nothing() {
    let proven = (0..400).filter(|&run| {
        let (mut coin, mut errors) = (Coin::new(run), Errors::default());
        (0..1_000).any(|_| {
            let (canary, control) = (answers(&mut coin, 4, 150), answers(&mut coin, 6, 100));
            errors.push(Window { canary, control }, 0.005, true);
            errors.within.log_e() >= libm::log(20.0)
        })
    });
    let proven = proven.count();
    assert!(proven <= 33, "{proven} of 400");
}

/// Whole windows fail together, in either lane alike: no request is independent, and the difference is still symmetric.
#[test]
fn errors_in_clusters_raise_no_alarm_of_equal_arms() {
    let alarms = (0..400).filter(|&run| {
        let (mut coin, mut errors) = (Coin::new(run), Errors::default());
        (0..100).any(|_| {
            let [canary, control] = [0; 2].map(|_| {
                let good = answers(&mut coin, 50, 10);
                if coin.below(20) == 0 { Answers { errors: 40, ..good } } else { good }
            });
            errors.push(Window { canary, control }, 0.005, false);
            errors.worse.log_e() >= libm::log(20.0)
        })
    });
    let alarms = alarms.count();
    assert!(alarms <= 33, "{alarms} of 400");
}

/// Latencies of a lane in a look whose load both lanes share; batches of 8 share their latency.
fn loaded(coin: &mut Coin, load: f64, slower: f64) -> Lane {
    let mut sketch = Sketch::default();
    for _ in 0..10 {
        let batch = (1e7 * load * slower * libm::exp(0.4 * (coin.unit() - 0.5))) as u64;
        (0..8).for_each(|_| sketch.record(batch));
    }
    Lane { latency: vec![sketch], ..Lane::default() }
}

fn latency(slower: f64, runs: u64) -> usize {
    let alarmed = |run: &u64| {
        let (mut coin, mut levels, mut latency, mut load) = (Coin::new(*run), Levels::default(), Latency::default(), 0.0);
        (0..100).any(|_| {
            load = 0.98 * load + 0.1 * (coin.unit() - 0.5);
            let lanes = [slower, 1.0].map(|it| loaded(&mut coin, libm::exp(load), it));
            let thresholds = levels.thresholds(0.1);
            if !thresholds.is_empty() {
                latency.push([exceedances(&lanes[0], &thresholds, |it| it.canary), exceedances(&lanes[1], &thresholds, |it| it.control)]);
            }
            levels.learn(&lanes[1], 0.95);
            latency.worse.log_e() >= libm::log(20.0)
        })
    };
    (0..runs).filter(alarmed).count()
}

#[test]
fn latency_alarms_for_slow_lanes_and_not_for_equal_ones() {
    let (equal, slow) = (latency(1.0, 400), latency(1.5, 100));
    assert!(equal <= 33 && slow == 100, "equal {equal} of 400, 1.5x slower {slow} of 100");
}

#[test]
fn failures_exceed_any_threshold_and_a_unit_counts_once() {
    let mut lane = Lane { failures: 3, latency: vec![Sketch::default(), Sketch::default()], ..Lane::default() };
    lane.latency[0].record(5_000_000);
    lane.latency[1].record(7_000_000);
    let at = |ms: f64| bucket_at_or_above(ms);
    let thresholds = [Some(Threshold { control: at(4.0), canary: at(6.0) }), None];
    assert_eq!(exceedances(&lane, &thresholds, |it| it.control), 4);
    assert_eq!(exceedances(&lane, &thresholds, |it| it.canary), 3);
    lane.first_exceedances = Some(2);
    assert_eq!(exceedances(&lane, &thresholds, |it| it.control), 2);
}

#[test]
fn an_objective_is_broken_only_beyond_what_it_allows() {
    let broken = |slow: u64| {
        let (mut coin, mut objective) = (Coin::new(slow), Objective::default());
        (0..100).any(|_| {
            let mut sketch = Sketch::default();
            (0..200).for_each(|_| sketch.record(if coin.below(1_000) < slow { 90_000_000 } else { 9_000_000 }));
            objective.push(&Lane { latency: vec![sketch], ..Lane::default() }, Slo { latency_ms: 50.0, allowed: 0.01 });
            objective.worse.log_e() >= libm::log(400.0)
        })
    };
    assert!(!broken(5) && broken(30));
}
