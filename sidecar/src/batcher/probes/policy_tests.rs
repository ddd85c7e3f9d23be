//! Budgets, load and candidates, at chosen moments.

use super::*;

const BUDGET: ProbeBudget = ProbeBudget { device_ppm: 10_000, idle_ppm: 10_000, shed_queue_texts: 8 };
const FREE: Load = Load { waiting: 0, loading: false };

struct Bench {
    policy: Policy<u64>,
    now: Instant,
    budget: ProbeBudget,
    random: u64,
    offered: u64,
    probes: Vec<(Duration, u64)>,
    begun: Instant,
}

impl Bench {
    fn new(budget: ProbeBudget) -> Self {
        let now = Instant::now();
        let mut bench = Self { policy: Policy::default(), now, budget, random: 7, offered: 0, probes: Vec::new(), begun: now };
        bench.offer(ENOUGH_VECTORS);
        bench
    }

    fn stage() -> Stage {
        Stage { phase: 0, baseline: EngineId(1), canary: EngineId(2) }
    }

    fn draw(&mut self) -> u64 {
        // Marsaglia's xorshift: any source will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    fn offer(&mut self, vectors: usize) {
        self.offer_of("e", Self::stage(), vectors);
    }

    fn offer_of(&mut self, experiment: &str, stage: Stage, vectors: usize) {
        let draw = self.draw();
        let offer = Offer { now: self.now, experiment, stage, budget: self.budget, vectors, draw };
        let number = self.offered;
        self.policy.offer(offer, || number);
        self.offered += 1;
    }

    /// The device is busy with a batch, or idle; then it may probe, at a cost.
    fn pass(&mut self, millis: u64, busy: bool, load: Load, cost: Duration) {
        self.now += Duration::from_millis(millis);
        if busy {
            self.offer(1);
        } else {
            self.policy.slept(Duration::from_millis(millis));
        }
        if let Next::Probe(batch) = self.policy.next(self.now, load) {
            self.probes.push((self.now - self.begun, batch));
            self.policy.spent("e", cost);
            self.now += cost;
        }
    }

    fn spent(&self, cost: Duration) -> f64 {
        (cost * self.probes.len() as u32).as_secs_f64() / (self.now - self.begun).as_secs_f64()
    }
}

#[test]
fn a_busy_device_gives_one_part_in_a_hundred_and_an_idle_one_two() {
    let cost = Duration::from_millis(20);
    let mut busy = Bench::new(BUDGET);
    for _ in 0..60_000 {
        busy.pass(10, true, FREE, cost);
    }
    assert!((0.0097..0.0102).contains(&busy.spent(cost)), "{}", busy.spent(cost));
    let mut idle = Bench::new(BUDGET);
    for i in 0..60_000 {
        // A batch of 1 ms each 10 ms.
        idle.pass(if i % 2 == 0 { 1 } else { 9 }, i % 2 == 0, FREE, cost);
    }
    assert!((0.0175..0.0195).contains(&idle.spent(cost)), "{}", idle.spent(cost));
}

#[test]
fn a_probe_of_seconds_leaves_a_debt_and_not_a_higher_bill() {
    let cost = Duration::from_secs(2);
    let mut bench = Bench::new(BUDGET);
    for _ in 0..360_000 {
        bench.pass(10, true, FREE, cost);
    }
    assert!((16..=19).contains(&bench.probes.len()), "{} in an hour", bench.probes.len());
}

#[test]
fn what_waits_and_what_loads_go_first() {
    let cost = Duration::from_millis(5);
    for (load, probes) in [
        (Load { waiting: 9, loading: false }, false),
        (Load { waiting: 8, loading: false }, true),
        (Load { waiting: 0, loading: true }, false),
    ] {
        let mut bench = Bench::new(BUDGET);
        for _ in 0..1_000 {
            bench.pass(10, true, load, cost);
        }
        assert_eq!(!bench.probes.is_empty(), probes, "{load:?}");
        assert_eq!(bench.policy.take_shed(), u64::from(!probes), "one probe waits, however often it is asked for: {load:?}");
    }
}

#[test]
fn a_quiet_night_is_no_burst_in_the_morning() {
    let mut bench = Bench::new(BUDGET);
    bench.now += Duration::from_secs(8 * 3_600);
    bench.policy.slept(Duration::from_secs(8 * 3_600));
    bench.probes.clear();
    for _ in 0..100 {
        bench.pass(10, true, FREE, Duration::from_millis(10));
    }
    let gaps: Vec<Duration> = bench.probes.windows(2).map(|it| it[1].0.saturating_sub(it[0].0)).collect();
    assert!(bench.probes.len() <= 7, "{} probes in a second", bench.probes.len());
    assert!(gaps.iter().all(|it| *it >= SPACING), "{gaps:?}");
}

