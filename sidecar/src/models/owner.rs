//! The task that owns every engine's state. Enters: plans, requests for what is not loaded, news of activations. Leaves: published tables.
//! Never: a wait; pulls, loads and drains are tasks of their own.
//!
//! Rooms: `room` who gets memory, `stand_in` what serves in place of what cannot, `publish` the table and what nobody needs any more.

mod publish;
mod room;
mod stand_in;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use akidb_domain::snapshot::VariantRef;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activate::{ActivationError, Job, Live, Parts, Surroundings, Turns};
use super::budget::Bytes;
use super::demand::Want;
use super::last_good::{Good, LastGood};
use super::marker::Markers;
use super::plan::{Plan, PlannedModel, PlannedVariant};
use super::slots::Slot;
use crate::serving::{Table, VariantState};
use room::Asking;
pub(crate) use room::RoomAsk;

/// News that may wait for the task; a progress report that finds no room is dropped, the next one says more.
const NEWS: usize = 256;
/// How often it is looked whether requests have left an engine that is to be evicted.
const LOOK: Duration = Duration::from_millis(20);

/// An artifact's digest and its state.
type News = (String, VariantState);

/// A variant of a model: canonical name, version and variant.
pub(crate) type Key = (String, VariantRef);

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
    /// Each ends with the bytes that it freed.
    drains: JoinSet<Bytes>,
    leaving: Bytes,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    wants: mpsc::Receiver<Want>,
    rooms: mpsc::Receiver<RoomAsk>,
    asking: Vec<Asking>,
}

impl Owner {
    /// Takes its first plan at once: a request that comes before the task first runs must not be told that there are no models.
    pub(crate) fn new(parts: Parts, plan: Plan, table: Table, changed: watch::Sender<u64>, wants: mpsc::Receiver<Want>) -> Self {
        let last_good = LastGood::open(&parts.state);
        let (rooms, asks) = mpsc::channel(room::ASKS);
        let mut owner = Self {
            parts,
            turns: Turns::new(rooms),
            table,
            changed,
            plan: Plan::default(),
            slots: HashMap::new(),
            previous: HashMap::new(),
            last_good,
            jobs: JoinSet::new(),
            drains: JoinSet::new(),
            leaving: Bytes::default(),
            news: mpsc::channel(NEWS),
            wants,
            rooms: asks,
            asking: Vec::new(),
        };
        owner.take(plan);
        owner
    }

    pub(crate) async fn run(mut self, mut plans: watch::Receiver<Plan>, stop: CancellationToken) {
        loop {
            let look = (!self.asking.is_empty()).then(|| Instant::now() + LOOK);
            let (retry, look) = (sleep_until(self.slots.values().filter_map(|it| it.retry_at).min()), sleep_until(look));
            tokio::select! {
                () = stop.cancelled() => return self.end().await,
                changed = plans.changed() => match changed {
                    Ok(()) => self.take(plans.borrow_and_update().clone()),
                    Err(_) => return self.end().await,
                },
                Some(want) = self.wants.recv() => self.want(want),
                Some(ask) = self.rooms.recv() => self.ask_room(ask),
                Some((digest, state)) = self.news.1.recv() => self.progress(&digest, state),
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => if let Ok((digest, outcome)) = done { self.finish(&digest, outcome) },
                Some(freed) = self.drains.join_next(), if !self.drains.is_empty() => self.drained(freed.unwrap_or_default()),
                () = retry => self.retry(),
                () = look => self.give_rooms(),
            }
        }
    }

