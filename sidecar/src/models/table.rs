//! The published table. Enters: a plan and the state of engines. Leaves: a [`Serving`]. Never: I/O; a name that points at nothing while
//! what it pointed at before still serves.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use akidb_domain::snapshot::{ServedArtifact, VariantRef};
use akidb_domain::vocabulary::Precision;

use super::last_good::{Good, LastGood};
use super::owner::Key;
use super::plan::{Choice, Plan, PlannedModel, PlannedVariant};
use super::slots::Slot;
use crate::serving::{Loaded, Model, Serving, Variant, VariantState};

/// What a table is made of.
pub(crate) struct Inputs<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) slots: &'a HashMap<String, Slot>,
    pub(crate) previous: &'a HashMap<Key, Good>,
    pub(crate) last_good: &'a LastGood,
    pub(crate) old: &'a Serving,
}

impl Inputs<'_> {
    pub(crate) fn table(&self, is_cached: &dyn Fn(&ServedArtifact) -> bool) -> Serving {
        let mut problems = self.plan.problems.clone();
        let mut models = BTreeMap::new();
        for (name, planned) in &self.plan.models {
            let model = self.model(name, planned, is_cached);
            // A catalog may hold what is for other machines; that is no problem of this one unless it is asked to hold it.
            let is_held = |it: &Variant| planned.variants.iter().any(|p| p.at.variant == it.name && p.at.version == it.version && p.hold);
            let failed = model.variants.iter().filter(|it| it.state == VariantState::Failed && (!it.digest.is_empty() || is_held(it)));
            let told = |it: &&Variant| !self.plan.problems.iter().any(|problem| problem.contains(&it.reason));
            problems.extend(failed.filter(told).map(|it| format!("model `{}`, variant `{}`: {}", model.name, it.name, it.reason)));
            models.insert(name.clone(), model);
        }
        let default_model = self.plan.default_model.clone();
        Serving { snapshot: self.plan.version, models, default_model, splits: self.plan.splits.clone(), problems }
    }

    fn model(&self, name: &str, planned: &PlannedModel, is_cached: &dyn Fn(&ServedArtifact) -> bool) -> Model {
        let card = &planned.card;
        let mut variants: Vec<Variant> = planned.variants.iter().map(|it| self.variant(name, planned, it, is_cached)).collect();
        let old = self.old.models.get(name);
        let mut default = point(&planned.default, old.map(|it| &it.default), old, &mut variants);
        if find(&variants, &default).is_none_or(|it| it.loaded.is_none()) {
            // What was the default before this process began.
            default = point(&default, self.last_good.default_of(name).map(|it| it.0), None, &mut variants);
        }
        let aliases = card.aliases.iter().map(|(alias, at)| {
            let alias = alias.to_ascii_lowercase();
            let before = old.and_then(|it| it.aliases.get(&alias));
            let at = if *at == planned.default { default.clone() } else { point(at, before, old, &mut variants) };
            (alias, at)
        });
        let aliases = aliases.collect();
        Model {
            name: card.name.clone(),
            dimension: card.dimension,
            max_tokens: card.max_tokens,
            embedding_space: card.embedding_space.clone(),
            seeded: card.seeded,
            default,
            aliases,
            variants,
        }
    }

    fn variant(&self, name: &str, model: &PlannedModel, planned: &PlannedVariant, is_cached: &dyn Fn(&ServedArtifact) -> bool) -> Variant {
        let at = &planned.at;
        let (digest, mut state, mut reason) = match &planned.choice {
            Ok(choice) => self.state(planned.hold, choice, is_cached),
            Err(why) => (String::new(), VariantState::Failed, why.clone()),
        };
        let mut loaded = None;
        if let Ok(choice) = &planned.choice {
            loaded = self.loaded(name, model, at, (&choice.artifact.digest, choice.precision), !choice.fallback.is_empty());
        }
        if loaded.is_none()
            && let Some(good) = self.previous.get(&(name.to_owned(), at.clone()))
        {
            loaded = self.loaded(name, model, at, (&good.artifact.digest, good.precision), false);
            if loaded.is_some() && state == VariantState::Failed {
                reason = format!("{reason}; artifact {} goes on serving", &good.artifact.digest[..12]);
            }
        } else if loaded.is_some() {
            state = VariantState::Ready;
        }
        let own = model.card.variants.iter().find(|it| it.version == at.version && it.name == at.variant);
        let lent = !digest.is_empty() && own.is_some_and(|it| it.artifacts.iter().all(|artifact| artifact.digest != digest));
        Variant { version: at.version.clone(), name: at.variant.clone(), precision: planned.precision, digest, state, reason, lent, loaded }
    }

    fn state(&self, hold: bool, choice: &Choice, is_cached: &dyn Fn(&ServedArtifact) -> bool) -> (String, VariantState, String) {
        let digest = choice.artifact.digest.clone();
        match self.slots.get(&digest) {
            Some(slot) if slot.reason.is_empty() => (digest, slot.state, choice.fallback.clone()),
            Some(slot) => (digest, slot.state, slot.reason.clone()),
            None if is_cached(&choice.artifact) => (digest, VariantState::Cached, not_held(hold)),
            None => {
                let total = choice.artifact.bytes();
                (digest, VariantState::Pulling { done: 0, total }, not_held(hold))
            }
        }
    }

    /// The engine of `digest` as this variant; the value of the table before where nothing changed.
    fn loaded(
        &self,
        name: &str,
        model: &PlannedModel,
        at: &VariantRef,
        (digest, precision): (&str, Precision),
        fallback: bool,
    ) -> Option<Arc<Loaded>> {
        let live = self.slots.get(digest)?.live.as_ref()?;
        let before =
            self.old.models.get(name).and_then(|it| it.variants.iter().find(|it| it.version == at.version && it.name == at.variant));
        if let Some(same) = before.and_then(|it| it.loaded.clone()).filter(|it| it.engine == live.engine && it.fallback == fallback) {
            return Some(same);
        }
        let card = &model.card;
        Some(Arc::new(Loaded {
            model: card.name.clone(),
            version: at.version.clone(),
            variant: at.variant.clone(),
            precision,
            digest: digest.to_owned(),
            provider: live.provider,
            fallback,
            dimension: card.dimension,
            max_tokens: card.max_tokens,
            pooling: card.pooling,
            normalized: card.normalized,
            embedding_space: card.embedding_space.clone(),
            prompts: card.prompts.clone(),
            tokenizer: live.tokenizer.clone(),
            engine: live.engine,
            loaded_at_ns: live.loaded_at_ns,
            residence: live.residence.clone(),
            lane: OnceLock::new(),
        }))
    }
}

