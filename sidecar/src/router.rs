//! Which variant and arm serves a request.
//!
//! Enters: the current table, what is asked, and which experiments' leases hold. Leaves: a loaded variant and a lane, or why not. Never:
//! state, a clock, a wait.
//!
//! A request on a model that an experiment splits meets one of its arms unless it asks for a variant by name, is to be indexed, the lease has run out,
//! or one of the two variants is not ready here as the snapshot means it. What is left out goes to the baseline, outside the experiment's counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use akidb_domain::snapshot::{ProbeBudget, TrafficSplit, VariantRef};
use akidb_domain::split::{Shares, arm, bucket_of, unit_hash};
use akidb_domain::vocabulary::{Arm, ModelRef, Purpose};
use akidb_domain::window::LaneId;

use crate::lease::Leases;
use crate::serving::{Loaded, Model, Serving, Variant, VariantState};

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Model; `None`: the default.
    pub model: Option<&'a ModelRef>,
    /// Query or index.
    pub purpose: Purpose,
    /// `x-akidb-app`.
    pub app: &'a str,
    /// Sticky unit (`x-akidb-key`, else `user`), if given.
    pub sticky: Option<&'a [u8]>,
    /// Drawn for this request.
    pub random: u64,
}

/// What serves it.
#[derive(Debug, Clone)]
pub struct Route {
    /// The variant.
    pub loaded: Arc<Loaded>,
    /// Where it is counted.
    pub lane: Arc<LaneId>,
    /// Its experiment's sticky unit, as a hash; none for a unit drawn for this request, or outside an experiment.
    pub unit: Option<u64>,
    /// The two engines to compare, if that is asked for.
    pub probe: Option<Rivals>,
}

/// An experiment's variants, and what comparing them may cost.
#[derive(Debug, Clone)]
pub struct Rivals {
    /// The stable one.
    pub baseline: Arc<Loaded>,
    /// The one on trial.
    pub canary: Arc<Loaded>,
    /// Of the device's time.
    pub budget: ProbeBudget,
}

/// Why nothing can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such model.
    #[error("unknown model `{asked}`; there are: {known}")]
    UnknownModel {
        /// What was asked.
        asked: String,
        /// What there is.
        known: String,
    },
    /// No such variant or alias.
    #[error("model `{model}` has no variant or alias `{asked}`; there are: {known}")]
    UnknownVariant {
        /// Model.
        model: String,
        /// What was asked.
        asked: String,
        /// What there is.
        known: String,
    },
    /// Known, but no artifact of it can run on this machine.
    #[error("model `{model}`, variant `{variant}` cannot be served here: {why}; there are: {known}")]
    NotForHere {
        /// Model.
        model: String,
        /// What was asked.
        variant: String,
        /// Why not.
        why: String,
        /// What else there is.
        known: String,
    },
    /// Known, but nothing is loaded.
    #[error("model `{model}`, variant `{}` is not ready ({state})", variant.variant)]
    NotReady {
        /// Model.
        model: String,
        /// Which variant.
        variant: VariantRef,
        /// Where it is, and why.
        state: String,
    },
    /// No model is known at all, or none was asked for and there is no default.
    #[error("no model is configured yet")]
    NoModel,
}

/// Finds what serves `ask`.
pub fn route(serving: &Serving, ask: &Ask<'_>, leases: &Leases) -> Result<Route, RouteError> {
    let (name, model) = find_model(serving, ask.model)?;
    let selector = ask.model.and_then(|it| it.selector.as_deref());
    let wanted = match selector {
        Some(selector) => select(model, selector)?,
        None => model.default.clone(),
    };
    // A variant asked for by name is what is served; a share of it is not.
    let split = serving.splits.get(name).filter(|_| selector.is_none_or(|it| it == DEFAULT_ALIAS));
    if let Some(split) = split {
        if let Some(route) = in_experiment(model, split, ask, leases) {
            return Ok(route);
        }
        // An index keeps the vectors of the stable variant, and so does whoever the experiment leaves out.
        if let Some(baseline) = loaded(model, &split.baseline) {
            return Ok(outside_experiment(baseline));
        }
    }
    match loaded(model, &wanted) {
        Some(loaded) => Ok(outside_experiment(loaded)),
        // Waiting would not help whoever asks for it by name.
        None if selector.is_some() => Err(not_for_here(model, &wanted).unwrap_or_else(|| not_ready(model, wanted))),
        None => Err(not_ready(model, wanted)),
    }
}

/// The model and variant that a name stands for, loaded or not.
pub fn find_named<'a>(serving: &'a Serving, asked: &ModelRef) -> Result<(&'a Model, VariantRef), RouteError> {
    let (_, model) = find_model(serving, Some(asked))?;
    let variant = asked.selector.as_deref().map_or_else(|| Ok(model.default.clone()), |it| select(model, it))?;
    Ok((model, variant))
}

/// What a request that names no model gets, outside an experiment.
pub fn default_loaded(serving: &Serving) -> Result<&Arc<Loaded>, RouteError> {
    let (_, model) = find_model(serving, None)?;
    loaded(model, &model.default).ok_or_else(|| not_ready(model, model.default.clone()))
}

/// The alias that a name without `@` stands for.
const DEFAULT_ALIAS: &str = "default";

