//! What this machine is to serve: the catalog's snapshot, or the configured entries, in one form.
//!
//! Enters: a [`Snapshot`], resolved entries. Leaves: a [`Plan`], each variant with the artifact chosen for this machine or the reason why
//! there is none. Never: I/O.

use std::collections::BTreeMap;

use akidb_domain::snapshot::{ServedArtifact, ServedModel, ServedVariant, Snapshot, SnapshotVersion, TrafficSplit, VariantRef};
use akidb_domain::vocabulary::{ExecutionProvider, Precision, TargetProvider, canonical_model};

/// What to serve.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Snapshot it follows.
    pub version: SnapshotVersion,
    /// Canonical name -> model.
    pub models: BTreeMap<String, PlannedModel>,
    /// Canonical name of the default model.
    pub default_model: Option<String>,
    /// By canonical model name.
    pub splits: BTreeMap<String, TrafficSplit>,
    /// What cannot be served, and why.
    pub problems: Vec<String>,
}

/// A model.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedModel {
    /// The catalog's facts; its `variants` are in [`PlannedModel::variants`].
    pub card: ServedModel,
    /// What a request without `@` gets.
    pub default: VariantRef,
    /// Its variants.
    pub variants: Vec<PlannedVariant>,
}

/// A variant.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedVariant {
    /// Version and name.
    pub at: VariantRef,
    /// Number format that it is to have.
    pub precision: Precision,
    /// Whether it is kept loaded.
    pub hold: bool,
    /// Never evicted.
    pub pinned: bool,
    /// What serves it here, or why nothing can.
    pub choice: Result<Choice, String>,
}

/// The artifact that serves a variant here.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The artifact.
    pub artifact: ServedArtifact,
    /// Its number format.
    pub precision: Precision,
    /// Why it stands in for what was asked; empty where it is what was asked.
    pub fallback: String,
}

/// What this machine can run.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// The one provider of this build and machine.
    pub provider: ExecutionProvider,
}

impl Machine {
    /// Why an artifact of that precision cannot run here; `None`: it can.
    pub fn refuses(self, precision: Precision, artifact: &ServedArtifact) -> Option<String> {
        if precision == Precision::Fp8
            && artifact.target.provider == TargetProvider::Portable
            && self.provider != ExecutionProvider::TensorRt
        {
            return Some(format!(
                "is an FP8 QDQ graph, the parent that TensorRT engines are built from: `{}` has no kernels for it",
                self.provider
            ));
        }
        if artifact.target.fits_cpu() {
            return None;
        }
        let on = artifact.target.compute_capability.as_ref().map_or_else(String::new, |it| format!(" (compute capability {it})"));
        Some(format!("is built for `{}`{on}; this machine serves `{}` only", artifact.target.provider, self.provider))
    }
}

impl Plan {
    /// A catalog's snapshot on this machine.
    pub fn of_snapshot(snapshot: &Snapshot, machine: Machine) -> Self {
        let models = snapshot.models.iter().map(|it| (canonical_model(&it.name), PlannedModel::of(it, machine))).collect();
        let splits = snapshot.splits.iter().map(|it| (canonical_model(&it.model), it.clone())).collect();
        Self { version: snapshot.version, models, default_model: None, splits, problems: Vec::new() }
    }

    /// Adds what only the configuration has; the catalog wins. The configured default model, and the variant or alias named with it
    /// (`selector`), win over the catalog's.
    #[must_use]
    pub fn with_configured(mut self, configured: &Self, selector: Option<&str>) -> Self {
        let default = configured.default_model.as_ref().and_then(|it| self.models.get_mut(it));
        if let (Some(model), Some(selector)) = (default, selector) {
            let variant = VariantRef { version: model.default.version.clone(), variant: selector.to_owned() };
            model.default = model.card.aliases.get(selector).cloned().unwrap_or(variant);
        }
        for (name, model) in &configured.models {
            self.models.entry(name.clone()).or_insert_with(|| model.clone());
        }
        self.problems.extend(configured.problems.iter().cloned());
        self.default_model = configured.default_model.clone().or_else(|| self.models.keys().next().cloned());
        self
    }
}

impl PlannedModel {
    fn of(model: &ServedModel, machine: Machine) -> Self {
        let first = model.variants.first().map(|it| VariantRef { version: it.version.clone(), variant: it.name.clone() });
        let default = model.aliases.get("default").or_else(|| model.aliases.get("stable")).cloned().or(first);
        let empty = VariantRef { version: model.version.clone(), variant: String::new() };
        let variants = model.variants.iter().map(|it| PlannedVariant::of(it, machine)).collect();
        Self { card: model.clone(), default: default.unwrap_or(empty), variants }
    }
}

impl PlannedVariant {
    fn of(variant: &ServedVariant, machine: Machine) -> Self {
        let fits = |it: &&ServedArtifact| machine.refuses(variant.precision, it).is_none();
        // One built for the CPU before one that any provider may run.
        let best = variant.artifacts.iter().filter(fits).min_by_key(|it| it.target.provider == TargetProvider::Portable);
        let reasons = || {
            let refused =
                |it: &ServedArtifact| machine.refuses(variant.precision, it).map(|why| format!("artifact {} {why}", &it.digest[..12]));
            let each = variant.artifacts.iter().filter_map(refused);
            let all = each.collect::<Vec<_>>().join("; ");
            if all.is_empty() { "the catalog has no ready artifact of it".to_owned() } else { all }
        };
        let choice =
            best.map(|it| Choice { artifact: it.clone(), precision: variant.precision, fallback: String::new() }).ok_or_else(reasons);
        let at = VariantRef { version: variant.version.clone(), variant: variant.name.clone() };
        Self { at, precision: variant.precision, hold: variant.hold, pinned: false, choice }
    }
}

#[cfg(test)]
mod tests {
    use akidb_domain::bundle::Graph;
    use akidb_domain::vocabulary::Target;

    use super::*;

    fn planned(precision: Precision, provider: ExecutionProvider) -> PlannedVariant {
        let graph = Graph { inputs: vec!["input_ids".into()], output: "embedding".into() };
        let artifact = ServedArtifact { digest: "a".repeat(64), target: Target::portable(), graph, files: Vec::new() };
        let served = ServedVariant { version: "1".into(), name: "v".into(), precision, hold: false, artifacts: vec![artifact] };
        PlannedVariant::of(&served, Machine { provider })
    }

    #[test]
    fn an_fp8_graph_is_for_tensorrt_alone() {
        let why = planned(Precision::Fp8, ExecutionProvider::Cpu).choice.unwrap_err();
        assert!(why.contains("artifact aaaaaaaaaaaa is an FP8 QDQ graph") && why.contains("`cpu` has no kernels"), "{why}");
        assert!(planned(Precision::Fp8, ExecutionProvider::Cuda).choice.is_err());
        assert!(planned(Precision::Fp8, ExecutionProvider::TensorRt).choice.is_ok());
        assert!(planned(Precision::Int8, ExecutionProvider::Cpu).choice.is_ok());
    }
}
