//! Windows from observations, at chosen moments.

use std::time::{Duration, Instant};

use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};
use proptest::prelude::*;

use super::*;

fn device(count: u32) -> Device {
    Device { sku: "cpu".into(), region: "local".into(), uuid: "cpu-n".into(), share_ppm: 1_000_000, count }
}

pub(crate) fn lane(variant: &str) -> Arc<LaneId> {
    Arc::new(LaneId {
        model: "m".into(),
        version: "1".into(),
        variant: variant.into(),
        precision: Precision::Fp32,
        arm: Arm::Baseline,
        experiment: String::new(),
        phase: 0,
        digest: "d".into(),
        provider: ExecutionProvider::Cpu,
        fallback: false,
    })
}

fn request(variant: &str, app: &str) -> Observation {
    let consumer = Consumer { app: app.into(), tenant: String::new() };
    let (latency, queue) = (Duration::from_millis(5), Duration::from_millis(1));
    Observation::Request(RequestDone {
        lane: lane(variant),
        consumer,
        unit: None,
        texts: 1,
        tokens: 7,
        longest: 7,
        truncated: 0,
        latency,
        queue,
        error: None,
    })
}

struct Bench {
    clock: Clock,
    zero: Instant,
    aggregate: Aggregate,
}

impl Bench {
    fn new() -> Self {
        Self::of(1)
    }

    fn of(devices: u32) -> Self {
        let clock = Clock::start();
        Self { clock, zero: Instant::now(), aggregate: Aggregate::new(clock, device(devices)) }
    }

    fn at(&self, millis: u64) -> Instant {
        self.zero + Duration::from_millis(millis)
    }

    fn ns(&self, millis: u64) -> u64 {
        self.clock.unix_ns(self.at(millis))
    }

    fn start(&mut self, millis: u64) {
        self.start_on(0, millis);
    }

    fn finish(&mut self, from: u64, to: u64) {
        self.finish_on(0, from, to);
    }

    fn start_on(&mut self, worker: usize, millis: u64) {
        let (at, now) = (self.at(millis), self.ns(millis));
        self.aggregate.observe(Observation::BatchStarted { worker, lane: lane("a"), at }, now);
    }

    fn probe(&mut self, from: u64, to: u64) {
        let worker = 0;
        let (model, variant, experiment, now) = ("m".to_owned(), "b".to_owned(), "e".to_owned(), self.ns(to));
        let (from, to) = (self.at(from), self.at(to));
        self.aggregate.observe(Observation::Overhead { worker, cause: "probe", model, variant, experiment, from, to }, now);
    }

    fn finish_on(&mut self, worker: usize, from: u64, to: u64) {
        let done = BatchDone { worker, lane: lane("a"), from: self.at(from), to: self.at(to), tokens: 7, padded_tokens: 8 };
        let now = self.ns(to);
        self.aggregate.observe(Observation::BatchFinished(done), now);
    }
}

#[test]
fn a_batch_over_a_cut_is_credited_to_both_windows() {
    let mut bench = Bench::new();
    bench.start(100);
    let first = bench.aggregate.cut(bench.ns(400), 0, false);
    bench.finish(100, 1_000);
    let second = bench.aggregate.cut(bench.ns(1_400), 3, false);
    assert_eq!((first.lanes[0].engine_ns, first.lanes[0].batches), (300_000_000, 0));
    assert_eq!((second.lanes[0].engine_ns, second.lanes[0].batches), (600_000_000, 1));
    assert_eq!((first.sequence, second.sequence, second.start_ns, second.lost_observations), (1, 2, first.end_ns, 3));
    assert_eq!(second.device.cumulative_busy_ns, 900_000_000);
    assert_eq!(second.device.cumulative_elapsed_ns, second.end_ns - bench.clock.boot_unix_ns());
}

#[test]
fn what_workers_do_at_the_same_time_is_one_time_of_the_device() {
    let mut bench = Bench::new();
    // Short ones end inside a long batch and a probe; then a batch over the cut.
    bench.start_on(0, 0);
    for (from, to) in [(20, 30), (40, 45)] {
        bench.start_on(1, from);
        bench.finish_on(1, from, to);
    }
    bench.finish_on(0, 0, 100);
    bench.start_on(1, 150);
    bench.finish_on(1, 150, 160);
    bench.probe(90, 200);
    bench.start_on(0, 300);
    bench.start_on(1, 350);
    let first = bench.aggregate.cut(bench.ns(400), 0, false);
    assert_eq!((first.device.busy_ns, first.lanes[0].batches), (210_000_000, 4), "100 + 10 + 100 ms of batches");
    assert_eq!(first.device.overheads[0].device_ns, 90_000_000, "200 less 100 less 10");
    bench.finish_on(1, 350, 410);
    bench.finish_on(0, 300, 500);
    assert_eq!(bench.aggregate.cut(bench.ns(600), 0, false).device.busy_ns, 100_000_000);
}

