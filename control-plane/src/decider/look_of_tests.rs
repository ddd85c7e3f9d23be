//! Windows into looks. Enters: made-up windows. Leaves: failures. Never: a database.

use akidb_domain::decision::{Config, Stage, State, Verdict, step};
use akidb_domain::snapshot::{ProbeBudget, VariantRef};
use akidb_domain::split::{Shares, arm, bucket};
use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};
use akidb_domain::window::{DeviceUsage, ErrorCount, LaneId, LeaseGap, ProbeResult};

use super::*;
use crate::db::experiments::{Life, Progress, Scope};

const START: u64 = 1_767_225_600_000_000_000;
const STRETCH: Stretch = Stretch { number: 7, from_ns: START, to_ns: START + 10 * SECOND_NS };

pub(crate) fn experiment() -> Experiment {
    let at = |name: &str| VariantRef { version: "1".into(), variant: name.into() };
    let config = Config { salt: "s".into(), ..Config::default() };
    Experiment {
        id: "e".into(),
        title: String::new(),
        model: "m".into(),
        baseline: at("fp32"),
        canary: at("int8"),
        scope: Scope::default(),
        probe: ProbeBudget::default(),
        plan: serde_json::Value::Null,
        life: Life::Running,
        reason: String::new(),
        decision: State::new(&config),
        config,
        outcome: None,
        progress: Progress::default(),
        revision: 1,
        created_at: 0,
        started_at: None,
        ended_at: None,
        updated_at: 0,
    }
}

fn lane(arm: Arm, requests: u64) -> LaneUsage {
    let mut sketches = vec![Sketch::default(); LENGTH_BUCKETS];
    (0..requests).for_each(|n| sketches[(n % 4) as usize].record(5_000_000));
    LaneUsage {
        lane: LaneId {
            model: "m".into(),
            version: "1".into(),
            variant: "int8".into(),
            precision: Precision::Int8,
            arm,
            experiment: "e".into(),
            phase: 0,
            digest: String::new(),
            provider: ExecutionProvider::Cpu,
            fallback: false,
        },
        requests,
        texts: requests,
        tokens: requests,
        padded_tokens: requests,
        truncated: 0,
        errors: Vec::new(),
        engine_ns: 0,
        batches: 1,
        latency: Sketch::default(),
        queue: Sketch::default(),
        engine: Sketch::default(),
        consumers: Vec::new(),
        latency_by_length: sketches,
        units: requests,
        first_exceedances: 2,
        first_failures: 1,
        first_requests: 3,
        late_failures: 0,
    }
}

fn window(sidecar: &str, second: u64, lanes: Vec<LaneUsage>) -> StoredWindow {
    let start_ns = START + second * SECOND_NS;
    let device = DeviceUsage { busy_ns: SECOND_NS / 4, ..DeviceUsage::default() };
    let window = Window {
        sequence: second + 1,
        snapshot: akidb_domain::snapshot::SnapshotVersion { epoch: 1, n: 1 },
        start_ns,
        end_ns: start_ns + SECOND_NS,
        device,
        lanes,
        lost_observations: 0,
        last: false,
        probes: Vec::new(),
        lease_gaps: Vec::new(),
    };
    StoredWindow { sidecar: sidecar.into(), window }
}

fn take(it: &Experiment, windows: &[StoredWindow]) -> Look {
    look(it, STRETCH, windows, &Fleet::default(), 0)
}

#[test]
fn lanes_are_merged_over_sidecars_second_by_second() {
    let failing = LaneUsage {
        errors: vec![ErrorCount { code: "engine_failed".into(), count: 2 }, ErrorCount { code: "invalid".into(), count: 9 }],
        late_failures: 2,
        ..lane(Arm::Canary, 3)
    };
    let windows = [
        window("a", 0, vec![lane(Arm::Canary, 4), lane(Arm::Control, 5), lane(Arm::Baseline, 90)]),
        window("b", 0, vec![lane(Arm::Control, 6)]),
        window("b", 3, vec![failing]),
        window("b", 4, Vec::new()),
    ];
    let look = take(&experiment(), &windows);
    assert_eq!((look.number, look.length_ms), (7, 10_000));
    let answers = |canary: (u64, u64), control: (u64, u64)| look::Window {
        canary: Answers { requests: canary.0, errors: canary.1 },
        control: Answers { requests: control.0, errors: control.1 },
    };
    // A caller's own mistake is no request of an engine, and empty seconds say nothing.
    assert_eq!(look.windows, [answers((4, 0), (11, 0)), answers((5, 2), (0, 0))]);
    assert_eq!(look.units, Units { canary: 7, control: 11, rest: 90 });
    assert_eq!((look.canary.failures, look.canary.first_exceedances), (2, None));
    assert_eq!(look.canary.latency.iter().map(Sketch::count).sum::<u64>(), 7);
    assert_eq!((look.canary.latency.len(), look.control.latency.len()), (LENGTH_BUCKETS, LENGTH_BUCKETS));
    assert_eq!(look.utilisation, Some(0.25));
    assert_eq!(look.missing.pieces(0.05), Vec::<String>::new());
}

#[test]
fn several_devices_are_used_when_all_are() {
    let mut two = window("a", 0, Vec::new());
    two.window.device = DeviceUsage { devices: 2, busy_ns: SECOND_NS, ..DeviceUsage::default() };
    assert_eq!(take(&experiment(), &[two.clone()]).utilisation, Some(0.5));
    assert_eq!(take(&experiment(), &[two, window("b", 0, Vec::new())]).utilisation, Some(1.25 / 3.0));
}

