//! The task that owns every engine's state. Enters: plans, news of activations. Leaves: published tables. Never: a wait; pulls, loads and
//! drains are tasks of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use akidb_domain::snapshot::VariantRef;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activate::{ActivationError, Job, Live, Parts, Turns};
use super::last_good::{Good, LastGood};
use super::plan::{Plan, PlannedModel, PlannedVariant};
use super::table;
use crate::backoff::Backoff;
use crate::serving::{Serving, Table, VariantState};

/// News that may wait for the task; a progress report that finds no room is dropped, the next one says more.
const NEWS: usize = 256;

/// An artifact's digest and its state.
type News = (String, VariantState);

/// A variant of a model: canonical name, version and variant.
pub(crate) type Key = (String, VariantRef);

/// An artifact's engine, or the way to it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: VariantState,
    pub(crate) reason: String,
    pub(crate) live: Option<Arc<Live>>,
    job: Job,
    running: Option<AbortHandle>,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

pub(crate) struct Owner {
    parts: Parts,
    turns: Turns,
    table: Table,
    changed: watch::Sender<u64>,
    plan: Plan,
    slots: HashMap<String, Slot>,
    /// The artifact that serves a variant while its chosen one does not, by digest.
    previous: HashMap<Key, Good>,
    last_good: LastGood,
    jobs: JoinSet<(String, Result<Live, ActivationError>)>,
    drains: JoinSet<()>,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
}

impl Owner {
    pub(crate) fn new(parts: Parts, table: Table, changed: watch::Sender<u64>) -> Self {
        let last_good = LastGood::open(&parts.state);
        Self {
            parts,
            turns: Turns::default(),
            table,
            changed,
            plan: Plan::default(),
            slots: HashMap::new(),
            previous: HashMap::new(),
            last_good,
            jobs: JoinSet::new(),
            drains: JoinSet::new(),
            news: mpsc::channel(NEWS),
        }
    }

