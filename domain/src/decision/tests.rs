//! The engine on made-up telemetry. Enters: nothing. Leaves: failures. Never: a queue; see `akidb-loadtest rehearse`.

use proptest::prelude::*;

use super::config::{Slo, Unit};
use super::look::{Answers, Crashes, Lane, Look, Missing, Probe, Units, Window};
use super::testing::Coin;
use super::verdict::Probing;
use super::*;
use crate::sketch::Sketch;

/// What the canary is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    ratio: f64,
    canary_errors: u64,
    cosine: f64,
    latency: f64,
    utilisation: f64,
    first_exceedances: Option<u64>,
}

pub(super) const EQUAL: World =
    World { ratio: 1.0, canary_errors: 10, cosine: 0.9999, latency: 1.0, utilisation: 0.5, first_exceedances: None };

pub(super) fn look(coin: &mut Coin, number: u64, world: World, lanes: [f64; 3]) -> Look {
    let lane = |coin: &mut Coin, slower: f64| {
        let mut sketch = Sketch::default();
        (0..100).for_each(|_| sketch.record((5e6 * slower * (1.0 + 3.0 * coin.unit())) as u64));
        Lane { latency: vec![sketch], first_exceedances: world.first_exceedances, ..Lane::default() }
    };
    let answers =
        |coin: &mut Coin, errors: u64| Answers { requests: 10, errors: (0..10).filter(|_| coin.below(10_000) < errors).count() as u64 };
    let probe = |coin: &mut Coin| {
        let time = |coin: &mut Coin, ratio: f64| (8e6 * ratio * (0.9 + 0.2 * coin.unit())) as u64;
        Probe { canary_ns: time(coin, world.ratio), baseline_ns: time(coin, 1.0), cosine: world.cosine, recall: 0.99 }
    };
    Look {
        number,
        length_ms: 36_000,
        canary: lane(coin, world.latency),
        control: lane(coin, 1.0),
        windows: (0..20).map(|_| Window { canary: answers(coin, world.canary_errors), control: answers(coin, 10) }).collect(),
        probes: (0..10).map(|_| probe(coin)).collect(),
        units: Units { canary: 200, control: 200, rest: (200.0 * lanes[2] / lanes[0]) as u64 },
        utilisation: Some(world.utilisation),
        missing: Missing { targeted_sidecars: 10, ..Missing::default() },
        crashes: Crashes { canary: 0, canary_seconds: 360, control: 0, control_seconds: 360 },
    }
}

/// Looks until the end, or until `most`; `change` may spoil each look.
fn run(config: &Config, world: World, most: u64, change: impl Fn(&mut Look)) -> (State, Vec<Outcome>) {
    let (mut state, mut outcomes, mut coin) = (State::new(config), Vec::new(), Coin::new(1));
    while state.looks < most && !matches!(state.stage, Stage::Complete | Stage::RolledBack) {
        let at = if let Stage::Phase(at) = state.stage { at } else { 0 };
        let mut look = look(&mut coin, state.looks + 1, world, config.phases[at].lanes());
        change(&mut look);
        outcomes.push(step(config, &mut state, &look).unwrap());
    }
    (state, outcomes)
}

fn last(world: World, change: impl Fn(&mut Look)) -> Outcome {
    run(&Config::default(), world, 400, change).1.pop().unwrap()
}

#[test]
fn an_equal_canary_goes_through_every_share() {
    let (state, outcomes) = run(&Config::default(), EQUAL, 400, |_| {});
    let shares: Vec<u32> =
        outcomes.iter().filter_map(|it| if let Verdict::Promote { share_ppm } = it.verdict { Some(share_ppm) } else { None }).collect();
    assert_eq!((state.stage, shares), (Stage::Complete, vec![250_000, 500_000, 950_000, 1_000_000]));
    let first = outcomes.iter().find(|it| it.proven).unwrap();
    assert!(first.probes >= 200, "{first:?}");
    assert!(first.reason.ends_with("the share grows from 5 % to 25 %"), "{}", first.reason);
    assert!(first.sentence.starts_with("ROLLOUT: canary P95 "), "{}", first.sentence);
}

