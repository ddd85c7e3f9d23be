//! From `[[embedding.models.available]]` to a plan: every entry's manifest is read, and what cannot be served is named.
//!
//! Enters: entries, a store. Leaves: a [`Plan`], or why the default model cannot be served. Never: an engine file; manifests only.

use std::collections::BTreeMap;

use akidb_domain::snapshot::{ServedModel, ServedVariant, VariantRef};
use akidb_domain::vocabulary::{Precision, TargetProvider};

use super::bundles::{Bundle, BundleError, Bundles};
use super::plan::{Choice, Machine, Plan, PlannedModel, PlannedVariant};
use crate::config::{DefaultModel, Entry, Models};

/// The version of everything that comes from the configuration.
pub const VERSION: &str = "config";

/// The default model cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the default model `{default}` cannot be served: {}", .problems.join("; "))]
pub struct DefaultRefused {
    /// As it was written.
    pub default: String,
    /// Why.
    pub problems: Vec<String>,
}

/// An entry that was read.
struct Read {
    entry: Entry,
    index: usize,
    variant: String,
    precision: Precision,
    outcome: Result<Bundle, String>,
}

/// Reads every entry. `strict`: a default that cannot be served is an error (there is no catalog that might have it).
pub async fn resolve(models: &Models, machine: &Machine, bundles: &Bundles, strict: bool) -> Result<Plan, DefaultRefused> {
    let mut reads = Vec::new();
    for (index, entry) in models.available.iter().enumerate() {
        reads.push(read(index, entry, machine, bundles).await);
    }
    let mut plan = Plan::default();
    for read in &reads {
        let (choice, bundle) =
            choose(read, &reads, machine, bundles).await.map_or_else(|why| (Err(why), None), |(choice, bundle)| (Ok(choice), Some(bundle)));
        if let Err(why) = &choice {
            tracing::warn!(model = read.entry.name, path = %read.entry.path, "entry cannot be served: {why}");
            plan.problems.push(format!("model `{}`, {}: {why}", read.entry.name, read.entry.path));
        }
        add(&mut plan, read, choice, bundle.as_ref());
    }
    if let Some(default) = &models.default {
        plan.default_model = Some(default.model.clone());
        set_default(&mut plan, default, &reads);
        if strict {
            refuse(&plan, default)?;
        }
    }
    Ok(plan)
}

async fn read(index: usize, entry: &Entry, machine: &Machine, bundles: &Bundles) -> Read {
    let found = bundles.read(&entry.path).await;
    // What a bundle says of itself holds though it cannot be served here.
    let card = found.as_ref().ok().map(|it| it.manifest.variant.clone());
    let outcome = match found {
        Err(error) if is_tensorrt_file(entry.path.name()) && !error.is_about_manifest() => Err(format!(
            "`{}` is a TensorRT engine; this machine serves `{}` only (set `fallback = true` to let a portable variant stand in)",
            entry.path.name(),
            machine.best()
        )),
        found => found.map_err(|error| error.to_string()).and_then(|bundle| fits_entry(bundle, entry, machine)),
    };
    let stated = entry.precision.map(|it| it.to_string());
    let variant = entry.variant.clone().or_else(|| card.as_ref().map(|it| it.name.clone())).or(stated);
    let precision = card.map(|it| it.precision).or(entry.precision).unwrap_or(Precision::Fp32);
    Read { entry: entry.clone(), index, variant: variant.unwrap_or_else(|| "unknown".into()), precision, outcome }
}

/// What an entry says must be what its bundle says, and the bundle must fit the machine.
fn fits_entry(mut bundle: Bundle, entry: &Entry, machine: &Machine) -> Result<Bundle, String> {
    let manifest = &bundle.manifest;
    if akidb_domain::vocabulary::canonical_model(&manifest.model.name) != entry.model() {
        return Err(format!("its bundle at {} is of model `{}`", bundle.at, manifest.model.name));
    }
    if let Some(stated) = entry.dimension.filter(|it| *it != manifest.model.dimension) {
        return Err(format!("the entry says dimension {stated}, its bundle {}", manifest.model.dimension));
    }
    if let Some(stated) = entry.precision.filter(|it| *it != manifest.variant.precision) {
        return Err(format!("the entry says precision `{stated}`, its bundle `{}`", manifest.variant.precision));
    }
    if let Some(why) = machine.refuses(manifest.variant.precision, &bundle.artifact) {
        let name = entry.path.name();
        return Err(format!("`{name}` {why} (set `fallback = true` to let a portable variant stand in)"));
    }
    if let Some(tokenizer) = &entry.tokenizer {
        bundle.set_tokenizer(tokenizer);
    }
    Ok(bundle)
}

