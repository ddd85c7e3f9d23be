//! A split comes back as it went; one that makes no sense does not come in.

use std::collections::BTreeMap;

use akidb_domain::snapshot::{ProbeBudget, ServedModel, ServedVariant, Snapshot, SnapshotVersion, TrafficSplit, VariantRef};
use akidb_domain::vocabulary::{Pooling, Precision};
use proptest::prelude::*;
use prost::Message;

use crate::v1;

fn model() -> ServedModel {
    let variant =
        |name: &str, precision| ServedVariant { version: "1".into(), name: name.into(), precision, hold: true, artifacts: Vec::new() };
    ServedModel {
        name: "m".into(),
        version: "1".into(),
        dimension: 384,
        max_tokens: 256,
        pooling: Pooling::Mean,
        normalized: true,
        embedding_space: "m".into(),
        prompts: BTreeMap::new(),
        seeded: false,
        variants: vec![variant("fp32", Precision::Fp32), variant("int8", Precision::Int8)],
        aliases: BTreeMap::new(),
    }
}

fn at(name: &str) -> VariantRef {
    VariantRef { version: "1".into(), variant: name.into() }
}

fn budgets() -> impl Strategy<Value = Option<ProbeBudget>> {
    let budget = (0..=1_000_000u32, 0..=1_000_000u32, any::<u32>());
    prop::option::of(budget.prop_map(|(device_ppm, idle_ppm, shed_queue_texts)| ProbeBudget { device_ppm, idle_ppm, shed_queue_texts }))
}

fn thresholds() -> impl Strategy<Value = Vec<f64>> {
    prop_oneof![Just(Vec::new()), prop::collection::vec(0.0..100.0f64, 4)]
}

prop_compose! {
    fn splits()(
        (phase, salt, sticky, burn_in) in (any::<u32>(), ".{0,12}", any::<bool>(), any::<bool>()),
        (canary_ppm, control_ppm, part) in (0..=1_000_000u32, 0..=1_000_000u32, 0.0..=1.0f64),
        (probe, latency_threshold_s, canary_latency_threshold_s) in (budgets(), thresholds(), thresholds()),
        apps_all_traffic in prop::collection::vec("[a-z]{1,8}", 0..3),
        lease_ms in any::<u64>(),
    ) -> TrafficSplit {
        let (model, experiment) = ("m".into(), "e1".into());
        let canary_sample_ppm = (f64::from(canary_ppm) * part) as u32;
        TrafficSplit {
            model, experiment, phase, salt, sticky, baseline: at("fp32"), canary: at("int8"), canary_ppm, control_ppm, apps_all_traffic, lease_ms,
            canary_sample_ppm, burn_in, probe, latency_threshold_s, canary_latency_threshold_s,
        }
    }
}

fn snapshot(split: TrafficSplit) -> Snapshot {
    let version = SnapshotVersion { epoch: 1, n: 2 };
    Snapshot { version, models: vec![model()], splits: vec![split], prices: Vec::new() }
}

fn over_the_wire(message: &v1::Snapshot) -> Result<Snapshot, String> {
    let decoded = v1::Snapshot::decode(message.encode_to_vec().as_slice()).map_err(|it| it.to_string())?;
    Snapshot::try_from(decoded).map_err(|it| it.to_string())
}

proptest! {
    #[test]
    fn a_split_comes_back_as_it_went(split in splits()) {
        let snapshot = snapshot(split);
        prop_assert_eq!(over_the_wire(&snapshot.clone().into()), Ok(snapshot));
    }
}

fn refused(change: impl FnOnce(&mut v1::Split), expected: &str) {
    let split = TrafficSplit {
        model: "m".into(),
        experiment: "e1".into(),
        phase: 0,
        salt: "s".into(),
        sticky: false,
        baseline: at("fp32"),
        canary: at("int8"),
        canary_ppm: 50_000,
        control_ppm: 50_000,
        apps_all_traffic: Vec::new(),
        lease_ms: 60_000,
        canary_sample_ppm: 0,
        burn_in: false,
        probe: None,
        latency_threshold_s: Vec::new(),
        canary_latency_threshold_s: Vec::new(),
    };
    let mut message = v1::Snapshot::from(snapshot(split));
    change(&mut message.splits[0]);
    let error = over_the_wire(&message).unwrap_err();
    assert!(error.contains(expected), "`{error}` does not say `{expected}`");
}

#[test]
fn a_split_that_makes_no_sense_names_the_experiment_and_the_value() {
    refused(|it| it.canary_sample_ppm = 50_001, "experiment `e1`: a canary sample of 50001 ppm is more than the canary's 50000 ppm");
    refused(|it| it.latency_threshold_s = vec![0.1], "experiment `e1`: 1 latency thresholds");
    let budget = v1::ProbeBudget { device_ppm: 2_000_000, idle_ppm: 0, shed_queue_texts: 8 };
    refused(|it| it.probe = Some(budget), "a probe budget of 2000000 and 0 ppm");
    refused(|it| it.baseline = None, "field `split.baseline` is missing");
}
