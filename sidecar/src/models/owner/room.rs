//! Memory for loads. Enters: loads that need it, engines that are gone. Leaves: grants, refusals, evictions. Never: an engine taken away
//! while a request uses it.

use std::collections::BTreeSet;
use std::time::Duration;

use akidb_domain::vocabulary::canonical_model;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Owner;
use crate::models::budget::{Ask, Bytes, Tenant, Urgency, Verdict, judge};
use crate::serving::VariantState;

/// Loads that may ask at a time; more wait in line.
pub(super) const ASKS: usize = 64;
/// How long a load waits for requests to leave the engines that it needs gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A load that needs memory.
#[derive(Debug)]
pub(crate) struct RoomAsk {
    pub(crate) digest: String,
    pub(crate) reply: oneshot::Sender<Result<(), String>>,
}

/// One that was not answered yet.
pub(super) struct Asking {
    ask: RoomAsk,
    until: Instant,
}

impl Owner {
    pub(super) fn ask_room(&mut self, ask: RoomAsk) {
        self.asking.push(Asking { ask, until: Instant::now() + PATIENCE });
        self.give_rooms();
    }

    /// An engine is gone.
    pub(super) fn drained(&mut self, freed: Bytes) {
        self.leaving = self.leaving.less(freed);
        self.give_rooms();
        if self.asking.is_empty() {
            self.unpark();
        }
    }

    /// Answers whom it can, the most wanted first. One that waits for others to leave is not overtaken.
    pub(super) fn give_rooms(&mut self) {
        let mut asking = std::mem::take(&mut self.asking);
        asking.retain(|it| !it.ask.reply.is_closed());
        asking.sort_by_key(|it| std::cmp::Reverse(self.urgency(&it.ask.digest)));
        let mut line = asking.into_iter();
        for Asking { ask, until } in line.by_ref() {
            let (verdict, held) = (self.judge(&ask.digest), self.urgency(&ask.digest) == Urgency::Held);
            let outcome = match verdict {
                Verdict::Grant => Ok(()),
                Verdict::Refuse(why) => Err(why),
                // For those before it, which may be on their way for long.
                Verdict::Wait if held => {
                    self.asking.push(Asking { ask, until });
                    continue;
                }
                Verdict::Wait if Instant::now() >= until => Err(self.in_use(&ask.digest)),
                waits => {
                    self.asking.push(Asking { ask, until });
                    if let Verdict::Evict(victims) = waits {
                        self.evict(&victims);
                    }
                    break;
                }
            };
            if let Some(slot) = self.slots.get_mut(&ask.digest).filter(|_| outcome.is_ok()) {
                slot.granted = Some(slot.bytes());
            }
            // The load may have been given up.
            drop(ask.reply.send(outcome));
        }
        self.asking.extend(line);
    }

    fn judge(&self, digest: &str) -> Verdict {
        let Some(slot) = self.slots.get(digest) else { return Verdict::Refuse("it is no longer wanted".into()) };
        let (urgency, bytes) = (self.urgency(digest), slot.bytes());
        let ahead = if urgency == Urgency::Held { self.ahead_of(digest) } else { Bytes::default() };
        let spare = self.takes_over(digest).then_some(slot.job.card.name.as_str());
        let (limits, tenants) = (self.parts.memory.limits, self.tenants());
        let verdict = judge(&limits, &tenants, self.leaving, &Ask { bytes, urgency, spare, ahead });
        let used: Bytes = tenants.iter().map(|it| it.bytes).sum();
        if verdict == Verdict::Grant && !limits.missing(bytes, used + bytes).is_nothing() {
            tracing::warn!(model = slot.job.card.name, ?limits, ?used, ?bytes, "the default is loaded over the memory budget");
        }
        verdict
    }

    /// Why a load that waited for others to be done goes without.
    fn in_use(&self, digest: &str) -> String {
        let bytes = self.slots.get(digest).map(super::Slot::bytes).unwrap_or_default();
        let taken: Bytes = self.slots.values().filter_map(super::Slot::taken).sum();
        self.parts.memory.limits.in_use(self.parts.memory.limits.missing(bytes, taken + self.leaving + bytes))
    }

    fn urgency(&self, digest: &str) -> Urgency {
        let Some(slot) = self.slots.get(digest) else { return Urgency::Held };
        if self.default_digest() == Some(digest) {
            return Urgency::Must;
        }
        let asked = slot.asked || self.kept().contains(digest) || self.takes_over(digest);
        if asked { Urgency::Asked } else { Urgency::Held }
    }

    /// Whether an alias or the configuration wants it while another engine of the model serves.
    fn takes_over(&self, digest: &str) -> bool {
        let Some(slot) = self.slots.get(digest) else { return false };
        let model = &slot.job.card.name;
        self.held().contains(digest) && self.slots.values().any(|it| it.live.is_some() && it.job.card.name == *model)
    }