/// The entry's own artifact, or what stands in for it.
async fn choose(read: &Read, all: &[Read], machine: &Machine, bundles: &Bundles) -> Result<(Choice, Bundle), String> {
    let why = match &read.outcome {
        Ok(bundle) => {
            let provider = machine.place(read.precision, &bundle.artifact.target)?;
            let choice = Choice { artifact: bundle.artifact.clone(), precision: read.precision, provider, fallback: String::new() };
            return Ok((choice, bundle.clone()));
        }
        Err(why) if !read.entry.fallback => return Err(why.clone()),
        Err(why) => why.replace(" (set `fallback = true` to let a portable variant stand in)", ""),
    };
    let mut candidates: Vec<Bundle> = Vec::new();
    let same_model = all.iter().filter(|it| it.entry.model() == read.entry.model());
    candidates.extend(same_model.filter_map(|it| it.outcome.as_ref().ok()).cloned());
    candidates.extend(bundles.siblings(&read.entry.path, &read.entry.name).await);
    // The entry allows what `runtime.provider` alone would not.
    let lenient = Machine { demanded: None, ..machine.clone() };
    let good = |it: &Bundle| {
        it.manifest.target.provider == TargetProvider::Portable
            && lenient.refuses(it.manifest.variant.precision, &it.artifact).is_none()
            && akidb_domain::vocabulary::canonical_model(&it.manifest.model.name) == read.entry.model()
            && read.entry.dimension.is_none_or(|stated| stated == it.manifest.model.dimension)
    };
    let best = candidates.into_iter().filter(good).min_by_key(|it| it.manifest.variant.precision);
    let Some(best) = best else { return Err(format!("{why}; no portable variant of `{}` was found to stand in", read.entry.name)) };
    let precision = best.manifest.variant.precision;
    let provider = lenient.place(precision, &best.artifact.target)?;
    let fallback = format!("{why}; {} ({precision}) stands in on `{provider}`", best.at);
    Ok((Choice { artifact: best.artifact.clone(), precision, provider, fallback }, best))
}

fn add(plan: &mut Plan, read: &Read, choice: Result<Choice, String>, bundle: Option<&Bundle>) {
    let at = VariantRef { version: VERSION.into(), variant: read.variant.clone() };
    let variant =
        PlannedVariant { at: at.clone(), precision: read.precision, hold: true, pinned: read.entry.pinned, choice, spare: Vec::new() };
    let model = plan.models.entry(read.entry.model()).or_insert_with(|| PlannedModel {
        card: empty_card(&read.entry),
        default: at.clone(),
        variants: Vec::new(),
    });
    if let Some(bundle) = bundle.filter(|_| model.card.embedding_space.is_empty()) {
        model.card = bundle.card(&read.entry.name);
        // The first variant that can be served is the default, until the configuration says otherwise.
        model.default = at;
    }
    if model.variants.iter().any(|it| it.at.variant.eq_ignore_ascii_case(&read.variant)) {
        plan.problems.push(format!(
            "model `{}`, {}: another entry has the variant `{}` already: give one of them a `variant`",
            read.entry.name, read.entry.path, read.variant
        ));
    } else {
        model.variants.push(variant);
    }
}

fn empty_card(entry: &Entry) -> ServedModel {
    ServedModel {
        name: entry.name.clone(),
        version: VERSION.into(),
        dimension: entry.dimension.unwrap_or_default(),
        max_tokens: 0,
        pooling: akidb_domain::vocabulary::Pooling::Mean,
        normalized: true,
        embedding_space: String::new(),
        prompts: BTreeMap::new(),
        seeded: false,
        variants: Vec::<ServedVariant>::new(),
        aliases: BTreeMap::new(),
    }
}

/// The first entry of the default model is what it means, unless a variant or an artifact was named.
fn set_default(plan: &mut Plan, default: &DefaultModel, reads: &[Read]) {
    let Some(model) = plan.models.get_mut(&default.model) else { return };
    let of_entry = |it: &&Read| match (default.entry, &default.selector) {
        (Some(index), _) => it.index == index,
        (None, Some(selector)) => it.entry.model() == default.model && it.variant.eq_ignore_ascii_case(selector),
        (None, None) => it.entry.model() == default.model,
    };
    if let Some(read) = reads.iter().find(of_entry) {
        model.default = VariantRef { version: VERSION.into(), variant: read.variant.clone() };
    } else if let Some(selector) = &default.selector {
        model.default = VariantRef { version: VERSION.into(), variant: selector.clone() };
    }
}

fn refuse(plan: &Plan, default: &DefaultModel) -> Result<(), DefaultRefused> {
    let refused = |problems| Err(DefaultRefused { default: default.written.clone(), problems });
    let Some(model) = plan.models.get(&default.model) else { return refused(vec!["no entry has that name".into()]) };
    if let Some(variant) = model.variants.iter().find(|it| it.at.variant.eq_ignore_ascii_case(&model.default.variant)) {
        return variant.choice.as_ref().map(|_| ()).or_else(|why| refused(vec![why.clone()]));
    }
    let there: Vec<&str> = model.variants.iter().map(|it| it.at.variant.as_str()).collect();
    refused(vec![format!("it has no variant `{}`; there are: {}", model.default.variant, there.join(", "))])
}

fn is_tensorrt_file(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, it)| it);
    ["trt", "engine", "plan"].iter().any(|it| extension.eq_ignore_ascii_case(it))
}

impl BundleError {
    /// Whether a manifest was found, and is the trouble.
    fn is_about_manifest(&self) -> bool {
        matches!(self, Self::Manifest { .. } | Self::NotListed { .. })
    }
}
