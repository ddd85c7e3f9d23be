//! What a control plane tells a sidecar to serve.
//!
//! Enters: catalog rows or a decoded message. Leaves: a value that both sides understand the same way. Never: how it travels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::{BundleFile, Graph, is_sha256};
use crate::cost::Price;
use crate::vocabulary::{Pooling, Precision, Target, is_name};
use crate::window::LENGTH_BUCKETS;

/// Orders snapshots: a restore of the database starts a new epoch, so an older `n` can follow a newer one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotVersion {
    /// Life of the database.
    pub epoch: u64,
    /// Change within it.
    pub n: u64,
}

impl std::fmt::Display for SnapshotVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.n)
    }
}

/// Everything a sidecar needs to know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which snapshot this is.
    pub version: SnapshotVersion,
    /// Models that may be asked for.
    pub models: Vec<ServedModel>,
    /// Running experiments' splits, at most one a model.
    pub splits: Vec<TrafficSplit>,
    /// Price rows of this sidecar's SKU and region that are not over.
    pub prices: Vec<Price>,
}

/// One version of one model, as aliased now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServedModel {
    /// Catalog name.
    pub name: String,
    /// Version that the `default` alias names.
    pub version: String,
    /// Length of an embedding.
    pub dimension: u32,
    /// Tokens kept of a text.
    pub max_tokens: u32,
    /// Pooling inside the graph.
    pub pooling: Pooling,
    /// Whether the output has norm 1.
    pub normalized: bool,
    /// Only vectors with the same id may be compared.
    pub embedding_space: String,
    /// Prompt name -> text before the input.
    pub prompts: BTreeMap<String, String>,
    /// Random weights.
    pub seeded: bool,
    /// Variants of this version, and those that an alias names in another one.
    pub variants: Vec<ServedVariant>,
    /// Alias -> variant.
    pub aliases: BTreeMap<String, VariantRef>,
}

/// A variant of a version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VariantRef {
    /// Version.
    pub version: String,
    /// Variant.
    pub variant: String,
}

/// A variant with the artifacts that serve it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServedVariant {
    /// Version it belongs to.
    pub version: String,
    /// Name.
    pub name: String,
    /// Number format.
    pub precision: Precision,
    /// Whether a sidecar keeps it loaded: an alias names it.
    pub hold: bool,
    /// One a target; the sidecar picks the one that fits it.
    pub artifacts: Vec<ServedArtifact>,
}

/// An artifact to pull.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServedArtifact {
    /// See [`crate::bundle::Manifest::digest`].
    pub digest: String,
    /// What it was built for.
    pub target: Target,
    /// The engine's tensors.
    pub graph: Graph,
    /// Its files, each with where to get it.
    pub files: Vec<ServedFile>,
}

impl ServedArtifact {
    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|it| it.file.bytes).sum()
    }
}

/// A file to pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedFile {
    /// `file:///...` or `s3://bucket/key`.
    pub uri: String,
    /// What it is.
    pub file: BundleFile,
}

/// How traffic on one model is split by an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrafficSplit {
    /// Model.
    pub model: String,
    /// Experiment.
    pub experiment: String,
    /// Phase of it, from 0.
    pub phase: u32,
    /// Salt of the assignment.
    pub salt: String,
    /// `request` or `sticky`.
    pub sticky: bool,
    /// Stable variant.
    pub baseline: VariantRef,
    /// Variant on trial.
    pub canary: VariantRef,
    /// Parts in a million.
    pub canary_ppm: u32,
    /// Parts in a million.
    pub control_ppm: u32,
    /// Apps whose index traffic takes part too.
    pub apps_all_traffic: Vec<String>,
    /// How long the canary may go on without a renewed lease, ms.
    pub lease_ms: u64,
    /// Parts in a million, of the canary's, in a lane of their own: compared with the hold-back above a share of 50 %.
    pub canary_sample_ppm: u32,
    /// Both arms run the baseline.
    pub burn_in: bool,
    /// What may be spent on paired probes; none: there are none.
    pub probe: Option<ProbeBudget>,
    /// What a sticky unit's first exceedance is counted against, one a token-length bucket, seconds; 0: none yet. Empty before the first look.
    pub latency_threshold_s: Vec<f64>,
    /// The same for the canary's lanes; empty: as the others.
    pub canary_latency_threshold_s: Vec<f64>,
}

/// What a sidecar may spend on running an experiment's batches once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeBudget {
    /// Parts in a million of the device's time.
    pub device_ppm: u32,
    /// And of its idle time.
    pub idle_ppm: u32,
    /// No probe while more texts wait than this.
    pub shed_queue_texts: u32,
}

impl Default for ProbeBudget {
    /// Meant to cost a busy device less than 1 % of its throughput: that was seen to fall by up to twice the time that probes take.
    fn default() -> Self {
        Self { device_ppm: 5_000, idle_ppm: 10_000, shed_queue_texts: 8 }
    }
}

