//! The table's next edition. Enters: slots and the plan. Leaves: a published table, notes of what served, engines that nobody needs on
//! their way out. Never: an engine let go before the table without it is out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Key, Owner};
use crate::models::budget::Bytes;
use crate::models::last_good::Good;
use crate::models::table;
use crate::serving::{Serving, Variant, VariantState};

impl Owner {
    pub(super) fn publish(&mut self) {
        self.remember();
        let old = self.table.load_full();
        let is_cached = |it: &_| self.parts.artifacts.is_cached(it);
        let inputs =
            table::Inputs { plan: &self.plan, slots: &self.slots, previous: &self.previous, last_good: &self.last_good, old: &old };
        let new = inputs.table(&is_cached);
        self.count(&old, &new);
        self.note_defaults(&new);
        let in_use = digests(&new);
        self.table.store(Arc::new(new));
        self.changed.send_modify(|it| *it += 1);
        self.collect(&in_use);
        let (taken, limits) =
            (self.slots.values().filter_map(|it| it.live.as_ref()).map(|it| it.bytes()).sum::<Bytes>(), self.parts.memory.limits);
        self.parts.metrics.set_engine_memory("host", taken.host, limits.host);
        if let Some(limit) = limits.gpu {
            self.parts.metrics.set_engine_memory("gpu", taken.gpu, limit);
        }
    }

    /// Notes which artifacts serve.
    fn remember(&mut self) {
        for (name, model) in &self.plan.models {
            for variant in &model.variants {
                let Ok(choice) = &variant.choice else { continue };
                if self.slots.get(&choice.artifact.digest).is_some_and(|it| it.live.is_some()) {
                    let good = Good { artifact: choice.artifact.clone(), precision: choice.precision, at: None };
                    self.previous.insert((name.clone(), variant.at.clone()), good.clone());
                    self.last_good.set(name, &variant.at, good);
                }
            }
        }
        let known: BTreeSet<Key> =
            self.plan.models.iter().flat_map(|(name, it)| it.variants.iter().map(|it| (name.clone(), it.at.clone()))).collect();
        self.previous.retain(|key, _| known.contains(key));
    }

    /// Notes what each model's default is, so that a start has it if the next one takes the process down.
    fn note_defaults(&mut self, new: &Serving) {
        for (name, model) in &new.models {
            let loaded = model.variants.iter().find(|it| it.version == model.default.version && it.name == model.default.variant);
            let Some(loaded) = loaded.and_then(|it| it.loaded.as_ref()) else { continue };
            let Some(slot) = self.slots.get(&loaded.digest) else { continue };
            let good = Good { artifact: slot.job.artifact.clone(), precision: loaded.precision, at: Some(model.default.clone()) };
            self.last_good.set_default(name, good);
        }
    }

    fn count(&self, old: &Serving, new: &Serving) {
        let metrics = &self.parts.metrics;
        metrics.set_snapshot(new.snapshot);
        let ready = new.default_model.as_ref().and_then(|it| new.models.get(it)).is_some_and(table::default_is_loaded);
        metrics.set_ready(ready);
        for (name, model) in &new.models {
            for variant in &model.variants {
                metrics.lane(&model.name, &variant.name);
                let loaded = |serving: &Serving| {
                    let same = |it: &&Variant| it.version == variant.version && it.name == variant.name;
                    serving.models.get(name).and_then(|it| it.variants.iter().find(same)).and_then(|it| it.loaded.clone())
                };
                match (loaded(old), &variant.loaded) {
                    (Some(before), Some(now)) if before.digest != now.digest => metrics.swapped(&model.name, &variant.name),
                    (None, Some(now)) if now.fallback => {
                        tracing::warn!(model = model.name, variant = variant.name, reason = variant.reason, "a fallback serves");
                        metrics.provider_fallback(&model.name, &variant.name);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Lets go of what nobody wants and nothing serves.
    fn collect(&mut self, in_use: &BTreeSet<String>) {
        let mut keep: BTreeSet<String> = in_use.clone();
        keep.extend(self.wanted().iter().filter_map(|(_, it)| it.choice.as_ref().ok()).map(|it| it.artifact.digest.clone()));
        let known = self.plan.models.values().flat_map(|it| &it.variants).filter_map(|it| it.choice.as_ref().ok());
        let known: BTreeSet<&str> = known.map(|it| it.artifact.digest.as_str()).collect();
        keep.extend(self.slots.iter().filter(|(it, slot)| slot.asked && known.contains(it.as_str())).map(|(it, _)| it.clone()));
        let bereft = |it: &BTreeMap<String, VariantState>, digest: &str| it.get(digest).is_none_or(|state| *state != VariantState::Ready);
        let states: BTreeMap<String, VariantState> = self.slots.iter().map(|(digest, it)| (digest.clone(), it.state)).collect();
        for (key, good) in &self.previous {
            let model = self.plan.models.get(&key.0);
            let choice = model.and_then(|it| it.variants.iter().find(|it| it.at == key.1)).and_then(|it| it.choice.as_ref().ok());
            if choice.is_none_or(|it| bereft(&states, &it.artifact.digest)) {
                keep.insert(good.artifact.digest.clone());
            }
        }
        let gone: Vec<String> = self.slots.keys().filter(|it| !keep.contains(*it)).cloned().collect();
        for digest in gone {
            let Some(mut slot) = self.slots.remove(&digest) else { continue };
            slot.running.iter().for_each(tokio::task::AbortHandle::abort);
            slot.answer(&Err("it is no longer known here".to_owned()));
            if let Some(live) = slot.live {
                self.drain(&live);
            }
        }
    }
}

fn digests(serving: &Serving) -> BTreeSet<String> {
    let variants = serving.models.values().flat_map(|it| &it.variants);
    variants.filter_map(|it| it.loaded.as_ref()).map(|it| it.digest.clone()).collect()
}
