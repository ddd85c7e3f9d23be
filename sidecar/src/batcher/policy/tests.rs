//! What the policy promises, on random traffic.

use proptest::prelude::*;

use super::*;

const ENGINE: EngineId = EngineId(1);

fn ask(request: u64, lane: u32, app: &str, lengths: Vec<u32>, deadline: Instant) -> Ask<u32> {
    Ask { request, lane, engine: ENGINE, app: app.to_owned(), lengths, deadline }
}

fn cut(next: Next<u32>) -> Cut<u32> {
    match next {
        Next::Run(cut) => cut,
        other => panic!("expected a batch, got {other:?}"),
    }
}

/// Runs what waits, each batch taking 100 us a token; the batches in order.
fn drain(policy: &mut Policy<u32>, now: &mut Instant) -> Vec<Cut<u32>> {
    let mut cuts = Vec::new();
    loop {
        match policy.next(*now) {
            Next::Run(cut) => {
                let padded = padded(&cut);
                let took = Duration::from_micros(100 * padded);
                *now += took;
                policy.finished(ENGINE, tokens(&cut), padded, took);
                cuts.push(cut);
            }
            Next::WaitUntil(until) => {
                assert!(until > *now, "a wait that is over");
                *now = until;
            }
            Next::Idle => return cuts,
        }
    }
}

fn tokens(cut: &Cut<u32>) -> u64 {
    cut.items.iter().map(|it| u64::from(it.tokens)).sum()
}

fn padded(cut: &Cut<u32>) -> u64 {
    cut.items.len() as u64 * cut.items.iter().map(|it| u64::from(it.tokens)).max().unwrap_or(0)
}

#[test]
fn a_lone_request_runs_at_once_whatever_the_window() {
    for adaptive in [true, false] {
        let mut policy = Policy::new(BatcherConfig { adaptive, max_wait: Duration::from_secs(9), ..BatcherConfig::default() });
        let start = Instant::now();
        for request in 0..50 {
            let now = start + Duration::from_millis(request);
            policy.push(now, ask(request, 0, "", vec![20], now + Duration::from_secs(30)));
            let cut = cut(policy.next(now));
            assert_eq!((cut.items.len(), cut.reason), (1, "idle"));
            policy.finished(ENGINE, 20, 20, Duration::from_micros(900));
            assert_eq!(policy.next(now), Next::Idle);
        }
    }
}

#[test]
fn requests_that_come_while_the_device_is_busy_wait_for_the_window_only() {
    let window = Duration::from_millis(10);
    let mut policy = Policy::new(BatcherConfig { adaptive: false, max_wait: window, ..BatcherConfig::default() });
    let now = Instant::now();
    let late = now + Duration::from_secs(30);
    policy.push(now, ask(0, 0, "", vec![20], late));
    assert_eq!(cut(policy.next(now)).items.len(), 1);
    policy.push(now, ask(1, 0, "", vec![20], late));
    policy.push(now, ask(2, 0, "", vec![20], late));
    assert_eq!(policy.next(now), Next::WaitUntil(now + window));
    let cut = cut(policy.next(now + window));
    assert_eq!((cut.items.len(), cut.reason), (2, "window"));
}

#[test]
fn tensorrt_provider_test_a_profile_decides_how_large_batches_are() {
    let limits = crate::engine::Limits { max_rows: 512, max_tokens: 512 * 256, lengths: vec![16, 32, 64, 128, 256].into() };
    let rows = |config: BatcherConfig| {
        let mut policy = Policy::new(config);
        policy.set_limits(ENGINE, limits.clone());
        let now = Instant::now();
        // Of 17 to 32 tokens: the engine pads all of them to 32, so none is padding to another.
        policy.push(now, ask(0, 0, "", (0..600).map(|it| 17 + it % 16).collect(), now + Duration::from_secs(30)));
        cut(policy.next(now)).items.len()
    };
    assert_eq!(rows(BatcherConfig::default()), 512);
    assert_eq!(rows(BatcherConfig { max_batch_size: 100, learn_size: false, ..BatcherConfig::default() }), 100);
    assert_eq!(rows(BatcherConfig { max_batch_tokens: 320, learn_budget: false, ..BatcherConfig::default() }), 10);
}

