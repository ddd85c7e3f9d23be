//! A window comes back as it went; one past its bounds does not come in.

use akidb_domain::sketch::Sketch;
use akidb_domain::snapshot::SnapshotVersion;
use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};
use akidb_domain::window::{DeviceUsage, LENGTH_BUCKETS, LaneId, LaneUsage, LeaseGap, MAX_LEASE_GAPS, MAX_PROBES, ProbeResult, Window};
use proptest::prelude::*;
use prost::Message;

use crate::v1;

fn sketches() -> impl Strategy<Value = Sketch> {
    prop::collection::vec(0..100_000_000_000u64, 0..20).prop_map(|values| {
        let mut sketch = Sketch::default();
        for value in values {
            sketch.record(value);
        }
        sketch
    })
}

prop_compose! {
    fn lanes()(
        arm in prop::sample::select(Arm::ALL.to_vec()),
        phase in any::<u32>(),
        counts in prop::array::uniform8(any::<u64>()),
        (latency, queue, engine) in (sketches(), sketches(), sketches()),
        latency_by_length in prop_oneof![Just(Vec::new()), prop::collection::vec(sketches(), LENGTH_BUCKETS)],
    ) -> LaneUsage {
        let lane = LaneId {
            model: "m".into(), version: "1".into(), variant: "int8".into(), precision: Precision::Int8, arm, experiment: "e1".into(), phase,
            digest: "d".into(), provider: ExecutionProvider::Cpu, fallback: false,
        };
        let [requests, texts, tokens, units, first_exceedances, first_failures, first_requests, late_failures] = counts;
        LaneUsage {
            lane, requests, texts, tokens, padded_tokens: tokens, truncated: 0, errors: Vec::new(), engine_ns: 1, batches: 2, latency, queue,
            engine, consumers: Vec::new(), latency_by_length, units, first_exceedances, first_failures, first_requests, late_failures,
        }
    }
}

prop_compose! {
    fn probes()(
        (phase, at_ns, canary_ns, baseline_ns) in (any::<u32>(), any::<u64>(), 1..=u64::MAX, 1..=u64::MAX),
        (cosine, recall) in (-1.0..=1.0f64, 0.0..=1.0f64),
        (texts, tokens, canary_first) in (1..=u32::MAX, any::<u32>(), any::<bool>()),
    ) -> ProbeResult {
        ProbeResult { experiment: "e1".into(), phase, at_ns, canary_ns, baseline_ns, cosine, recall, texts, tokens, canary_first }
    }
}

fn gaps() -> impl Strategy<Value = LeaseGap> {
    (any::<u32>(), 0..=1_000_000_000u64).prop_map(|(phase, ns)| LeaseGap { experiment: "e1".into(), phase, ns })
}

fn over_the_wire(message: &v1::Window) -> Result<Window, String> {
    let decoded = v1::Window::decode(message.encode_to_vec().as_slice()).map_err(|it| it.to_string())?;
    Window::try_from(decoded).map_err(|it| it.to_string())
}

fn window(lanes: Vec<LaneUsage>, probes: Vec<ProbeResult>, lease_gaps: Vec<LeaseGap>) -> Window {
    let (snapshot, device) = (SnapshotVersion { epoch: 1, n: 2 }, DeviceUsage::default());
    Window { sequence: 1, snapshot, start_ns: 5, end_ns: 9, device, lanes, lost_observations: 0, last: false, probes, lease_gaps }
}

proptest! {
    #[test]
    fn a_window_comes_back_as_it_went(
        lanes in prop::collection::vec(lanes(), 0..4),
        probes in prop::collection::vec(probes(), 0..=MAX_PROBES),
        gaps in prop::collection::vec(gaps(), 0..3),
        (devices, energy_millijoules, cumulative_energy_millijoules) in (1..=8u32, any::<Option<u64>>(), any::<u64>()),
    ) {
        let mut window = window(lanes, probes, gaps);
        window.device = DeviceUsage { devices, energy_millijoules, cumulative_energy_millijoules, ..window.device };
        prop_assert_eq!(over_the_wire(&window.clone().into()), Ok(window));
    }
}

fn probe() -> v1::ProbeResult {
    let (experiment, cosine, recall) = ("e1".to_owned(), 0.999, 1.0);
    v1::ProbeResult { experiment, canary_ns: 1, baseline_ns: 1, cosine, recall, texts: 1, ..v1::ProbeResult::default() }
}

fn refused(change: impl FnOnce(&mut v1::Window), expected: &str) {
    let mut message = v1::Window::from(window(Vec::new(), Vec::new(), Vec::new()));
    message.probes = vec![probe()];
    assert!(over_the_wire(&message).is_ok());
    change(&mut message);
    assert_eq!(over_the_wire(&message).unwrap_err(), expected);
}

#[test]
fn a_window_from_before_devices_were_counted_is_of_one_and_was_not_measured() {
    let mut old = v1::Window::from(window(Vec::new(), Vec::new(), Vec::new()));
    let device = old.device.as_mut().unwrap();
    (device.devices, device.energy_millijoules, device.cumulative_energy_millijoules) = (None, None, 0);
    let device = over_the_wire(&old).unwrap().device;
    assert_eq!((device.devices, device.energy_millijoules), (1, None));
}

#[test]
fn what_is_past_its_bounds_is_named() {
    let of = |devices| move |it: &mut v1::Window| it.device.as_mut().unwrap().devices = Some(devices);
    refused(of(0), "field `device.devices`: 0 is not in 1 to 8");
    refused(of(9), "field `device.devices`: 9 is not in 1 to 8");
    refused(|it| it.probes = vec![probe(); MAX_PROBES + 1], "field `window.probes`: there are 65; at most 64 are allowed");
    refused(|it| it.probes[0].cosine = f64::NAN, "field `probe.cosine`: NaN is not in -1 to 1");
    refused(|it| it.probes[0].recall = 1.5, "field `probe.recall`: 1.5 is not in 0 to 1");
    refused(|it| it.probes[0].baseline_ns = 0, "field `probe`: 1 texts in 1 and 0 ns; none may be 0");
    refused(|it| it.probes[0].experiment.clear(), "field `probe.experiment` is missing");
    let gap = |ns| v1::LeaseGap { experiment: "e1".into(), phase: 0, ns };
    refused(|it| it.lease_gaps = vec![gap(u64::MAX)], "field `lease_gap.ns`: 18446744073709551615 is longer than any window");
    refused(|it| it.lease_gaps = vec![gap(1); MAX_LEASE_GAPS + 1], "field `window.lease_gaps`: there are 65; at most 64 are allowed");
    refused(
        |it| it.lanes = vec![v1::LaneUsage { latency_by_length: vec![v1::Sketch::default(); 3], ..v1::LaneUsage::default() }],
        "field `lane.latency_by_length`: 3 sketches; 4 or none are needed",
    );
}