fn find_model<'a>(serving: &'a Serving, asked: Option<&ModelRef>) -> Result<(&'a str, &'a Model), RouteError> {
    let Some(name) = asked.map(|it| &it.model).or(serving.default_model.as_ref()) else { return Err(RouteError::NoModel) };
    if let Some((name, model)) = serving.models.get_key_value(name) {
        return Ok((name, model));
    }
    // The default is configured but not known yet, or nothing is; that passes.
    if asked.is_none() || serving.models.is_empty() {
        return Err(RouteError::NoModel);
    }
    Err(unknown_model(serving, name))
}

/// The error for a name that is none, with those there are.
pub fn unknown_model(serving: &Serving, asked: &str) -> RouteError {
    let asked = asked.chars().take(200).collect();
    RouteError::UnknownModel { asked, known: list(serving.models.values().map(|it| it.name.as_str())) }
}

/// An alias, or a variant: of the default's version if it has one of that name.
fn select(model: &Model, selector: &str) -> Result<VariantRef, RouteError> {
    if let Some(at) = model.aliases.get(selector) {
        return Ok(at.clone());
    }
    if selector == DEFAULT_ALIAS || model.default.variant.eq_ignore_ascii_case(selector) {
        return Ok(model.default.clone());
    }
    let named = |it: &&Variant| it.name.eq_ignore_ascii_case(selector);
    let ours = model.variants.iter().find(|it| named(it) && it.version == model.default.version);
    let found = ours.or_else(|| model.variants.iter().find(named));
    found.map(|it| VariantRef { version: it.version.clone(), variant: it.name.clone() }).ok_or_else(|| {
        let known = model.variants.iter().map(|it| it.name.as_str()).chain(model.aliases.keys().map(String::as_str));
        RouteError::UnknownVariant { model: model.name.clone(), asked: selector.to_owned(), known: list(known) }
    })
}

/// The arm of a request under a split; `None` if the split does not apply to it or cannot be served here.
fn in_experiment(model: &Model, split: &TrafficSplit, ask: &Ask<'_>, leases: &Leases) -> Option<Route> {
    let takes_part = ask.purpose == Purpose::Query || split.apps_all_traffic.iter().any(|it| it == ask.app);
    if !takes_part || !leases.holds(&split.experiment) {
        return None;
    }
    let (baseline, canary) = (as_meant(model, &split.baseline)?, as_meant(model, &split.canary)?);
    let random = ask.random.to_le_bytes();
    let sticky = ask.sticky.filter(|_| split.sticky);
    let hash = unit_hash(&split.salt, sticky.unwrap_or(&random));
    let arm = arm(bucket_of(hash), shares(split));
    let on_canary = matches!(arm, Arm::Canary | Arm::CanarySample) && !split.burn_in;
    let serves = if on_canary { canary } else { baseline };
    let lane = Arc::new(serves.lane_of(arm, &split.experiment, split.phase));
    let rivals = |budget| Rivals { baseline: baseline.clone(), canary: canary.clone(), budget };
    let probe = split.probe.filter(|_| !split.burn_in).map(rivals);
    Some(Route { loaded: serves.clone(), lane, unit: sticky.map(|_| hash), probe })
}

fn shares(split: &TrafficSplit) -> Shares {
    Shares { canary_ppm: split.canary_ppm, control_ppm: split.control_ppm, canary_sample_ppm: split.canary_sample_ppm }
}

/// The variant, if the very artifact that the snapshot means serves it: what stands in for it would be judged in its name.
fn as_meant<'a>(model: &'a Model, at: &VariantRef) -> Option<&'a Arc<Loaded>> {
    let variant = find(model, at)?;
    variant.loaded.as_ref().filter(|it| it.digest == variant.digest && !it.fallback)
}

fn outside_experiment(loaded: &Arc<Loaded>) -> Route {
    Route { loaded: loaded.clone(), lane: loaded.own_lane(), unit: None, probe: None }
}

fn find<'a>(model: &'a Model, at: &VariantRef) -> Option<&'a Variant> {
    model.variants.iter().find(|it| it.version == at.version && it.name == at.variant)
}

fn loaded<'a>(model: &'a Model, at: &VariantRef) -> Option<&'a Arc<Loaded>> {
    find(model, at).and_then(|it| it.loaded.as_ref())
}

/// Why a variant without any artifact for this machine will not come up by itself.
fn not_for_here(model: &Model, variant: &VariantRef) -> Option<RouteError> {
    let known = find(model, variant).filter(|it| it.state == VariantState::Failed && it.digest.is_empty())?;
    let others = model.variants.iter().filter(|it| !it.digest.is_empty()).map(|it| it.name.as_str());
    Some(RouteError::NotForHere { model: model.name.clone(), variant: known.name.clone(), why: known.reason.clone(), known: list(others) })
}

fn not_ready(model: &Model, variant: VariantRef) -> RouteError {
    let state = find(model, &variant).map_or_else(
        || "not known here".to_owned(),
        |it| if it.reason.is_empty() { it.state.as_str().to_owned() } else { format!("{}: {}", it.state.as_str(), it.reason) },
    );
    RouteError::NotReady { model: model.name.clone(), variant, state }
}

/// Names, sorted, each once.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests;
