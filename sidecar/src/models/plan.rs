//! What this machine is to serve: the catalog's snapshot, or the configured entries, in one form.
//!
//! Enters: a [`Snapshot`], resolved entries. Leaves: a [`Plan`], each variant with the artifact chosen for this machine or the reason why
//! there is none. Never: I/O.

use std::collections::BTreeMap;

use akidb_domain::snapshot::{ServedArtifact, ServedModel, ServedVariant, Snapshot, SnapshotVersion, TrafficSplit, VariantRef};
use akidb_domain::vocabulary::{ExecutionProvider, Precision, Target, TargetProvider, canonical_model};

use crate::engine::device::{Facts, Gpu};

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
    /// What else could, the best first, where that fails.
    pub spare: Vec<Choice>,
}

/// The artifact that serves a variant here.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The artifact.
    pub artifact: ServedArtifact,
    /// Its number format.
    pub precision: Precision,
    /// What runs it here.
    pub provider: ExecutionProvider,
    /// Why it stands in for what was asked; empty where it is what was asked.
    pub fallback: String,
}

/// What this machine can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What it has.
    pub facts: Facts,
    /// The GPUs that serve; their first stands for all.
    pub devices: Vec<u32>,
    /// The one provider that the configuration demands.
    pub demanded: Option<ExecutionProvider>,
}

impl Machine {
    /// One without GPUs.
    pub fn cpu() -> Self {
        Self { facts: Facts::cpu_only("no GPU was looked for"), devices: vec![0], demanded: None }
    }

    /// The GPUs that serve, in the order of `devices`; none where the CPU does.
    pub fn gpus(&self) -> Vec<&Gpu> {
        if self.best() == ExecutionProvider::Cpu {
            return Vec::new();
        }
        let first = [0];
        let devices = if self.devices.is_empty() { &first[..] } else { &self.devices };
        devices.iter().filter_map(|it| self.facts.gpus.iter().find(|gpu| gpu.index == *it)).collect()
    }

    /// What it prefers.
    pub fn best(&self) -> ExecutionProvider {
        self.demanded.or_else(|| self.facts.usable().first().copied()).unwrap_or(ExecutionProvider::Cpu)
    }

    /// Why an artifact of that precision cannot run here as the configuration demands; `None`: it can.
    pub fn refuses(&self, precision: Precision, artifact: &ServedArtifact) -> Option<String> {
        self.place(precision, &artifact.target).err()
    }

    /// What runs an artifact here: the provider that it was built for, if version and device are the same; a plain graph on CUDA, else on the
    /// CPU. Integer graphs are the CPU's: CUDA has slower kernels for them or none.
    pub fn place(&self, precision: Precision, target: &Target) -> Result<ExecutionProvider, String> {
        let wanted: &[ExecutionProvider] = match target.provider {
            TargetProvider::TensorRt => &[ExecutionProvider::TensorRt],
            TargetProvider::Cuda => &[ExecutionProvider::Cuda],
            TargetProvider::Cpu => &[ExecutionProvider::Cpu],
            TargetProvider::Portable if precision == Precision::Fp8 => {
                return Err(format!(
                    "is an FP8 QDQ graph, the parent that TensorRT engines are built from (`akidb-sidecar build-engine`): `{}` has no kernels for it",
                    self.best()
                ));
            }
            TargetProvider::Portable if precision == Precision::Int8 => &[ExecutionProvider::Cpu, ExecutionProvider::Cuda],
            TargetProvider::Portable => &[ExecutionProvider::Cuda, ExecutionProvider::Cpu],
        };
        let allowed = |it: &&ExecutionProvider| self.demanded.is_none_or(|demanded| demanded == **it);
        let usable = |it: &&ExecutionProvider| self.facts.refusal(**it).is_none();
        let Some(provider) = wanted.iter().filter(allowed).find(usable).copied() else { return Err(self.why_not(target, wanted)) };
        if provider == ExecutionProvider::TensorRt { self.fits(target).map(|()| provider) } else { Ok(provider) }
    }

    fn why_not(&self, target: &Target, wanted: &[ExecutionProvider]) -> String {
        let built = target.compute_capability.as_ref().map_or_else(String::new, |it| format!(" (compute capability {it})"));
        if target.provider == TargetProvider::Portable {
            let how = "build an engine from it with `akidb-sidecar build-engine`, or do not demand a provider";
            let demanded = self.best();
            return match self.facts.refusal(demanded) {
                Some(why) => format!("cannot run on `{demanded}`, which `runtime.provider` demands: {why}"),
                None => format!("is a plain ONNX graph, and `runtime.provider` demands `{demanded}`: {how}"),
            };
        }
        let why = match wanted.iter().find_map(|it| self.facts.refusal(*it)) {
            Some(why) => format!(": {why}"),
            None => String::new(),
        };
        format!("is built for `{}`{built}; this machine serves `{}` only{why}", target.provider, self.best())
    }