/// Why a snapshot cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("snapshot {version}: {problem}")]
pub struct BadSnapshot {
    /// Which one.
    pub version: SnapshotVersion,
    /// What is wrong with it.
    pub problem: String,
}

impl Snapshot {
    /// Checks what a reader relies on: names, digests, and that aliases and splits name variants that are there.
    pub fn check(&self) -> Result<(), BadSnapshot> {
        let fail = |problem: String| Err(BadSnapshot { version: self.version, problem });
        for model in &self.models {
            if !is_name(&model.name) {
                return fail(format!("model name `{}` is not a name", model.name));
            }
            for (alias, at) in &model.aliases {
                if model.variant(at).is_none() {
                    return fail(format!(
                        "alias `{}@{alias}` names `{}` of version `{}`, which is not in the snapshot",
                        model.name, at.variant, at.version
                    ));
                }
            }
            let artifacts = model.variants.iter().flat_map(|it| &it.artifacts);
            if let Some(bad) = artifacts.map(|it| &it.digest).find(|it| !is_sha256(it)) {
                return fail(format!("model `{}`: `{bad}` is not an artifact digest", model.name));
            }
        }
        for split in &self.splits {
            let model = self.models.iter().find(|it| it.name == split.model);
            let complete = model.is_some_and(|it| it.variant(&split.baseline).is_some() && it.variant(&split.canary).is_some());
            if !complete || split.canary_ppm > WHOLE_PPM || split.control_ppm > WHOLE_PPM {
                return fail(format!(
                    "experiment `{}` splits `{}` between variants or shares that do not exist",
                    split.experiment, split.model
                ));
            }
            split.check().or_else(|problem| fail(format!("experiment `{}`: {problem}", split.experiment)))?;
        }
        Ok(())
    }
}

/// A share of everything.
const WHOLE_PPM: u32 = 1_000_000;

impl TrafficSplit {
    /// What of it makes no sense by itself, in words.
    fn check(&self) -> Result<(), String> {
        if self.canary_sample_ppm > self.canary_ppm {
            return Err(format!("a canary sample of {} ppm is more than the canary's {} ppm", self.canary_sample_ppm, self.canary_ppm));
        }
        if let Some(probe) = self.probe.filter(|it| it.device_ppm > WHOLE_PPM || it.idle_ppm > WHOLE_PPM) {
            return Err(format!("a probe budget of {} and {} ppm is more than the whole device", probe.device_ppm, probe.idle_ppm));
        }
        for thresholds in [&self.latency_threshold_s, &self.canary_latency_threshold_s] {
            if !thresholds.is_empty() && thresholds.len() != LENGTH_BUCKETS {
                return Err(format!("{} latency thresholds; {LENGTH_BUCKETS} or none are needed", thresholds.len()));
            }
            if let Some(bad) = thresholds.iter().find(|it| !it.is_finite() || **it < 0.0) {
                return Err(format!("a latency threshold of {bad} s; it must be a time, or 0 for none"));
            }
        }
        Ok(())
    }
}

impl ServedModel {
    /// The variant named.
    pub fn variant(&self, at: &VariantRef) -> Option<&ServedVariant> {
        self.variants.iter().find(|it| it.version == at.version && it.name == at.variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split() -> TrafficSplit {
        let at = |name: &str| VariantRef { version: "1".into(), variant: name.into() };
        TrafficSplit {
            model: "m".into(),
            experiment: "e".into(),
            phase: 0,
            salt: "s".into(),
            sticky: false,
            baseline: at("fp32"),
            canary: at("int8"),
            canary_ppm: 950_000,
            control_ppm: 0,
            apps_all_traffic: Vec::new(),
            lease_ms: 60_000,
            canary_sample_ppm: 50_000,
            burn_in: false,
            probe: Some(ProbeBudget::default()),
            latency_threshold_s: vec![0.0, 0.1, 0.2, 0.3],
            canary_latency_threshold_s: Vec::new(),
        }
    }

    fn check(change: impl FnOnce(&mut TrafficSplit), expected: Result<(), &str>) {
        let mut split = split();
        change(&mut split);
        assert_eq!(split.check(), expected.map_err(str::to_owned));
    }

    #[test]
    fn a_split_that_makes_no_sense_is_refused_with_the_value() {
        check(|_| (), Ok(()));
        check(|it| it.canary_sample_ppm = 950_001, Err("a canary sample of 950001 ppm is more than the canary's 950000 ppm"));
        let budget = ProbeBudget { idle_ppm: 1_000_001, ..ProbeBudget::default() };
        check(|it| it.probe = Some(budget), Err("a probe budget of 5000 and 1000001 ppm is more than the whole device"));
        check(|it| it.latency_threshold_s.truncate(3), Err("3 latency thresholds; 4 or none are needed"));
        check(|it| it.latency_threshold_s[2] = f64::NAN, Err("a latency threshold of NaN s; it must be a time, or 0 for none"));
        check(|it| it.canary_latency_threshold_s = vec![-1.0; 4], Err("a latency threshold of -1 s; it must be a time, or 0 for none"));
    }
}