#[test]
fn each_fault_is_rolled_back_by_its_guardrail() {
    let check = |world: World, change: fn(&mut Look), expected: Option<Guardrail>, says: &str| {
        let outcome = last(world, change);
        assert_eq!(outcome.verdict, Verdict::RollBack { guardrail: expected }, "{}", outcome.reason);
        assert!(outcome.reason.contains(says), "{}", outcome.reason);
    };
    check(World { ratio: 1.3, ..EQUAL }, |_| {}, Some(Guardrail::Speed), "speed worse than its margin: engine time 1.2");
    check(World { canary_errors: 300, ..EQUAL }, |_| {}, Some(Guardrail::Errors), "errors worse than its margin: error rate 0.0");
    check(World { latency: 1.5, ..EQUAL }, |_| {}, Some(Guardrail::Latency), "latency worse than its margin");
    check(World { cosine: 0.5, ..EQUAL }, |_| {}, Some(Guardrail::Quality), "quality worse than its margin: cosine 0.9");
    check(EQUAL, |it| it.probes.iter_mut().for_each(|it| it.recall = 0.6), Some(Guardrail::Quality), "recall@10 0.6 against 0.9");
    check(EQUAL, |it| it.crashes.canary = 1, Some(Guardrail::Crash), "crash worse than its margin");
    let alone = |it: &mut Look| it.crashes = Crashes { canary: 1, canary_seconds: 360, ..Crashes::default() };
    check(EQUAL, alone, Some(Guardrail::Crash), "3 sidecars that serve the canary were lost");
    // A sidecar that crashes is missing too; it must not hide behind that.
    let silent = |it: &mut Look| (it.crashes.canary, it.missing.lost_windows) = (1, 1);
    check(EQUAL, silent, Some(Guardrail::Crash), "crash");
}

#[test]
fn a_dearer_device_is_rolled_back_by_cost() {
    let mut config = Config::default();
    config.margins.price_ratio = 2.0;
    let (_, outcomes) = run(&config, EQUAL, 400, |_| {});
    assert_eq!(outcomes.last().unwrap().verdict, Verdict::RollBack { guardrail: Some(Guardrail::Cost) });
}

#[test]
fn a_broken_objective_is_rolled_back_though_control_is_no_better() {
    let config = Config { slo: Some(Slo { latency_ms: 15.0, allowed: 0.01 }), ..Config::default() };
    let (_, outcomes) = run(&config, EQUAL, 400, |_| {});
    let outcome = outcomes.last().unwrap();
    assert_eq!(outcome.verdict, Verdict::RollBack { guardrail: Some(Guardrail::Latency) });
    assert!(outcome.reason.contains("objective"), "{}", outcome.reason);
}

#[test]
fn what_is_missing_is_named_and_nothing_is_promoted() {
    let check = |change: fn(&mut Look), piece: &str| {
        let (_, outcomes) = run(&Config::default(), EQUAL, 100, change);
        assert!(
            outcomes.iter().all(|it| !it.proven && matches!(&it.verdict, Verdict::Inconclusive { missing } if missing[0].contains(piece))),
            "{piece}"
        );
        assert!(outcomes[0].reason.contains("the share stays at 5 %; missing: "), "{}", outcomes[0].reason);
    };
    check(|it| it.missing.silent_sidecars = vec!["pod-3".to_owned()], "telemetry of 1 silent sidecars, pod-3");
    check(|it| it.missing.lost_windows = 2, "2 telemetry windows");
    check(|it| it.missing.failed_artifacts = vec!["pod-1: digest".to_owned()], "artifact on 1 of 10 sidecars (pod-1: digest)");
    check(|it| it.missing.lease_expired = true, "lease");
}

#[test]
fn a_gap_holds_up_and_is_left_out_of_the_counts() {
    let gap = |it: &mut Look| {
        if it.number == 3 {
            it.missing.lost_windows = 1;
            it.windows[0].canary.errors = 10;
        }
    };
    let (_, outcomes) = run(&Config::default(), EQUAL, 400, gap);
    assert!(matches!(outcomes[2].verdict, Verdict::Inconclusive { .. }) && matches!(outcomes[3].verdict, Verdict::Wait { .. }));
    assert_eq!(outcomes[3].canary_requests, 600);
}

#[test]
fn too_little_evidence_is_inconclusive_and_at_twice_the_time_rolled_back() {
    let (_, outcomes) = run(&Config::default(), EQUAL, 400, |it| it.probes.truncate(1));
    assert!(matches!(&outcomes[98].verdict, Verdict::Wait { missing } if missing.iter().any(|it| it == "probes: 99 of 200")));
    assert!(matches!(&outcomes[99].verdict, Verdict::Inconclusive { missing } if missing.iter().any(|it| it == "probes: 100 of 200")));
    let none = |it: &mut Look| it.probes.clear();
    let last = last(EQUAL, none);
    assert_eq!((last.look, last.verdict), (200, Verdict::RollBack { guardrail: None }));
}

#[test]
fn a_wrong_split_pauses() {
    let last = run(&Config::default(), EQUAL, 100, |it| it.units.canary = 120).1.pop().unwrap();
    assert!(matches!(&last.verdict, Verdict::Inconclusive { missing } if missing[0].starts_with("a fair split")), "{last:?}");
}

