//! Windows from observations, at chosen moments.

use std::time::{Duration, Instant};

use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};
use proptest::prelude::*;

use super::*;

fn device() -> Device {
    Device { sku: "cpu".into(), region: "local".into(), uuid: "cpu-n".into(), share_ppm: 1_000_000 }
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
    Observation::Request(RequestDone { lane: lane(variant), consumer, texts: 1, tokens: 7, truncated: 0, latency, queue, error: None })
}

struct Bench {
    clock: Clock,
    zero: Instant,
    aggregate: Aggregate,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::start();
        Self { clock, zero: Instant::now(), aggregate: Aggregate::new(clock, device()) }
    }

    fn at(&self, millis: u64) -> Instant {
        self.zero + Duration::from_millis(millis)
    }

    fn ns(&self, millis: u64) -> u64 {
        self.clock.unix_ns(self.at(millis))
    }

    fn start(&mut self, millis: u64) {
        let (at, now) = (self.at(millis), self.ns(millis));
        self.aggregate.observe(Observation::BatchStarted { worker: 0, lane: lane("a"), at }, now);
    }

    fn finish(&mut self, from: u64, to: u64) {
        let done = BatchDone { worker: 0, lane: lane("a"), from: self.at(from), to: self.at(to), tokens: 7, padded_tokens: 8 };
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