#[test]
fn each_batch_since_the_last_probe_is_as_likely() {
    let mut bench = Bench::new(BUDGET);
    let mut counts = [0u32; 10];
    for _ in 0..4_000 {
        let first = bench.offered;
        // Ten batches in a debt, then a probe.
        bench.policy.spent("e", Duration::from_secs(1));
        for _ in 0..10 {
            bench.now += Duration::from_millis(10);
            bench.offer(1);
        }
        bench.now += Duration::from_secs(9);
        bench.policy.slept(Duration::from_secs(200));
        let Next::Probe(batch) = bench.policy.next(bench.now, FREE) else { panic!("no probe with credit") };
        counts[usize::try_from(batch.saturating_sub(first)).unwrap()] += 1;
    }
    // The first round has one batch more. 400 each, within five standard deviations.
    assert!(counts.iter().all(|it| it.abs_diff(400) < 95), "{counts:?}");
}

#[test]
fn an_idle_device_is_woken_when_there_is_credit_and_not_for_what_is_too_old() {
    let mut bench = Bench::new(BUDGET);
    bench.policy.spent("e", Duration::from_millis(20));
    let Next::WaitUntil(at) = bench.policy.next(bench.now, FREE) else { panic!("it will be due") };
    let wait = at - bench.now;
    assert!((Duration::from_millis(990)..Duration::from_millis(1_010)).contains(&wait), "20 ms at 2 %: {wait:?}");
    bench.policy.slept(wait);
    assert_eq!(bench.policy.next(at, FREE), Next::Probe(0));
    // A debt of 20 s of waiting: given up.
    bench.now = at;
    bench.offer(1);
    bench.policy.spent("e", Duration::from_millis(400));
    assert_eq!(bench.policy.next(bench.now, FREE), Next::Nothing);
    let later = bench.now + Duration::from_secs(60);
    bench.policy.slept(Duration::from_secs(60));
    assert_eq!(bench.policy.next(later, FREE), Next::Nothing, "it is over a minute old");
}

#[test]
fn nothing_is_probed_before_there_are_vectors_or_with_another_stages_batch() {
    let mut bench = Bench::new(BUDGET);
    bench.policy = Policy::default();
    let ready = |bench: &mut Bench| {
        bench.now += Duration::from_secs(5);
        bench.policy.slept(Duration::from_secs(5));
        bench.policy.next(bench.now, FREE)
    };
    bench.offer(ENOUGH_VECTORS - 1);
    assert_eq!(ready(&mut bench), Next::Nothing);
    bench.offer(1);
    assert!(matches!(ready(&mut bench), Next::Probe(_)));
    // A new phase keeps the vectors; another baseline engine does not.
    bench.offer(1);
    bench.offer_of("e", Stage { phase: 1, ..Bench::stage() }, 0);
    let newest = bench.offered - 1;
    assert_eq!(ready(&mut bench), Next::Probe(newest));
    bench.offer_of("e", Stage { phase: 1, baseline: EngineId(9), canary: EngineId(2) }, 1);
    assert_eq!(ready(&mut bench), Next::Nothing);
}

#[test]
fn without_a_budget_nothing_is_probed_and_experiments_have_budgets_of_their_own() {
    let mut bench = Bench::new(ProbeBudget { device_ppm: 0, idle_ppm: 0, shed_queue_texts: 8 });
    for _ in 0..1_000 {
        bench.pass(10, true, FREE, Duration::from_millis(1));
    }
    assert!(bench.probes.is_empty());
    let mut bench = Bench::new(BUDGET);
    bench.offer_of("f", Bench::stage(), ENOUGH_VECTORS);
    bench.policy.spent("e", Duration::from_secs(1_000));
    bench.now += Duration::from_secs(5);
    assert_eq!(bench.policy.next(bench.now, FREE), Next::Probe(1), "another's debt does not count");
    for i in 0..2 * MOST_EXPERIMENTS {
        bench.offer_of(&format!("x{i}"), Bench::stage(), 1);
    }
    assert_eq!(bench.policy.accounts.len(), MOST_EXPERIMENTS);
}
