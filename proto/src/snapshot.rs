//! Snapshots, wire to domain and back. Enters and leaves: whole values. Never: a snapshot that fails [`dom::Snapshot::check`].

use akidb_domain::bundle::{BundleFile, Graph};
use akidb_domain::cost::Price;
use akidb_domain::snapshot as dom;
use akidb_domain::vocabulary::Target;

use crate::error::{WireError, word};
use crate::v1;

impl From<dom::SnapshotVersion> for v1::SnapshotVersion {
    fn from(it: dom::SnapshotVersion) -> Self {
        Self { epoch: it.epoch, n: it.n }
    }
}

impl From<v1::SnapshotVersion> for dom::SnapshotVersion {
    fn from(it: v1::SnapshotVersion) -> Self {
        Self { epoch: it.epoch, n: it.n }
    }
}

impl From<dom::Snapshot> for v1::Snapshot {
    fn from(it: dom::Snapshot) -> Self {
        Self {
            version: Some(it.version.into()),
            models: it.models.into_iter().map(Into::into).collect(),
            splits: it.splits.into_iter().map(Into::into).collect(),
            prices: it.prices.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Snapshot> for dom::Snapshot {
    type Error = WireError;

    fn try_from(it: v1::Snapshot) -> Result<Self, WireError> {
        let snapshot = Self {
            version: it.version.ok_or(WireError::Missing("snapshot.version"))?.into(),
            models: it.models.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            splits: it.splits.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            prices: it.prices.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        };
        snapshot.check().map_err(|e| WireError::invalid("snapshot", e))?;
        Ok(snapshot)
    }
}

impl From<dom::ServedModel> for v1::Model {
    fn from(it: dom::ServedModel) -> Self {
        Self {
            name: it.name,
            version: it.version,
            dimension: it.dimension,
            max_tokens: it.max_tokens,
            pooling: it.pooling.to_string(),
            normalized: it.normalized,
            embedding_space: it.embedding_space,
            prompts: it.prompts,
            seeded: it.seeded,
            variants: it.variants.into_iter().map(Into::into).collect(),
            aliases: it.aliases.into_iter().map(|(alias, at)| (alias, at.into())).collect(),
        }
    }
}

impl TryFrom<v1::Model> for dom::ServedModel {
    type Error = WireError;

    fn try_from(it: v1::Model) -> Result<Self, WireError> {
        Ok(Self {
            name: it.name,
            version: it.version,
            dimension: it.dimension,
            max_tokens: it.max_tokens,
            pooling: word("model.pooling", &it.pooling)?,
            normalized: it.normalized,
            embedding_space: it.embedding_space,
            prompts: it.prompts,
            seeded: it.seeded,
            variants: it.variants.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            aliases: it.aliases.into_iter().map(|(alias, at)| (alias, at.into())).collect(),
        })
    }
}

impl From<dom::VariantRef> for v1::VariantRef {
    fn from(it: dom::VariantRef) -> Self {
        Self { version: it.version, variant: it.variant }
    }
}

impl From<v1::VariantRef> for dom::VariantRef {
    fn from(it: v1::VariantRef) -> Self {
        Self { version: it.version, variant: it.variant }
    }
}

impl From<dom::ServedVariant> for v1::Variant {
    fn from(it: dom::ServedVariant) -> Self {
        Self {
            version: it.version,
            name: it.name,
            precision: it.precision.to_string(),
            hold: it.hold,
            artifacts: it.artifacts.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Variant> for dom::ServedVariant {
    type Error = WireError;

    fn try_from(it: v1::Variant) -> Result<Self, WireError> {
        Ok(Self {
            version: it.version,
            name: it.name,
            precision: word("variant.precision", &it.precision)?,
            hold: it.hold,
            artifacts: it.artifacts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<dom::ServedArtifact> for v1::Artifact {
    fn from(it: dom::ServedArtifact) -> Self {
        let target = v1::Target {
            provider: it.target.provider.to_string(),
            compute_capability: it.target.compute_capability.unwrap_or_default(),
            tensorrt_version: it.target.tensorrt_version.unwrap_or_default(),
            shape_profile: it.target.shape_profile.unwrap_or_default(),
        };
        Self {
            digest: it.digest,
            target: Some(target),
            graph_inputs: it.graph.inputs,
            graph_output: it.graph.output,
            files: it.files.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Artifact> for dom::ServedArtifact {
    type Error = WireError;

    fn try_from(it: v1::Artifact) -> Result<Self, WireError> {
        let target = it.target.ok_or(WireError::Missing("artifact.target"))?;
        let some = |s: String| (!s.is_empty()).then_some(s);
        Ok(Self {
            digest: it.digest,
            target: Target {
                provider: word("target.provider", &target.provider)?,
                compute_capability: some(target.compute_capability),
                tensorrt_version: some(target.tensorrt_version),
                shape_profile: some(target.shape_profile),
            },
            graph: Graph { inputs: it.graph_inputs, output: it.graph_output },
            files: it.files.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<dom::ServedFile> for v1::File {
    fn from(it: dom::ServedFile) -> Self {
        let dom::ServedFile { uri, file } = it;
        Self { uri, path: file.path, role: file.role.to_string(), bytes: file.bytes, sha256: file.sha256 }
    }
}

impl TryFrom<v1::File> for dom::ServedFile {
    type Error = WireError;

    fn try_from(it: v1::File) -> Result<Self, WireError> {
        let role = word("file.role", &it.role)?;
        Ok(Self { uri: it.uri, file: BundleFile { path: it.path, role, bytes: it.bytes, sha256: it.sha256 } })
    }
}

impl From<dom::TrafficSplit> for v1::Split {
    fn from(it: dom::TrafficSplit) -> Self {
        Self {
            model: it.model,
            experiment: it.experiment,
            phase: it.phase,
            salt: it.salt,
            sticky: it.sticky,
            baseline: Some(it.baseline.into()),
            canary: Some(it.canary.into()),
            canary_ppm: it.canary_ppm,
            control_ppm: it.control_ppm,
            apps_all_traffic: it.apps_all_traffic,
            lease_ms: it.lease_ms,
            canary_sample_ppm: it.canary_sample_ppm,
            burn_in: it.burn_in,
            probe: it.probe.map(Into::into),
            latency_threshold_s: it.latency_threshold_s,
            canary_latency_threshold_s: it.canary_latency_threshold_s,
        }
    }
}

impl TryFrom<v1::Split> for dom::TrafficSplit {
    type Error = WireError;

    fn try_from(it: v1::Split) -> Result<Self, WireError> {
        Ok(Self {
            model: it.model,
            experiment: it.experiment,
            phase: it.phase,
            salt: it.salt,
            sticky: it.sticky,
            baseline: it.baseline.ok_or(WireError::Missing("split.baseline"))?.into(),
            canary: it.canary.ok_or(WireError::Missing("split.canary"))?.into(),
            canary_ppm: it.canary_ppm,
            control_ppm: it.control_ppm,
            apps_all_traffic: it.apps_all_traffic,
            lease_ms: it.lease_ms,
            canary_sample_ppm: it.canary_sample_ppm,
            burn_in: it.burn_in,
            probe: it.probe.map(Into::into),
            latency_threshold_s: it.latency_threshold_s,
            canary_latency_threshold_s: it.canary_latency_threshold_s,
        })
    }
}

impl From<dom::ProbeBudget> for v1::ProbeBudget {
    fn from(it: dom::ProbeBudget) -> Self {
        Self { device_ppm: it.device_ppm, idle_ppm: it.idle_ppm, shed_queue_texts: it.shed_queue_texts }
    }
}

impl From<v1::ProbeBudget> for dom::ProbeBudget {
    fn from(it: v1::ProbeBudget) -> Self {
        Self { device_ppm: it.device_ppm, idle_ppm: it.idle_ppm, shed_queue_texts: it.shed_queue_texts }
    }
}

impl From<Price> for v1::Price {
    fn from(it: Price) -> Self {
        Self {
            sku: it.sku,
            region: it.region,
            currency: it.currency,
            picodollars_per_hour: it.picodollars_per_hour,
            valid_from_ns: it.valid_from_ns,
            valid_to_ns: it.valid_to_ns,
            source: it.source,
        }
    }
}

impl TryFrom<v1::Price> for Price {
    type Error = WireError;

    fn try_from(it: v1::Price) -> Result<Self, WireError> {
        if it.picodollars_per_hour < 0 {
            return Err(WireError::invalid("price.picodollars_per_hour", format!("{} is negative", it.picodollars_per_hour)));
        }
        Ok(Self {
            sku: it.sku,
            region: it.region,
            currency: it.currency,
            picodollars_per_hour: it.picodollars_per_hour,
            valid_from_ns: it.valid_from_ns,
            valid_to_ns: it.valid_to_ns,
            source: it.source,
        })
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