    /// Whether an engine was built for this GPU and this TensorRT: nothing else runs it well, or at all.
    fn fits(&self, target: &Target) -> Result<(), String> {
        let here = self.facts.first(&self.devices).map(|it| it.compute_capability.as_str());
        match (target.compute_capability.as_deref(), here) {
            (Some(built), Some(here)) if built == here => {}
            (Some(built), here) => {
                return Err(format!(
                    "is an engine for compute capability {built}; this machine's GPU has {}: build it here with `akidb-sidecar build-engine`",
                    here.unwrap_or("none")
                ));
            }
            (None, _) => return Err("is an engine that does not say which compute capability it is for".to_owned()),
        }
        let here = self.facts.tensorrt.as_deref().unwrap_or("none");
        match target.tensorrt_version.as_deref() {
            Some(built) if same_version(built, here) => Ok(()),
            Some(built) => {
                Err(format!("is an engine of TensorRT {built}; this machine has {here}: build it here with `akidb-sidecar build-engine`"))
            }
            None => Err("is an engine that does not say which TensorRT version it is of".to_owned()),
        }
    }

    /// How well a provider and a target suit: an engine built for this machine, then a graph for its GPU, then what the CPU was given.
    fn rank(provider: ExecutionProvider, target: &Target) -> (usize, bool) {
        let provider = ExecutionProvider::ALL.iter().position(|it| *it == provider).unwrap_or(usize::MAX);
        (provider, target.provider == TargetProvider::Portable)
    }
}

/// Whether versions agree in all parts that both have; `10.6` and `10.6.0` do.
fn same_version(a: &str, b: &str) -> bool {
    let parts = |it: &str| it.split('.').take(3).map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (parts(a), parts(b));
    a.len() >= 2 && b.len() >= 2 && a.iter().zip(&b).all(|(a, b)| a == b)
}

impl Plan {
    /// A catalog's snapshot on this machine.
    pub fn of_snapshot(snapshot: &Snapshot, machine: &Machine) -> Self {
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
    fn of(model: &ServedModel, machine: &Machine) -> Self {
        let first = model.variants.first().map(|it| VariantRef { version: it.version.clone(), variant: it.name.clone() });
        let default = model.aliases.get("default").or_else(|| model.aliases.get("stable")).cloned().or(first);
        let empty = VariantRef { version: model.version.clone(), variant: String::new() };
        let mut variants: Vec<PlannedVariant> = model.variants.iter().map(|it| PlannedVariant::of(it, machine)).collect();
        for (served, planned) in model.variants.iter().zip(&mut variants) {
            planned.lend(served, model, machine);
        }
        Self { card: model.clone(), default: default.unwrap_or(empty), variants }
    }
}

impl PlannedVariant {
    fn of(variant: &ServedVariant, machine: &Machine) -> Self {
        let mut fitting = Vec::new();
        let mut refused = Vec::new();
        for artifact in &variant.artifacts {
            match machine.place(variant.precision, &artifact.target) {
                Ok(provider) => fitting.push((provider, artifact)),
                Err(why) => refused.push(format!("artifact {} {why}", &artifact.digest[..12])),
            }
        }
        let refused = refused.join("; ");
        fitting.sort_by_key(|(provider, it)| Machine::rank(*provider, &it.target));
        let choice = |(provider, artifact): (ExecutionProvider, &ServedArtifact)| Choice {
            artifact: artifact.clone(),
            precision: variant.precision,
            provider,
            fallback: stands_in(&refused, provider, artifact, machine),
        };
        let mut spare: Vec<Choice> = fitting.into_iter().map(choice).collect();
        let nothing = || if refused.is_empty() { "the catalog has no ready artifact of it".to_owned() } else { refused.clone() };
        let choice = if spare.is_empty() { Err(nothing()) } else { Ok(spare.remove(0)) };
        let at = VariantRef { version: variant.version.clone(), variant: variant.name.clone() };
        Self { at, precision: variant.precision, hold: variant.hold, pinned: false, choice, spare }
    }

    /// Gives a variant of engines none of which fits this machine the best plain graph of its version: what they were built from, or that
    /// one's parent. Without one it stays what cannot be served.
    fn lend(&mut self, served: &ServedVariant, model: &ServedModel, machine: &Machine) {
        let Err(why) = &self.choice else { return };
        let is_engine = |it: &ServedArtifact| it.target.provider == TargetProvider::TensorRt;
        if served.artifacts.is_empty() || !served.artifacts.iter().all(is_engine) {
            return;
        }
        let same_version = model.variants.iter().filter(|it| it.version == served.version);
        let graphs = same_version.flat_map(|it| it.artifacts.iter().map(move |artifact| (it, artifact)));
        let fitting = graphs.filter(|(_, it)| it.target.provider == TargetProvider::Portable).filter_map(|(it, artifact)| {
            let provider = machine.place(it.precision, &artifact.target).ok()?;
            Some((it, artifact, provider))
        });
        let Some((of, artifact, provider)) = fitting.min_by_key(|it| it.0.precision) else { return };
        let fallback = format!("{why}; `{}` ({}) runs on `{provider}` in its place", of.name, of.precision);
        self.choice = Ok(Choice { artifact: artifact.clone(), precision: of.precision, provider, fallback });
    }
}

/// Why a plain graph runs in place of an engine that this machine's best provider would run; empty where it does not.
fn stands_in(refused: &str, provider: ExecutionProvider, artifact: &ServedArtifact, machine: &Machine) -> String {
    let lesser = machine.best() != provider && artifact.target.provider == TargetProvider::Portable;
    match () {
        () if !refused.is_empty() && artifact.target.provider == TargetProvider::Portable => {
            format!("{refused}; artifact {} runs on `{provider}` in its place", &artifact.digest[..12])
        }
        () if lesser && machine.best() == ExecutionProvider::TensorRt => {
            format!("it has no engine for TensorRT; its graph runs on `{provider}`")
        }
        () => String::new(),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