#[test]
fn other_experiments_stages_and_fallbacks_stay_outside() {
    let mut others = [lane(Arm::Canary, 1), lane(Arm::Canary, 1), lane(Arm::Canary, 1)];
    "f".clone_into(&mut others[0].lane.experiment);
    others[1].lane.phase = 1;
    others[2].lane.fallback = true;
    let look = take(&experiment(), &[window("a", 0, others.to_vec())]);
    assert_eq!((look.windows.len(), look.units), (0, Units::default()));
}

#[test]
fn the_compared_lanes_follow_the_share() {
    let check = |phase: usize, expected: [u64; 3]| {
        let mut it = experiment();
        it.decision.stage = Stage::Phase(phase);
        let lanes = [(Arm::Canary, 1), (Arm::CanarySample, 2), (Arm::Control, 4), (Arm::Baseline, 8)];
        let lanes = lanes.map(|(arm, n)| {
            let mut lane = lane(arm, n);
            lane.lane.phase = phase as u32;
            lane
        });
        let units = take(&it, &[window("a", 0, lanes.to_vec())]).units;
        assert_eq!([units.canary, units.control, units.rest], expected, "phase {phase}");
    };
    check(0, [1, 4, 8]);
    check(2, [1, 12, 0]);
    check(3, [2, 12, 1]);
}

#[test]
fn a_sticky_unit_counts_once() {
    let mut it = experiment();
    it.config.unit = Unit::Sticky;
    let look = take(&it, &[window("a", 0, vec![lane(Arm::Canary, 9), lane(Arm::Control, 9)])]);
    assert_eq!(look.windows[0].canary, Answers { requests: 3, errors: 1 });
    assert_eq!((look.canary.first_exceedances, look.control.first_exceedances), (Some(2), Some(2)));
}

#[test]
fn probes_come_in_the_order_of_their_making() {
    let probe = |at_ns, experiment: &str, phase| ProbeResult {
        experiment: experiment.into(),
        phase,
        at_ns,
        canary_ns: at_ns,
        baseline_ns: 1,
        cosine: 1.0,
        recall: 1.0,
        texts: 1,
        tokens: 1,
        canary_first: false,
    };
    let mut windows = [window("b", 0, Vec::new()), window("a", 1, Vec::new())];
    windows[0].window.probes = vec![probe(5, "e", 0), probe(9, "e", 0), probe(1, "e", 1), probe(1, "f", 0)];
    windows[1].window.probes = vec![probe(5, "e", 0), probe(7, "e", 0)];
    let order = |windows: &[StoredWindow]| take(&experiment(), windows).probes.iter().map(|it| it.canary_ns).collect::<Vec<_>>();
    assert_eq!(order(&windows), [5, 5, 7, 9]);
    windows.reverse();
    assert_eq!(order(&windows), [5, 5, 7, 9]);
}

#[test]
fn what_is_missing_is_in_the_look() {
    let mut gap = window("a", 0, Vec::new());
    let lapsed = |ns| vec![LeaseGap { experiment: "e".into(), phase: 0, ns }];
    gap.window.lease_gaps = lapsed(LEASE_GAP_NS);
    assert!(!take(&experiment(), std::slice::from_ref(&gap)).missing.lease_expired, "too short to matter");
    let more = StoredWindow { window: Window { lease_gaps: lapsed(1), lost_observations: 3, ..gap.window.clone() }, ..gap.clone() };
    let fleet = Fleet { serving: [2, 1], ..Fleet::default() };
    let look = look(&experiment(), STRETCH, &[gap, more], &fleet, 4);
    let pieces = look.missing.pieces(0.05);
    assert_eq!(
        pieces,
        [
            "4 telemetry windows that never came",
            "3 observations that telemetry dropped",
            "the canary's traffic while its lease was not renewed"
        ]
    );
    assert_eq!((look.crashes.canary_seconds, look.crashes.control_seconds), (20, 10));
}

/// The look, of sixty with 1,000 requests each, at which the lanes' units stop the rollout; `counts` says which requests of the canary's lane are
/// counted where they are routed.
fn stopped_at(counts: impl Fn(u64) -> bool) -> Option<u64> {
    let mut it = experiment();
    let shares = Shares { canary_ppm: 50_000, control_ppm: 50_000, canary_sample_ppm: 0 };
    (1..=60_u64).find(|&number| {
        let mut units = [(Arm::Canary, 0), (Arm::Control, 0), (Arm::Baseline, 0)];
        for unit in number * 1_000..(number + 1) * 1_000 {
            let met = arm(bucket("s", &unit.to_le_bytes()), shares);
            let lane = units.iter_mut().find(|it| it.0 == met).unwrap();
            lane.1 += u64::from(met != Arm::Canary || counts(unit));
        }
        let windows = [window("a", 0, units.map(|(arm, n)| lane(arm, n)).to_vec())];
        let look = look(&it, Stretch { number, ..STRETCH }, &windows, &Fleet::default(), 0);
        let verdict = step(&it.config, &mut it.decision, &look).unwrap().verdict;
        matches!(verdict, Verdict::Inconclusive { missing } if missing[0].starts_with("a fair split"))
    })
}

#[test]
fn a_lane_that_loses_units_stops_the_rollout() {
    assert_eq!(stopped_at(|_| true), None);
    let lossy = stopped_at(|unit| unit % 5 != 0);
    assert!(lossy.is_some_and(|look| look <= 10), "{lossy:?}");
}
