//! Who has which engine, and what its batches may hold.
//!
//! Enters: engines with their contexts, budgets that were learnt. Leaves: installs and removals by worker, budgets. Never: an engine gone while
//! a request still waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::steps::Step;
use super::{Queue, State};
use crate::batcher::budget::LARGEST;
use crate::batcher::{EngineId, Family};
use crate::engine::{Engine, Stop};

/// Budgets that are kept for engines to come.
const MAX_LEARNT: usize = 1_024;
/// Engines whose sizes differ by less than this part are alike: another version of the same graph.
const ALIKE: u64 = 10;

/// A context of an engine on its way in.
pub(in crate::batcher) struct Install {
    pub(in crate::batcher) id: EngineId,
    pub(in crate::batcher) engine: Box<dyn Engine>,
    pub(in crate::batcher) done: Option<oneshot::Sender<()>>,
}

/// Tells who waits for it that an engine is gone, when the last context has been dropped.
pub(in crate::batcher) struct Gone(Option<oneshot::Sender<()>>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            // Who asked may have left.
            let _ = done.send(());
        }
    }
}

/// An engine on its way out.
pub(super) struct Removal {
    engine: EngineId,
    /// Bits of the workers that still have a context of it.
    left: u128,
    gone: Arc<Gone>,
}

/// What the queue knows of an engine: who has it, and how its batches are ended.
pub(super) struct Known {
    /// Bits of the workers that get a context of it.
    assigned: u128,
    /// Bits of those that have it already.
    pub(super) hosts: u128,
    /// Every one, for good.
    stop: Option<Stop>,
    /// One that yields.
    pub(super) interrupt: Option<Stop>,
}

impl Queue {
    /// Answers once an executor has it. Each context of it goes to an executor of its own, the first to the first; what there are no executors
    /// for is let go.
    pub(in crate::batcher) fn install(&self, mut engine: Box<dyn Engine>) -> (EngineId, oneshot::Receiver<()>) {
        let (done, taken) = oneshot::channel();
        let (limits, stop, interrupt, others) = (engine.limits(), engine.stop(), engine.interrupt(), engine.contexts());
        let mut state = self.lock();
        let id = EngineId(state.next_engine);
        state.next_engine += 1;
        if state.closing.is_none() {
            let mut done = Some(done);
            let mut assigned = 0;
            for (worker, engine) in std::iter::once(engine).chain(others).take(state.installs.len()).enumerate() {
                assigned |= 1 << worker;
                state.installs[worker].push_back(Install { id, engine, done: done.take() });
            }
            state.engines.insert(id, Known { assigned, hosts: 0, stop, interrupt });
            if let Some(limits) = limits {
                state.policy.set_limits(id, limits);
            }
            self.changed.notify_all();
        }
        (id, taken)
    }

    /// Answers once the engine is gone.
    pub(in crate::batcher) fn remove(&self, engine: EngineId) -> oneshot::Receiver<()> {
        let (done, gone) = oneshot::channel();
        let mut state = self.lock();
        if let Some(left) = state.engines.get(&engine).map(|it| it.assigned) {
            state.removals.push(Removal { engine, left, gone: Arc::new(Gone(Some(done))) });
            self.changed.notify_all();
        }
        gone
    }

    /// Sets a budget, and keeps it for the next engine of the family.
    pub(in crate::batcher) fn learnt_budget(&self, engine: EngineId, tokens: usize, family: Family<'_>) {
        let mut state = self.lock();
        if state.engines.contains_key(&engine) {
            state.policy.set_budget(engine, tokens);
        }
        if state.learnt.len() >= MAX_LEARNT {
            state.learnt.clear();
        }
        state.learnt.insert((family.model.to_owned(), family.variant.to_owned()), (tokens, family.bytes));
    }

    /// Gives an engine the budget of the last one of its family (true); else, until it has its own, that of another of its model.
    pub(in crate::batcher) fn take_over_budget(&self, engine: EngineId, family: Family<'_>) -> bool {
        let mut state = self.lock();
        let (model, bytes) = (family.model, family.bytes);
        let alike = |before: u64| bytes.abs_diff(before) * ALIKE <= before;
        let last = state.learnt.get(&(model.to_owned(), family.variant.to_owned())).copied();
        let other = || state.learnt.iter().find(|(key, _)| key.0 == model).map(|it| *it.1);
        if let Some((tokens, _)) = last.or_else(other) {
            state.policy.set_budget(engine, tokens);
        }
        last.is_some_and(|it| alike(it.1))
    }

    pub(in crate::batcher) fn budget(&self, engine: EngineId) -> usize {
        self.lock().policy.budget(engine)
    }

    pub(in crate::batcher) fn learns_budgets(&self) -> bool {
        self.config.learn_budget && self.config.enabled
    }

    /// Most texts and most tokens that a batch of an engine may be tried with.
    pub(in crate::batcher) fn sizes(&self, engine: EngineId) -> (usize, usize) {
        let state = self.lock();
        (state.policy.max_rows(engine), state.policy.limits(engine).map_or(LARGEST, |it| it.max_tokens))
    }

    /// Stops what runs, where an engine can be stopped; for good.
    pub(in crate::batcher) fn stop_engines(&self) {
        let stops: Vec<Stop> = self.lock().engines.values().filter_map(|it| it.stop.clone()).collect();
        for stop in stops {
            stop();
        }
    }
}

impl State {
    pub(super) fn next_removal(&mut self, worker: usize) -> Option<Step> {
        let busy = |engine: EngineId| {
            self.pending.values().any(|it| it.key.engine == engine) || self.overheads.iter().any(|it| it.engine == engine)
        };
        let at = self.removals.iter().position(|it| it.left >> worker & 1 == 1 && !busy(it.engine))?;
        let removal = &mut self.removals[at];
        removal.left &= !(1 << worker);
        let (engine, gone) = (removal.engine, removal.gone.clone());
        let last = removal.left == 0;
        if let Some(known) = self.engines.get_mut(&engine) {
            known.hosts &= !(1 << worker);
        }
        if last {
            self.removals.swap_remove(at);
            self.engines.remove(&engine);
            self.policy.forget(engine);
        }
        Some(Step::Remove(engine, gone))
    }
}

pub(super) fn has(engines: &HashMap<EngineId, Known>, engine: EngineId, worker: usize) -> bool {
    engines.get(&engine).is_some_and(|it| it.hosts >> worker & 1 == 1)
}

/// Whether a worker has an engine, or nobody: then it learns that it is gone.
pub(super) fn ours_or_gone(engines: &HashMap<EngineId, Known>, engine: EngineId, worker: usize) -> bool {
    engines.get(&engine).is_none_or(|it| it.hosts >> worker & 1 == 1)
}