#[test]
fn each_device_has_a_time_of_its_own_and_a_load_takes_all() {
    let mut bench = Bench::of(2);
    // Executors 0 and 2 are of the first device, 1 of the second.
    for worker in 0..3 {
        bench.start_on(worker, 0);
    }
    let first = bench.aggregate.cut(bench.ns(100), 0, false);
    let whole = first.device.busy_ns;
    assert_eq!(
        (whole, first.device.devices, first.device_ns()),
        (2 * (bench.ns(100) - bench.ns(0)), 2, 2 * (first.end_ns - first.start_ns))
    );
    for worker in 0..3 {
        bench.finish_on(worker, 0, 150 + 10 * worker as u64);
    }
    bench.probe(150, 200);
    let (cause, model, variant, device) = ("load", "m".to_owned(), "b".to_owned(), Duration::from_millis(7));
    bench.aggregate.observe(Observation::Beside { cause, model, variant, device }, bench.ns(160));
    let second = bench.aggregate.cut(bench.ns(200), 0, false);
    assert_eq!(second.device.busy_ns, 130_000_000, "70 ms of the first, 60 of the second");
    let overheads: Vec<_> = second.device.overheads.iter().map(|it| (it.cause.as_str(), it.device_ns)).collect();
    assert_eq!(overheads, [("load", 14_000_000), ("probe", 30_000_000)]);
}

#[test]
fn windows_are_due_a_second_after_work_ten_without_and_at_full_hours() {
    let mut bench = Bench::new();
    let start = bench.clock.boot_unix_ns();
    let hour = bench.aggregate.next_hour_ns();
    assert_eq!(bench.aggregate.due_ns(), (start + IDLE_NS).min(hour));
    bench.start(2_000);
    assert_eq!(bench.aggregate.due_ns(), (bench.ns(2_000) + WORK_NS).min(hour));
    let end = bench.ns(3_000);
    bench.aggregate.cut(end, 0, false);
    // The batch still runs: there is work from the start of the next window on.
    assert_eq!(bench.aggregate.due_ns(), (end + WORK_NS).min(bench.aggregate.next_hour_ns()));
    assert!(hour.is_multiple_of(HOUR_NS) && hour > start);
}

#[test]
fn consumers_are_bounded_and_nothing_of_them_is_lost() {
    let mut bench = Bench::new();
    for i in 0..MAX_CONSUMERS + 50 {
        bench.aggregate.observe(request("a", &format!("app-{i}")), bench.ns(1));
    }
    let window = bench.aggregate.cut(bench.ns(1_000), 0, false);
    let lane = &window.lanes[0];
    assert_eq!(lane.consumers.len(), MAX_CONSUMERS + 1);
    assert_eq!(lane.consumers.iter().map(|it| it.requests).sum::<u64>(), lane.requests);
    assert!(lane.consumers.iter().any(|it| it.app == OTHER_CONSUMER && it.requests == 50));
}

/// A request of an experiment: its longest text, its latency, its unit and how it ended.
fn in_arm(arm: Arm, longest: u32, millis: u64, unit: Option<u64>, error: Option<&'static str>) -> [Observation; 2] {
    let lane = Arc::new(LaneId { arm, experiment: "e".into(), ..LaneId::clone(&lane("a")) });
    let (consumer, latency) = (Consumer::default(), Duration::from_millis(millis));
    let met = Observation::Met { lane: lane.clone(), unit };
    let (texts, tokens, truncated, queue) = (1, 7, 0, Duration::ZERO);
    [met, Observation::Request(RequestDone { lane, consumer, unit, texts, tokens, longest, truncated, latency, queue, error })]
}

#[test]
fn a_lane_of_an_experiment_has_lengths_units_and_late_failures() {
    let mut bench = Bench::new();
    let now = bench.ns(1);
    let ends = [(10, 5, None), (16, 5, None), (17, 5, None), (300, 5, None), (0, 9, Some("deadline")), (0, 1, Some("queue_full"))];
    for (longest, millis, error) in ends.into_iter().chain([(0, 3, Some("cancelled")), (0, 3, Some("invalid"))]) {
        for fact in in_arm(Arm::Canary, longest, millis, None, error) {
            bench.aggregate.observe(fact, now);
        }
    }
    bench.aggregate.observe(request("a", "outside"), now);
    let window = bench.aggregate.cut(bench.ns(1_000), 0, false);
    let (outside, lane) = (&window.lanes[0], &window.lanes[1]);
    assert_eq!((lane.requests, lane.units, lane.late_failures, lane.first_requests), (4, 8, 2, 0));
    assert_eq!(lane.latency_by_length.iter().map(Sketch::count).collect::<Vec<_>>(), [2, 1, 0, 1]);
    let mut merged = Sketch::default();
    lane.latency_by_length.iter().for_each(|it| merged.merge(it));
    assert_eq!(merged, lane.latency);
    assert_eq!((outside.units, outside.latency_by_length.len()), (0, 0));
}