#[test]
fn a_share_does_not_grow_onto_a_full_device() {
    // Within its margin, and yet 1.05 times slower takes the device from 84 % to over 85 %.
    let busy = World { ratio: 1.05, utilisation: 0.84, ..EQUAL };
    let mut config = Config::default();
    config.phases.remove(0);
    config.phases.remove(0);
    let (_, outcomes) = run(&config, busy, 50, |_| {});
    let last = outcomes.last().unwrap();
    assert!(last.reason.contains("utilisation 86 % is predicted at 95 %, over the limit of 85 %"), "{}", last.reason);
}

#[test]
fn a_soak_is_waited_for() {
    let mut config = Config::default();
    config.phases[0].soak_ms = config.phases[0].duration_ms;
    let (_, outcomes) = run(&config, EQUAL, 100, |_| {});
    assert!(outcomes[98].proven && outcomes[98].reason.contains("59.4 min of 60 min"), "{}", outcomes[98].reason);
    assert_eq!(outcomes[99].verdict, Verdict::Promote { share_ppm: 250_000 });
}

#[test]
fn a_sticky_draw_is_proven_before_it_meets_a_canary() {
    let config = Config { unit: Unit::Sticky, burn_in_ms: 20 * 36_000, ..Config::default() };
    let sticky = World { first_exceedances: Some(4), ..EQUAL };
    let (_, outcomes) = run(&config, sticky, 22, |_| {});
    assert_eq!((outcomes[19].verdict.clone(), outcomes[20].stage), (Verdict::Promote { share_ppm: 50_000 }, Stage::Phase(0)));
    let (state, outcomes) = run(&config, sticky, 40, |it| it.canary.first_exceedances = Some(12));
    assert!(outcomes[30].reason.contains("a fair draw of units: latency differs"), "{}", outcomes[30].reason);
    assert_eq!(state.stage, Stage::RolledBack);
}

#[test]
fn looks_come_in_turn_and_none_after_the_end() {
    let (config, mut coin) = (Config::default(), Coin::new(1));
    let mut state = State::new(&config);
    let second = look(&mut coin, 2, EQUAL, [0.05, 0.05, 0.9]);
    assert_eq!(step(&config, &mut state, &second), Err(BadLook::OutOfTurn { expected: 1, got: 2 }));
    let mut sticky = look(&mut coin, 1, EQUAL, [0.05, 0.05, 0.9]);
    sticky.canary.first_exceedances = Some(1);
    assert_eq!(step(&config, &mut state, &sticky), Err(BadLook::Unit(1)));
    state.stage = Stage::Complete;
    assert_eq!(step(&config, &mut state, &second), Err(BadLook::Over(2)));
}

#[test]
fn probing_slows_down_once_it_has_proven_its_point() {
    let mut config = Config::default();
    config.phases[0].min_canary_requests = 1_000_000;
    let (_, outcomes) = run(&config, EQUAL, 40, |_| {});
    assert_eq!((outcomes[0].probing, outcomes[39].probing), (Probing::Budget, Probing::Trickle));
    assert_eq!(last(EQUAL, |_| {}).probing, Probing::Off);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_state_read_back_decides_alike(seed in any::<u64>(), ratio in 0.3..1.5f64, canary_errors in 0..300u64, at in 1..30u64) {
        let config = Config::default();
        let (mut state, mut coin) = (State::new(&config), Coin::new(seed));
        for number in 1..=40 {
            if matches!(state.stage, Stage::Complete | Stage::RolledBack) { break; }
            if number == at {
                let text = serde_json::to_string(&state).unwrap();
                let back: State = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(serde_json::to_string(&back).unwrap(), text);
                prop_assert_eq!(&back, &state);
                state = back;
            }
            let Stage::Phase(phase) = state.stage else { break };
            let look = look(&mut coin, number, World { ratio, canary_errors, ..EQUAL }, config.phases[phase].lanes());
            let mut twin = state.clone();
            prop_assert_eq!(step(&config, &mut state, &look), step(&config, &mut twin, &look));
            prop_assert_eq!(&state, &twin);
        }
    }

    /// More errors in the canary's lane never lower the evidence against it, and never raise that for it.
    #[test]
    fn errors_speak_against_the_canary(seed in any::<u64>(), more in 1..20u64) {
        let config = Config::default();
        let mut strengths = Vec::new();
        for extra in [0, more] {
            let (mut state, mut coin) = (State::new(&config), Coin::new(seed));
            let mut outcome = None;
            for number in 1..=5 {
                let mut look = look(&mut coin, number, EQUAL, [0.05, 0.05, 0.9]);
                if number == 5 { look.windows[19].canary.errors += extra; }
                outcome = Some(step(&config, &mut state, &look).unwrap());
            }
            let evidence = outcome.unwrap().evidence.into_iter().find(|it| it.test == "error rate").unwrap();
            strengths.push((evidence.worse.unwrap().log_e, evidence.within.unwrap().log_e));
        }
        prop_assert!(strengths[1].0 >= strengths[0].0 && strengths[1].1 <= strengths[0].1);
    }
}