#[test]
fn tensorrt_provider_test_who_lacks_an_engine_leaves_its_lane_to_others() {
    let mut policy = Policy::new(BatcherConfig::default());
    let now = Instant::now();
    policy.push(now, ask(0, 0, "", vec![10], now + Duration::from_secs(30)));
    assert_eq!(policy.next_for(now, |_| false), Next::Idle);
    assert_eq!(cut(policy.next_for(now, |it| it == ENGINE)).items.len(), 1);
}

#[test]
fn a_long_text_and_a_short_one_do_not_share_a_batch() {
    let mut policy = Policy::new(BatcherConfig::default());
    let now = Instant::now();
    policy.push(now, ask(0, 0, "", vec![10, 250, 11, 240], now + Duration::from_secs(30)));
    let mut now = now;
    for cut in drain(&mut policy, &mut now) {
        let lengths: Vec<u32> = cut.items.iter().map(|it| it.tokens).collect();
        assert!(lengths.iter().all(|it| *it < 20) || lengths.iter().all(|it| *it > 200), "{lengths:?}");
    }
}

#[test]
fn long_texts_run_in_smaller_batches_while_short_ones_come_too() {
    let mut policy = Policy::new(BatcherConfig { max_batch_tokens: 400, learn_budget: false, ..BatcherConfig::default() });
    let start = Instant::now();
    let mut together = |after_ms: u64, short: bool, waiting: u64| {
        let now = start + Duration::from_millis(after_ms);
        let late = now + Duration::from_secs(30);
        if short {
            policy.push(now, ask(after_ms * 1_000, 0, "", vec![20], late));
            assert_eq!(cut(policy.next(now)).items.len(), 1);
        }
        for request in 1..=waiting {
            policy.push(now, ask(after_ms * 1_000 + request, 0, "", vec![200], late));
        }
        let texts = cut(policy.next(now)).items.len();
        while matches!(policy.next(now), Next::Run(_)) {}
        texts
    };
    assert_eq!(together(0, false, 4), 2);
    assert_eq!(together(1, true, 4), 1, "the next short one would wait for both");
    assert_eq!(together(2, false, 4), 1, "it may come again");
    assert_eq!(together(3, false, 17), 2, "where much waits, throughput counts");
    assert_eq!(together(900, false, 4), 2, "it has not come for long");
}

#[test]
fn a_single_text_is_not_stuck_behind_a_thousand() {
    let mut policy = Policy::new(BatcherConfig::default());
    let mut now = Instant::now();
    // Something is known of the engine's speed.
    policy.push(now, ask(0, 0, "", vec![20; 20], now + Duration::from_secs(30)));
    drain(&mut policy, &mut now);
    policy.push(now, ask(1, 0, "", vec![20; 1_000], now + Duration::from_secs(30)));
    for _ in 0..5 {
        let cut = cut(policy.next(now));
        let took = Duration::from_micros(100 * padded(&cut));
        now += took;
        policy.finished(ENGINE, tokens(&cut), padded(&cut), took);
    }
    policy.push(now, ask(2, 0, "", vec![20], now + Duration::from_secs(30)));
    let after = drain(&mut policy, &mut now).iter().position(|cut| cut.items.iter().any(|it| it.request == 2));
    assert!(after.is_some_and(|it| it <= 1), "served after {after:?} batches");
}

#[test]
fn the_earliest_deadline_is_first() {
    let mut policy = Policy::new(BatcherConfig { max_batch_size: 1, ..BatcherConfig::default() });
    let mut now = Instant::now();
    for (request, seconds) in [(0, 9), (1, 3), (2, 6)] {
        policy.push(now, ask(request, 0, "", vec![20], now + Duration::from_secs(seconds)));
    }
    let order: Vec<u64> = drain(&mut policy, &mut now).iter().map(|it| it.items[0].request).collect();
    assert_eq!(order, [1, 2, 0]);
}

