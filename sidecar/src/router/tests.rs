//! Arms of requests on a table with two variants; no engine runs.

use std::collections::{BTreeMap, BTreeSet};

use akidb_domain::split::BUCKETS;

use super::*;
use crate::serving::testing::variant;

fn at(name: &str) -> VariantRef {
    VariantRef { version: "1".into(), variant: name.into() }
}

fn split() -> TrafficSplit {
    TrafficSplit {
        model: "m".into(),
        experiment: "e".into(),
        phase: 3,
        salt: "s".into(),
        sticky: false,
        baseline: at("base"),
        canary: at("new"),
        canary_ppm: 250_000,
        control_ppm: 250_000,
        apps_all_traffic: vec!["bulk".into()],
        lease_ms: 60_000,
        canary_sample_ppm: 0,
        burn_in: false,
        probe: Some(ProbeBudget::default()),
        latency_threshold_s: Vec::new(),
        canary_latency_threshold_s: Vec::new(),
    }
}

struct Bench {
    serving: Serving,
    leases: Leases,
}

impl Bench {
    fn new(split: TrafficSplit) -> Self {
        let leases = Leases::default();
        leases.renew("e", 3_600_000);
        let model = Model {
            name: "m".into(),
            dimension: 384,
            max_tokens: 256,
            embedding_space: "m".into(),
            seeded: false,
            default: at("base"),
            aliases: BTreeMap::from([("canary".to_owned(), at("new"))]),
            variants: vec![variant("base"), variant("new")],
        };
        let serving = Serving {
            models: BTreeMap::from([("m".to_owned(), model)]),
            default_model: Some("m".into()),
            splits: BTreeMap::from([("m".to_owned(), split)]),
            ..Serving::default()
        };
        Self { serving, leases }
    }

    fn of(change: impl FnOnce(&mut TrafficSplit)) -> Self {
        let mut split = split();
        change(&mut split);
        Self::new(split)
    }

    fn canary(&mut self, change: impl FnOnce(&mut Variant)) {
        change(&mut self.serving.models.get_mut("m").unwrap().variants[1]);
    }

    fn ask(&self, ask: &Ask<'_>) -> Route {
        route(&self.serving, ask, &self.leases).unwrap()
    }

    /// Arms, and the variants that serve them, of many draws.
    fn arms(&self, ask: &Ask<'_>) -> BTreeMap<(Arm, String), u32> {
        let mut arms = BTreeMap::new();
        for random in 0..4_000u64 {
            let route = self.ask(&Ask { random: random.wrapping_mul(0x9E37_79B9_7F4A_7C15), ..ask.clone() });
            assert_eq!(route.lane.variant, route.loaded.variant);
            let outside = route.lane.experiment.is_empty();
            assert!(outside || (route.lane.experiment == "e" && route.lane.phase == 3));
            assert!(!outside || (route.unit.is_none() && route.probe.is_none() && route.lane.arm == Arm::Baseline));
            let variant = if outside { format!("{} outside", route.lane.variant) } else { route.lane.variant.clone() };
            *arms.entry((route.lane.arm, variant)).or_default() += 1;
        }
        arms
    }

    fn check(&self, ask: &Ask<'_>, expected: &[(Arm, &str)]) {
        let got: BTreeSet<(Arm, String)> = self.arms(ask).into_keys().collect();
        assert_eq!(got, expected.iter().map(|(arm, variant)| (*arm, (*variant).to_owned())).collect());
    }
}

const QUERY: Ask<'_> = Ask { model: None, purpose: Purpose::Query, app: "", sticky: None, random: 0 };
const OUTSIDE: &[(Arm, &str)] = &[(Arm::Baseline, "base outside")];

#[test]
fn each_arm_is_served_by_its_variant() {
    let bench = Bench::new(split());
    bench.check(&QUERY, &[(Arm::Baseline, "base"), (Arm::Control, "base"), (Arm::Canary, "new")]);
    let arms = bench.arms(&QUERY);
    let five_sigma = 5.0 * (4_000.0 * 0.25 * 0.75f64).sqrt();
    assert!((f64::from(arms[&(Arm::Canary, "new".to_owned())]) - 1_000.0).abs() < five_sigma, "{arms:?}");
    let above_half = Bench::of(|it| (it.canary_ppm, it.control_ppm, it.canary_sample_ppm) = (900_000, 0, 100_000));
    above_half.check(&QUERY, &[(Arm::Baseline, "base"), (Arm::Canary, "new"), (Arm::CanarySample, "new")]);
}