    pub(crate) async fn run(mut self, mut plans: watch::Receiver<Plan>, stop: CancellationToken) {
        self.take(plans.borrow_and_update().clone());
        loop {
            let retry_at = self.slots.values().filter_map(|it| it.retry_at).min();
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = plans.changed() => match changed {
                    Ok(()) => self.take(plans.borrow_and_update().clone()),
                    Err(_) => return,
                },
                Some((digest, state)) = self.news.1.recv() => self.progress(&digest, state),
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => if let Ok((digest, outcome)) = done { self.finish(&digest, outcome) },
                Some(_) = self.drains.join_next(), if !self.drains.is_empty() => {}
                () = retry => self.retry(),
            }
        }
    }

    fn take(&mut self, plan: Plan) {
        self.plan = plan;
        let wanted: Vec<Job> = self.wanted().into_iter().filter_map(|(model, it)| job(model, it)).collect();
        for job in wanted {
            self.ensure(&job);
        }
        self.publish();
    }

    /// Held variants, those of the default model first.
    fn wanted(&self) -> Vec<(&PlannedModel, &PlannedVariant)> {
        let mut all: Vec<_> =
            self.plan.models.iter().flat_map(|(name, it)| it.variants.iter().map(move |variant| (name, it, variant))).collect();
        all.retain(|(_, _, variant)| variant.hold && variant.choice.is_ok());
        all.sort_by_key(|(name, model, it)| (Some(*name) != self.plan.default_model.as_ref(), it.at != model.default));
        all.into_iter().map(|(_, model, variant)| (model, variant)).collect()
    }

    /// Makes sure that an artifact is on its way.
    fn ensure(&mut self, job: &Job) {
        if !self.slots.contains_key(&job.artifact.digest) {
            let total = job.artifact.files.iter().map(|it| it.file.bytes).sum();
            let slot = Slot {
                state: VariantState::Pulling { done: 0, total },
                reason: String::new(),
                live: None,
                job: job.clone(),
                running: None,
                backoff: Backoff::new(Duration::from_secs(5), Duration::from_mins(5)),
                retry_at: None,
            };
            self.slots.insert(job.artifact.digest.clone(), slot);
            self.start(&job.artifact.digest);
        }
    }

    fn start(&mut self, digest: &str) {
        let Some(slot) = self.slots.get_mut(digest) else { return };
        let (job, parts, turns, news) = (slot.job.clone(), self.parts.clone(), self.turns.clone(), self.news.0.clone());
        let digest = digest.to_owned();
        let task = async move {
            // Full: see `NEWS`.
            let tell = |state| drop(news.try_send((digest.clone(), state)));
            let outcome = job.run(&parts, &turns, &tell).await;
            (digest, outcome)
        };
        slot.retry_at = None;
        slot.running = Some(self.jobs.spawn(task));
    }

    fn progress(&mut self, digest: &str, state: VariantState) {
        if let Some(slot) = self.slots.get_mut(digest).filter(|it| it.running.is_some()) {
            slot.state = state;
            self.publish();
        }
    }

    fn finish(&mut self, digest: &str, outcome: Result<Live, ActivationError>) {
        let Some(slot) = self.slots.get_mut(digest) else {
            // No longer wanted: let the engine go.
            if let Ok(live) = outcome {
                self.drain(live.engine);
            }
            return;
        };
        slot.running = None;
        self.parts.metrics.load_finished(&slot.job.card.name, &slot.job.variant, outcome.is_ok());
        match outcome {
            Ok(live) => {
                tracing::info!(model = slot.job.card.name, variant = slot.job.variant, digest, "ready");
                (slot.state, slot.reason, slot.live) = (VariantState::Ready, String::new(), Some(Arc::new(live)));
                slot.backoff.reset();
            }
            Err(error) => {
                tracing::error!(model = slot.job.card.name, variant = slot.job.variant, digest, %error, "cannot be served");
                (slot.state, slot.reason) = (VariantState::Failed, error.to_string());
                slot.retry_at = error.is_worth_another_try().then(|| Instant::now() + slot.backoff.next_wait());
                self.stand_in(digest);
            }
        }
        self.publish();
    }

    /// Brings up what served before, for variants that have nothing else.
    fn stand_in(&mut self, failed: &str) {
        let mut jobs = Vec::new();
        for (name, model) in &self.plan.models {
            let bereft = |it: &&PlannedVariant| it.choice.as_ref().is_ok_and(|it| it.artifact.digest == failed);
            for variant in model.variants.iter().filter(bereft) {
                let key = (name.clone(), variant.at.clone());
                let good = self.last_good.get(name, &variant.at).filter(|it| it.artifact.digest != failed);
                let Some(good) = good.filter(|_| !self.previous.contains_key(&key)).cloned() else { continue };
                let job = Job {
                    artifact: good.artifact.clone(),
                    card: model.card.clone(),
                    variant: variant.at.variant.clone(),
                    precision: good.precision,
                };
                jobs.push(job);
                self.previous.insert(key, good);
            }
        }
        for job in &jobs {
            self.ensure(job);
        }
    }

    fn retry(&mut self) {
        let now = Instant::now();
        let due: Vec<String> =
            self.slots.iter().filter(|(_, it)| it.retry_at.is_some_and(|at| at <= now)).map(|(digest, _)| digest.clone()).collect();
        for digest in &due {
            self.start(digest);
        }
    }

    fn publish(&mut self) {
        self.remember();
        let old = self.table.load_full();
        let is_cached = |it: &_| self.parts.artifacts.is_cached(it);
        let new =
            table::Inputs { plan: &self.plan, slots: &self.slots, previous: &self.previous, old: &old, provider: self.parts.provider }
                .table(&is_cached);
        self.count(&old, &new);
        let in_use = digests(&new);
        self.table.store(Arc::new(new));
        self.changed.send_modify(|it| *it += 1);
        self.collect(&in_use);
    }

    /// Notes which artifacts serve.
    fn remember(&mut self) {
        for (name, model) in &self.plan.models {
            for variant in &model.variants {
                let Ok(choice) = &variant.choice else { continue };
                if self.slots.get(&choice.artifact.digest).is_some_and(|it| it.live.is_some()) {
                    let good = Good { artifact: choice.artifact.clone(), precision: choice.precision };
                    self.previous.insert((name.clone(), variant.at.clone()), good.clone());
                    self.last_good.set(name, &variant.at, good);
                }
            }
        }
        let known: BTreeSet<Key> =
            self.plan.models.iter().flat_map(|(name, it)| it.variants.iter().map(|it| (name.clone(), it.at.clone()))).collect();
        self.previous.retain(|key, _| known.contains(key));
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
                    let same = |it: &&crate::serving::Variant| it.version == variant.version && it.name == variant.name;
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
            let Some(slot) = self.slots.remove(&digest) else { continue };
            slot.running.iter().for_each(AbortHandle::abort);
            if let Some(live) = slot.live {
                self.drain(live.engine);
            }
        }
    }

    fn drain(&mut self, engine: crate::batcher::EngineId) {
        let batcher = self.parts.batcher.clone();
        self.drains.spawn(async move { batcher.remove(engine).await });
    }
}

fn job(model: &PlannedModel, variant: &PlannedVariant) -> Option<Job> {
    let choice = variant.choice.as_ref().ok()?;
    Some(Job {
        artifact: choice.artifact.clone(),
        card: model.card.clone(),
        variant: variant.at.variant.clone(),
        precision: choice.precision,
    })
}

fn digests(serving: &Serving) -> BTreeSet<String> {
    let variants = serving.models.values().flat_map(|it| &it.variants);
    variants.filter_map(|it| it.loaded.as_ref()).map(|it| it.digest.clone()).collect()
}