    /// Bytes of more wanted engines that are still on their way.
    fn ahead_of(&self, digest: &str) -> Bytes {
        let before = self.wanted().into_iter().filter_map(|(_, it)| it.choice.as_ref().ok()).map(|it| it.artifact.digest.as_str());
        let before: BTreeSet<&str> = before.take_while(|it| *it != digest).collect();
        let on_its_way = |it: &&&str| self.slots.get(**it).is_some_and(|it| it.running.is_some() && it.taken().is_none());
        before.iter().filter(on_its_way).filter_map(|it| self.slots.get(*it)).map(super::Slot::bytes).sum()
    }

    fn tenants(&self) -> Vec<Tenant> {
        let (kept, held) = (self.kept(), self.held());
        let tenant = |(digest, slot): (&String, &super::Slot)| {
            let residence = slot.live.as_ref().map(|it| &it.residence);
            Some(Tenant {
                digest: digest.clone(),
                model: slot.job.card.name.clone(),
                bytes: slot.taken()?,
                last_used_ns: residence.map_or(u64::MAX, |it| it.last_used_ns()),
                busy: residence.is_none_or(|it| it.in_use()),
                kept: kept.contains(digest.as_str()),
                held: held.contains(digest.as_str()),
            })
        };
        self.slots.iter().filter_map(tenant).collect()
    }

    fn default_digest(&self) -> Option<&str> {
        let model = self.plan.models.get(self.plan.default_model.as_ref()?)?;
        let default = model.variants.iter().find(|it| it.at == model.default)?;
        default.choice.as_ref().ok().map(|it| it.artifact.digest.as_str())
    }

    fn held(&self) -> BTreeSet<String> {
        self.wanted().into_iter().filter_map(|(_, it)| it.choice.as_ref().ok()).map(|it| it.artifact.digest.clone()).collect()
    }

    /// Never evicted: the default, planned and serving; pinned entries; arms of splits.
    fn kept(&self) -> BTreeSet<String> {
        let mut kept: BTreeSet<String> = self.default_digest().map(str::to_owned).into_iter().collect();
        for (name, model) in &self.plan.models {
            let split = self.plan.splits.get(name);
            let stays =
                |it: &&super::PlannedVariant| it.pinned || split.is_some_and(|split| it.at == split.baseline || it.at == split.canary);
            let choices = model.variants.iter().filter(stays).filter_map(|it| it.choice.as_ref().ok());
            kept.extend(choices.map(|it| it.artifact.digest.clone()));
        }
        let serving = self.table.load();
        let default = serving.default_model.as_ref().and_then(|it| serving.models.get(it));
        let default = default
            .and_then(|it| it.variants.iter().find(|variant| variant.version == it.default.version && variant.name == it.default.variant));
        kept.extend(default.and_then(|it| it.loaded.as_ref()).map(|it| it.digest.clone()));
        kept
    }

    fn evict(&mut self, digests: &[String]) {
        let mut gone = Vec::new();
        for digest in digests {
            let Some(slot) = self.slots.get_mut(digest) else { continue };
            let Some(live) = slot.live.take() else { continue };
            (slot.state, slot.asked) = (VariantState::Cached, false);
            "evicted for another engine; the next request loads it".clone_into(&mut slot.reason);
            tracing::info!(
                model = slot.job.card.name,
                variant = slot.job.variant,
                digest,
                memory_bytes = live.bytes().host,
                gpu_memory_bytes = live.bytes().gpu,
                "evicted"
            );
            self.parts.metrics.evicted(&slot.job.card.name, &slot.job.variant);
            self.previous.retain(|key, good| key.0 != canonical_model(&slot.job.card.name) || good.artifact.digest != *digest);
            gone.push(live);
        }
        // Requests are routed elsewhere before the engine drains.
        self.publish();
        for live in gone {
            self.drain(&live);
        }
    }

    /// Loads held engines that had no room, if they have it now.
    fn unpark(&mut self) {
        let taken = self.slots.values().filter_map(super::Slot::taken).sum::<Bytes>() + self.leaving;
        let limits = self.parts.memory.limits;
        let parked: Vec<String> =
            self.wanted().into_iter().filter_map(|(_, it)| it.choice.as_ref().ok()).map(|it| it.artifact.digest.clone()).collect();
        let fits = |it: &&super::Slot| it.is_parked() && limits.missing(it.bytes(), taken + it.bytes()).is_nothing();
        let next = parked.into_iter().find(|it| self.slots.get(it).as_ref().is_some_and(fits));
        if let Some(digest) = next {
            self.start(&digest);
        }
    }
}