/// Whether a request without `@` can be served.
pub(crate) fn default_is_loaded(model: &Model) -> bool {
    find(&model.variants, &model.default).is_some_and(|it| it.loaded.is_some())
}

/// Where a name points: at what is wanted once that serves, until then at what it pointed at before, if that still does.
fn point(wanted: &VariantRef, before: Option<&VariantRef>, old: Option<&Model>, variants: &mut Vec<Variant>) -> VariantRef {
    let Some(before) = before.filter(|it| *it != wanted) else { return wanted.clone() };
    if find(variants, wanted).is_some_and(|it| it.loaded.is_some()) {
        return wanted.clone();
    }
    if let Some(here) = find(variants, before) {
        return if here.loaded.is_some() { before.clone() } else { wanted.clone() };
    }
    let Some(carried) = old.and_then(|it| find(&it.variants, before)).filter(|it| it.loaded.is_some()) else { return wanted.clone() };
    variants.push(carried.clone());
    before.clone()
}

fn find<'a>(variants: &'a [Variant], at: &VariantRef) -> Option<&'a Variant> {
    variants.iter().find(|it| it.version == at.version && it.name.eq_ignore_ascii_case(&at.variant))
}

fn not_held(hold: bool) -> String {
    if hold { String::new() } else { "not loaded: no alias names it; the first request loads it".to_owned() }
}