#[test]
fn lanes_take_turns() {
    let mut policy = Policy::new(BatcherConfig::default());
    let mut now = Instant::now();
    let late = now + Duration::from_secs(30);
    policy.push(now, ask(0, 0, "", vec![100; 40], late));
    policy.push(now, ask(1, 1, "", vec![100; 40], late));
    let lanes: Vec<u32> = drain(&mut policy, &mut now).iter().map(|it| it.lane).collect();
    assert!(lanes.windows(2).all(|it| it[0] != it[1]), "{lanes:?}");
}

#[test]
fn a_full_queue_refuses_and_an_empty_one_takes_any() {
    let mut policy: Policy<u32> = Policy::new(BatcherConfig::default());
    let now = Instant::now();
    policy.finished(ENGINE, 100, 100, Duration::from_millis(100));
    let hour = Duration::from_secs(3_600);
    assert_eq!(policy.admit(ENGINE, &[256; 1_024], hour), Ok(()), "the empty queue");
    policy.push(now, ask(0, 0, "", vec![100; 39], now + Duration::from_secs(30)));
    assert_eq!(policy.admit(ENGINE, &[100], hour), Ok(()), "3.9 s and 0.1 s of work");
    assert_eq!(policy.admit(ENGINE, &[200], hour), Err(Duration::from_millis(200)), "3.9 s and 0.2 s of work");
    assert_eq!(policy.admit(EngineId(2), &[1; 4_096], hour), Err(Duration::ZERO), "4,135 texts of an engine not known yet");
    assert_eq!(policy.admit(ENGINE, &[100], Duration::from_secs(4)), Ok(()), "in time");
    assert_eq!(policy.admit(ENGINE, &[100], Duration::from_millis(3_500)), Err(Duration::from_millis(500)), "too late for its client");
}

#[test]
fn each_engine_has_its_budget() {
    for (learn_budget, expected) in [(true, 100), (false, 400)] {
        let mut policy = Policy::new(BatcherConfig { max_batch_tokens: 400, learn_budget, ..BatcherConfig::default() });
        let mut now = Instant::now();
        policy.set_budget(ENGINE, 100);
        assert_eq!((policy.budget(ENGINE), policy.budget(EngineId(2))), (expected, 400));
        policy.push(now, ask(0, 0, "", vec![20; 60], now + Duration::from_secs(30)));
        let most = drain(&mut policy, &mut now).iter().map(padded).max();
        assert_eq!(most, Some(expected as u64));
        policy.forget(ENGINE);
        assert_eq!(policy.budget(ENGINE), 400);
    }
}

#[test]
fn unbatched_runs_one_request_at_a_time() {
    let mut policy = Policy::new(BatcherConfig { enabled: false, ..BatcherConfig::default() });
    let mut now = Instant::now();
    for request in 0..5 {
        policy.push(now, ask(request, 0, "", vec![20, 21], now + Duration::from_secs(30)));
    }
    for cut in drain(&mut policy, &mut now) {
        assert_eq!((cut.items.len(), cut.items[0].request, cut.reason), (2, cut.items[1].request, "unbatched"));
    }
}

#[test]
fn overhead_gets_a_tenth_of_a_busy_device() {
    let mut policy = Policy::new(BatcherConfig::default());
    let now = Instant::now();
    assert!(policy.overhead_allowed(), "nothing waits");
    policy.push(now, ask(0, 0, "", vec![20; 1_000], now + Duration::from_secs(30)));
    let (mut busy, mut overhead) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..100 {
        policy.finished(ENGINE, 20, 20, Duration::from_millis(9));
        busy += Duration::from_millis(9);
        while policy.overhead_allowed() {
            policy.overhead_finished(Duration::from_millis(5));
            overhead += Duration::from_millis(5);
        }
    }
    let part = overhead.as_secs_f64() / (busy + overhead).as_secs_f64();
    assert!((0.08..0.12).contains(&part), "{part}");
}