    /// The process ends well: whatever loads now is not to blame. Each load clears its marker as it goes; a pardon beside that would leave one.
    async fn end(mut self) {
        self.jobs.shutdown().await;
        if let Ok(markers) = Markers::open(&self.parts.state) {
            markers.pardon();
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

    /// Held variants and arms of experiments by priority: the default, pinned ones, other models' defaults, the rest.
    fn wanted(&self) -> Vec<(&PlannedModel, &PlannedVariant)> {
        let mut all: Vec<_> =
            self.plan.models.iter().flat_map(|(name, it)| it.variants.iter().map(move |variant| (name, it, variant))).collect();
        let is_arm = |model: &String, at: &VariantRef| self.plan.splits.get(model).is_some_and(|it| it.baseline == *at || it.canary == *at);
        all.retain(|(model, _, variant)| (variant.hold || is_arm(model, &variant.at)) && variant.choice.is_ok());
        all.sort_by_key(|(name, model, it)| {
            let (ours, default) = (Some(*name) == self.plan.default_model.as_ref(), it.at == model.default);
            (!(ours && default), !it.pinned, !default, !ours)
        });
        all.into_iter().map(|(_, model, variant)| (model, variant)).collect()
    }

    /// Makes sure that an artifact is on its way.
    fn ensure(&mut self, job: &Job) {
        if !self.slots.contains_key(&job.artifact.digest) {
            let estimate = self.parts.memory.estimate(&job.artifact, job.provider);
            self.slots.insert(job.artifact.digest.clone(), Slot::new(job.clone(), estimate));
            self.start(&job.artifact.digest);
        }
    }

    fn start(&mut self, digest: &str) {
        let around = Surroundings { spared: self.something_else_serves(digest), beside: self.slots.values().any(|it| it.live.is_some()) };
        let Some(slot) = self.slots.get_mut(digest) else { return };
        let (job, parts, turns, news) = (slot.job.clone(), self.parts.clone(), self.turns.clone(), self.news.0.clone());
        let digest = digest.to_owned();
        let task = async move {
            // Full: see `NEWS`.
            let tell = |state| drop(news.try_send((digest.clone(), state)));
            let outcome = job.run(&parts, &turns, around, &tell).await;
            (digest, outcome)
        };
        slot.retry_at = None;
        slot.running = Some(self.jobs.spawn(task));
    }

    /// A request for a variant that was not loaded a moment ago.
    fn want(&mut self, want: Want) {
        let Want { model, variant, reply } = want;
        let planned = self.plan.models.get(&model).and_then(|it| Some((it, it.variants.iter().find(|it| it.at == variant)?)));
        let found = match planned.map(|(model, it)| (job(model, it), &it.choice)) {
            Some((Some(job), _)) => Ok(job),
            Some((None, Err(why))) => Err(why.clone()),
            _ => Err("it is not known here any more".to_owned()),
        };
        let job = match found {
            Ok(job) => job,
            // Who asked may have left.
            Err(why) => return drop(reply.send(Err(why))),
        };
        let digest = job.artifact.digest.clone();
        let estimate = self.parts.memory.estimate(&job.artifact, job.provider);
        let slot = self.slots.entry(digest.clone()).or_insert_with(|| Slot::new(job, estimate));
        slot.asked = true;
        if slot.live.is_some() {
            drop(reply.send(Ok(())));
        } else if slot.state == VariantState::Failed {
            drop(reply.send(Err(slot.reason.clone())));
        } else {
            slot.waiting.push(reply);
            if slot.running.is_none() {
                slot.reason.clear();
                self.start(&digest);
                self.publish();
            }
        }
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
                self.drain(&live);
            }
            return;
        };
        (slot.running, slot.granted) = (None, None);
        let told = outcome.as_ref().map(|_| ()).map_err(ToString::to_string);
        match outcome {
            Ok(live) => {
                let bytes = live.bytes();
                let (memory_bytes, gpu_memory_bytes) = (bytes.host, bytes.gpu);
                tracing::info!(model = slot.job.card.name, variant = slot.job.variant, digest, memory_bytes, gpu_memory_bytes, "ready");
                (slot.state, slot.reason, slot.measured) = (VariantState::Ready, String::new(), Some(bytes));
                slot.live = Some(Arc::new(live));
                slot.backoff.reset();
            }
            Err(ActivationError::NoRoom { .. }) => {
                tracing::info!(model = slot.job.card.name, variant = slot.job.variant, digest, reason = ?told, "not loaded");
                (slot.state, slot.reason) = (VariantState::Cached, told.clone().err().unwrap_or_default());
            }
            Err(error) => {
                tracing::error!(model = slot.job.card.name, variant = slot.job.variant, digest, %error, "cannot be served");
                (slot.state, slot.reason) = (VariantState::Failed, error.to_string());
                slot.retry_at = error.is_worth_another_try(slot.backoff.failures()).then(|| Instant::now() + slot.backoff.next_wait());
            }
        }
        if slot.state != VariantState::Cached {
            self.parts.metrics.load_finished(&slot.job.card.name, &slot.job.variant, told.is_ok());
        }
        if slot.state == VariantState::Failed {
            self.stand_in(digest);
        }
        self.publish();
        // Only now can those who waited be routed to it.
        if let Some(slot) = self.slots.get_mut(digest) {
            slot.answer(&told);
        }
        self.give_rooms();
    }

    fn retry(&mut self) {
        let now = Instant::now();
        let due: Vec<String> =
            self.slots.iter().filter(|(_, it)| it.retry_at.is_some_and(|at| at <= now)).map(|(digest, _)| digest.clone()).collect();
        for digest in &due {
            self.start(digest);
        }
    }

    /// Lets an engine go once the work queued for it is done.
    fn drain(&mut self, live: &Live) {
        let (batcher, engine, bytes) = (self.parts.batcher.clone(), live.engine, live.bytes());
        self.leaving = self.leaving + bytes;
        self.drains.spawn(async move {
            batcher.remove(engine).await;
            bytes
        });
    }
}

fn job(model: &PlannedModel, variant: &PlannedVariant) -> Option<Job> {
    let choice = variant.choice.as_ref().ok()?;
    Some(Job {
        artifact: choice.artifact.clone(),
        card: model.card.clone(),
        variant: variant.at.variant.clone(),
        precision: choice.precision,
        provider: choice.provider,
    })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