#[test]
fn a_burn_in_runs_the_baseline_in_every_arm_and_probes_nothing() {
    let bench = Bench::of(|it| it.burn_in = true);
    bench.check(&QUERY, &[(Arm::Baseline, "base"), (Arm::Control, "base"), (Arm::Canary, "base")]);
    assert!(bench.ask(&QUERY).probe.is_none());
    let probed = Bench::new(split()).ask(&QUERY).probe.unwrap();
    assert_eq!((probed.baseline.variant.as_str(), probed.canary.variant.as_str()), ("base", "new"));
}

#[test]
fn an_index_stays_on_the_stable_variant_unless_its_app_opted_in() {
    let bench = Bench::new(split());
    let index = Ask { purpose: Purpose::Index, ..QUERY };
    bench.check(&index, OUTSIDE);
    bench.check(&Ask { app: "bulk", ..index }, &[(Arm::Baseline, "base"), (Arm::Control, "base"), (Arm::Canary, "new")]);
    // Also while a name was moved by hand.
    let mut moved = Bench::new(split());
    moved.serving.models.get_mut("m").unwrap().default = at("new");
    moved.check(&Ask { purpose: Purpose::Index, ..QUERY }, OUTSIDE);
}

#[test]
fn a_variant_asked_for_by_name_is_what_is_served() {
    let named: ModelRef = "m@new".parse().unwrap();
    Bench::new(split()).check(&Ask { model: Some(&named), ..QUERY }, &[(Arm::Baseline, "new outside")]);
    let default: ModelRef = "m@default".parse().unwrap();
    let bench = Bench::new(split());
    bench.check(&Ask { model: Some(&default), ..QUERY }, &[(Arm::Baseline, "base"), (Arm::Control, "base"), (Arm::Canary, "new")]);
}

#[test]
fn without_a_lease_the_baseline_serves_outside_the_experiment() {
    let mut bench = Bench::new(split());
    bench.leases = Leases::default();
    bench.check(&QUERY, OUTSIDE);
    bench.leases.renew("another", 60_000);
    bench.check(&QUERY, OUTSIDE);
    bench.leases.renew("e", 1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    bench.check(&QUERY, OUTSIDE);
}

#[test]
fn a_canary_that_is_not_ready_here_as_meant_leaves_the_experiment() {
    let mut absent = Bench::new(split());
    absent.canary(|it| (it.loaded, it.state) = (None, VariantState::Loading));
    absent.check(&QUERY, OUTSIDE);
    let mut older = Bench::new(split());
    older.canary(|it| it.digest = "a newer artifact's, which still loads".into());
    older.check(&QUERY, OUTSIDE);
    let mut stand_in = Bench::new(split());
    stand_in.canary(|it| {
        let loaded = Arc::get_mut(it.loaded.as_mut().unwrap()).unwrap();
        loaded.fallback = true;
    });
    stand_in.check(&QUERY, OUTSIDE);
}

#[test]
fn a_sticky_unit_keeps_its_arm_and_one_without_a_key_is_drawn() {
    let bench = Bench::of(|it| it.sticky = true);
    let user = |key: &[u8], random| bench.ask(&Ask { sticky: Some(key), random, ..QUERY });
    let mut met = BTreeSet::new();
    for key in (0..100u32).map(u32::to_le_bytes) {
        let first = user(&key, 0);
        assert!(first.unit.is_some() && (1..20).all(|random| user(&key, random).lane == first.lane));
        met.insert(first.lane.arm);
    }
    assert_eq!(met.len(), 3);
    assert_ne!(user(b"a", 0).unit, user(b"b", 0).unit);
    assert_eq!(bench.arms(&QUERY).len(), 3);
    assert!(bench.ask(&QUERY).unit.is_none());
    // Where the unit is the request, a key is not looked at.
    let by_request = Bench::new(split());
    assert_eq!(by_request.arms(&Ask { sticky: Some(b"a"), ..QUERY }).len(), 3);
    assert!(by_request.ask(&Ask { sticky: Some(b"a"), ..QUERY }).unit.is_none());
}

#[test]
fn no_unit_leaves_the_canary_as_it_grows() {
    let shares = [(50_000, 50_000, 0), (250_000, 250_000, 0), (500_000, 0, 0), (950_000, 0, 50_000), (BUCKETS, 0, 0)];
    let phases = shares.map(|shares| {
        Bench::of(|it| {
            it.sticky = true;
            (it.canary_ppm, it.control_ppm, it.canary_sample_ppm) = shares;
        })
    });
    for key in 0..2_000u32 {
        let key = format!("user-{key}");
        let served = phases.each_ref().map(|bench| bench.ask(&Ask { sticky: Some(key.as_bytes()), ..QUERY }).loaded.variant == "new");
        assert!(served.is_sorted(), "{key}: {served:?}");
    }
}