#[derive(Debug, Clone)]
enum Event {
    Request { lane: u32, app: usize, lengths: Vec<u32>, deadline_ms: u64 },
    Cancel { nth: usize },
    Run,
    Pass { us: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let lengths = prop::collection::vec(prop_oneof![3..30u32, 3..256u32], 1..20);
    prop_oneof![
        4 => (0..3u32, 0..3usize, lengths, 1..30_000u64)
            .prop_map(|(lane, app, lengths, deadline_ms)| Event::Request { lane, app, lengths, deadline_ms }),
        1 => (0..100usize).prop_map(|nth| Event::Cancel { nth }),
        3 => Just(Event::Run),
        1 => (1..20_000u64).prop_map(|us| Event::Pass { us }),
    ]
}

fn config() -> impl Strategy<Value = BatcherConfig> {
    (any::<bool>(), any::<bool>(), 1..65usize, 16..600usize, 0..20u64).prop_map(
        |(enabled, adaptive, max_batch_size, max_batch_tokens, wait)| {
            let max_wait = Duration::from_millis(wait);
            BatcherConfig { enabled, max_batch_size, max_wait, adaptive, max_batch_tokens, ..BatcherConfig::default() }
        },
    )
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_or_over_budget(config in config(), events in prop::collection::vec(event(), 1..120)) {
        let mut policy = Policy::new(config.clone());
        let mut now = Instant::now();
        let mut asked: HashMap<u64, (u32, Vec<u32>)> = HashMap::new();
        let mut cancelled = BTreeSet::new();
        let mut cuts = Vec::new();
        for (id, event) in (0u64..).zip(events) {
            match event {
                Event::Request { lane, app, lengths, deadline_ms } => {
                    asked.insert(id, (lane, lengths.clone()));
                    policy.push(now, ask(id, lane, ["", "a", "b"][app], lengths, now + Duration::from_millis(deadline_ms)));
                }
                Event::Cancel { nth } => {
                    let mut ids: Vec<u64> = asked.keys().copied().collect();
                    ids.sort_unstable();
                    if let Some(id) = ids.get(nth) {
                        policy.remove(*id);
                        cancelled.insert(*id);
                    }
                }
                Event::Run => if let Next::Run(cut) = policy.next(now) {
                    prop_assert!(cut.items.iter().all(|it| !cancelled.contains(&it.request)), "cancelled work ran");
                    let took = Duration::from_micros(300 + 100 * padded(&cut));
                    now += took;
                    policy.finished(ENGINE, tokens(&cut), padded(&cut), took);
                    cuts.push(cut);
                },
                Event::Pass { us } => now += Duration::from_micros(us),
            }
            let waiting: usize = (0..3).map(|it| policy.waiting_in(&it)).sum();
            prop_assert_eq!(waiting, policy.waiting());
        }
        cuts.extend(drain(&mut policy, &mut now));
        prop_assert_eq!(policy.waiting(), 0);
        prop_assert!(policy.requests.is_empty() && policy.lanes.is_empty() && policy.tokens == 0);
        let mut seen = BTreeSet::new();
        for cut in &cuts {
            prop_assert!(!cut.items.is_empty());
            prop_assert!(cut.items.len() <= config.max_batch_size);
            prop_assert!(cut.items.len() == 1 || padded(cut) <= config.max_batch_tokens as u64);
            prop_assert!(config.enabled || cut.items.iter().all(|it| it.request == cut.items[0].request));
            for item in &cut.items {
                prop_assert!(seen.insert((item.request, item.text)), "{item:?} ran twice");
                let (lane, lengths) = &asked[&item.request];
                prop_assert_eq!((*lane, lengths[item.text]), (cut.lane, item.tokens));
            }
        }
        for (id, (_, lengths)) in asked.iter().filter(|(id, _)| !cancelled.contains(id)) {
            prop_assert!((0..lengths.len()).all(|text| seen.contains(&(*id, text))), "request {} lost a text", id);
        }
    }

    #[test]
    fn apps_share_a_busy_lane(greedy in 200..1_000usize, length in 8..200u32) {
        let mut policy = Policy::new(BatcherConfig::default());
        let mut now = Instant::now();
        let late = now + Duration::from_secs(30);
        policy.push(now, ask(0, 0, "greedy", vec![length; greedy], late));
        policy.push(now, ask(1, 0, "modest", vec![length; 50], late));
        let order: Vec<u64> = drain(&mut policy, &mut now).iter().flat_map(|it| &it.items).map(|it| it.request).collect();
        let last = order.iter().rposition(|it| *it == 1).unwrap();
        prop_assert!(last <= 100 + 2 * 512 / length as usize, "the modest app's 50th text was number {} of {}", last, order.len());
    }
}
