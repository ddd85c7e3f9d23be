//! What a control plane tells a sidecar to serve.
//!
//! Enters: catalog rows or a decoded message. Leaves: a value that both sides understand the same way. Never: how it travels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bundle::{BundleFile, Graph, is_sha256};
use crate::cost::Price;
use crate::vocabulary::{Pooling, Precision, Target, is_name};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
            if !complete || split.canary_ppm > 1_000_000 || split.control_ppm > 1_000_000 {
                return fail(format!(
                    "experiment `{}` splits `{}` between variants or shares that do not exist",
                    split.experiment, split.model
                ));
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
