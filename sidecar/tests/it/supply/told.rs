//! What a control plane tells a sidecar: a snapshot of the real bundle, and an experiment between it and another.
//!
//! Enters: a number, folders of bundles. Leaves: snapshots. Never: a file that is not there. The benchmark of probes reads this file too.

use std::collections::BTreeMap;
use std::path::Path;

use akidb_domain::bundle::Manifest;
use akidb_domain::cost::Price;
use akidb_domain::snapshot::{
    ProbeBudget, ServedArtifact, ServedFile, ServedModel, ServedVariant, Snapshot, SnapshotVersion, TrafficSplit, VariantRef,
};

pub(super) const EXPERIMENT: &str = "e1";
pub(super) const RATE: i64 = 2_500_000_000_001;

fn manifest(folder: &Path) -> Manifest {
    Manifest::parse(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

/// The bundle in a folder as a variant of the snapshot's model.
pub(super) fn variant(folder: &Path, name: &str) -> ServedVariant {
    let manifest = manifest(folder);
    let uri = |path: &str| format!("file://{}/{path}", folder.display());
    let files = manifest.files.iter().map(|it| ServedFile { uri: uri(&it.path), file: it.clone() }).collect();
    let (digest, target, graph) = (manifest.digest(), manifest.target.clone(), manifest.graph.clone());
    let artifacts = vec![ServedArtifact { digest, target, graph, files }];
    ServedVariant { version: "1".into(), name: name.into(), precision: manifest.variant.precision, hold: true, artifacts }
}

fn at(name: &str) -> VariantRef {
    VariantRef { version: "1".into(), variant: name.into() }
}

/// The real bundle, served by default.
pub(super) fn snapshot(n: u64) -> Snapshot {
    let folder = akidb_testkit::bundle();
    let manifest = manifest(&folder);
    let model = ServedModel {
        name: manifest.model.name.clone(),
        version: "1".into(),
        dimension: manifest.model.dimension,
        max_tokens: manifest.model.max_tokens,
        pooling: manifest.model.pooling,
        normalized: true,
        embedding_space: manifest.model.embedding_space.clone(),
        prompts: BTreeMap::new(),
        seeded: false,
        variants: vec![variant(&folder, "fp32")],
        aliases: [("default".to_owned(), at("fp32")), ("stable".to_owned(), at("fp32"))].into(),
    };
    let price = Price {
        sku: "cpu".into(),
        region: "local".into(),
        currency: "USD".into(),
        picodollars_per_hour: RATE,
        valid_from_ns: 1,
        valid_to_ns: None,
        source: "test".into(),
    };
    Snapshot { version: SnapshotVersion { epoch: 1, n }, models: vec![model], splits: Vec::new(), prices: vec![price] }
}

/// Half the traffic in the canary, a third in control, and far more for probes than production would give.
pub(super) fn experiment(n: u64, canary: ServedVariant) -> Snapshot {
    let mut snapshot = snapshot(n);
    let model = &mut snapshot.models[0];
    model.aliases.insert("canary".into(), at(&canary.name));
    snapshot.splits = vec![TrafficSplit {
        model: model.name.clone(),
        experiment: EXPERIMENT.into(),
        phase: 2,
        salt: "salt".into(),
        sticky: false,
        baseline: at("fp32"),
        canary: at(&canary.name),
        canary_ppm: 500_000,
        control_ppm: 300_000,
        apps_all_traffic: Vec::new(),
        lease_ms: 60_000,
        canary_sample_ppm: 0,
        burn_in: false,
        probe: Some(ProbeBudget { device_ppm: 200_000, idle_ppm: 200_000, shed_queue_texts: 64 }),
        latency_threshold_s: Vec::new(),
        canary_latency_threshold_s: Vec::new(),
    }];
    model.variants.push(canary);
    snapshot
}