#[test]
fn a_sticky_unit_counts_once_a_phase_over_all_windows() {
    let mut bench = Bench::new();
    let split = super::super::units::tests::split(0, true, [0.1; 4], [0.1; 4]);
    bench.aggregate.follow(SnapshotVersion { epoch: 1, n: 1 }, std::slice::from_ref(&split));
    let mut second = |requests: &[(u64, u64, Option<&'static str>)], at: u64| {
        for (unit, millis, error) in requests {
            for fact in in_arm(Arm::Control, 7, *millis, Some(*unit), *error) {
                bench.aggregate.observe(fact, bench.clock.unix_ns(bench.zero));
            }
        }
        let window = bench.aggregate.cut(bench.ns(at), 0, false);
        let lane = &window.lanes[0];
        (lane.units, lane.first_requests, lane.first_failures, lane.first_exceedances)
    };
    assert_eq!(second(&[(1, 5, None), (1, 200, None), (2, 5, Some("queue_full")), (2, 5, Some("invalid"))], 1_000), (2, 3, 1, 1));
    // 1 exceeds again; 2 has failed before and now times out; 3 comes new; what a client sent wrong counts nowhere.
    assert_eq!(second(&[(1, 300, None), (2, 5, Some("deadline")), (3, 5, Some("invalid"))], 2_000), (1, 1, 0, 1));
}

fn probe(at: Instant) -> Observation {
    let (experiment, phase, at_ns) = ("e".to_owned(), 0, 0);
    let (canary_ns, baseline_ns, cosine, recall, texts, tokens, canary_first) = (1, 1, 1.0, 1.0, 1, 1, true);
    let result = ProbeResult { experiment, phase, at_ns, canary_ns, baseline_ns, cosine, recall, texts, tokens, canary_first };
    Observation::Probe { at, result }
}

#[test]
fn probes_are_in_their_window_and_fill_it_before_they_are_lost() {
    let mut bench = Bench::new();
    for _ in 0..MAX_PROBES {
        assert!(!bench.aggregate.is_full());
        let probe = probe(bench.at(1));
        bench.aggregate.observe(probe, bench.ns(1));
    }
    assert!(bench.aggregate.is_full());
    bench.probe(1, 3);
    let window = bench.aggregate.cut(bench.ns(1_000), 0, false);
    assert_eq!(window.probes[0].at_ns, bench.ns(1));
    assert_eq!((window.probes.len(), bench.aggregate.cut(bench.ns(2_000), 0, false).probes.len()), (MAX_PROBES, 0));
    let overhead = &window.device.overheads[0];
    assert_eq!((overhead.cause.as_str(), overhead.experiment.as_str(), overhead.device_ns), ("probe", "e", 2_000_000));
}

#[test]
fn a_window_says_when_its_lanes_are_full() {
    let mut bench = Bench::new();
    for i in 0..MAX_LANES - 1 {
        assert!(!bench.aggregate.is_full());
        bench.aggregate.observe(request(&format!("v{i}"), "app"), bench.ns(1));
    }
    assert!(bench.aggregate.is_full());
}

proptest! {
    #[test]
    fn device_time_is_counted_once_whatever_the_cuts(batches in prop::collection::vec((0..50u64, 1..200u64), 1..40), cuts in prop::collection::vec(1..400u64, 1..40)) {
        let mut bench = Bench::new();
        let (mut at, mut busy, mut counted, mut cuts, mut last_end) = (0, 0, 0, cuts.into_iter(), bench.clock.boot_unix_ns());
        let mut next_cut = cuts.next();
        let mut sequence = 0;
        for (pause, length) in batches {
            let (from, to) = (at + pause, at + pause + length);
            bench.start(from);
            while let Some(cut) = next_cut.filter(|it| *it <= to) {
                let window = bench.aggregate.cut(bench.ns(cut.max(from)), 0, false);
                sequence += 1;
                prop_assert_eq!((window.sequence, window.start_ns), (sequence, last_end));
                prop_assert!(window.device.busy_ns <= window.end_ns - window.start_ns);
                counted += window.device.busy_ns;
                last_end = window.end_ns;
                next_cut = cuts.next().map(|it| it + cut);
            }
            bench.finish(from, to);
            busy += length * 1_000_000;
            at = to;
        }
        let window = bench.aggregate.cut(bench.ns(at + 1), 0, true);
        prop_assert_eq!(counted + window.device.busy_ns, busy);
        prop_assert_eq!(window.device.cumulative_busy_ns, busy);
    }
}
