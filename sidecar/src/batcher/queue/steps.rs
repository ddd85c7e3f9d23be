//! What a worker does next, and who is woken for it.
//!
//! Enters: a worker that has nothing to do, a request that came in. Leaves: a [`Step`], or a sleep until there is one. Never: a sleep past a
//! lane's window.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::engines::{Gone, Install, has};
use super::overhead::Overhead;
use super::requests::Batch;
use super::{LaneKey, Queue, State};
use crate::batcher::EngineId;
use crate::batcher::policy::Next;
use crate::batcher::probes::Candidate;

/// What the executor does next.
pub(in crate::batcher) enum Step {
    Install(Install),
    Remove(EngineId, Arc<Gone>),
    Overhead(Overhead),
    Batch(Batch),
    Probe(Candidate),
    End,
}

/// Whom a request that comes in wakes.
pub(super) enum Wakes {
    Nobody,
    One,
    All,
}

impl Queue {
    /// Waits for something to do.
    pub(in crate::batcher) fn next_step(&self, worker: usize) -> Step {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            state.woken = false;
            let (step, until) = state.next_step(worker, now);
            for _ in 0..state.probes.take_shed() {
                self.metrics.probe("shed");
            }
            // A probe leaves what waits to the other workers.
            if matches!(step, Some(Step::Probe(_))) && state.policy.waiting() > 0 {
                self.changed.notify_all();
            }
            if let Some(step) = step {
                return step;
            }
            let idle = usize::from(until.is_none() || state.policy.waiting() == 0);
            state.idle += idle;
            let alive = state.alive;
            state.probes.sleeps(now, alive);
            state = match until {
                Some(until) => {
                    let wait = until.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.idle -= idle;
            state.probes.wakes(Instant::now());
        }
    }
}

impl State {
    /// Something to do, or until when to wait for it.
    fn next_step(&mut self, worker: usize, now: Instant) -> (Option<Step>, Option<Instant>) {
        if let Some(install) = self.installs.get_mut(worker).and_then(VecDeque::pop_front) {
            if let Some(known) = self.engines.get_mut(&install.id) {
                known.hosts |= 1 << worker;
            }
            return (Some(Step::Install(install)), None);
        }
        if let Some(step) = self.next_removal(worker) {
            return (Some(step), None);
        }
        if self.closing.is_some_and(|it| now >= it || self.policy.waiting() == 0) {
            return (Some(Step::End), None);
        }
        if self.policy.overhead_allowed()
            && let Some(mut overhead) = self.next_overhead(worker)
        {
            // Where requests wait already it is its turn, and it runs to its end.
            let interrupt = self.engines.get(&overhead.engine).and_then(|it| it.interrupt.clone()).filter(|_| self.policy.waiting() == 0);
            overhead.yields = interrupt.is_some();
            self.interrupt = interrupt.or(self.interrupt.take());
            return (Some(Step::Overhead(overhead)), None);
        }
        let (probe, probe_at) = self.next_probe(worker, now);
        if probe.is_some() {
            return (probe, None);
        }
        let engines = &self.engines;
        let next = self.policy.next_for(now, |engine| has(engines, engine, worker));
        match next {
            Next::Run(cut) => (Some(Step::Batch(self.take(cut, now))), None),
            Next::WaitUntil(until) => (None, [Some(until), self.closing, probe_at].into_iter().flatten().min()),
            Next::Idle => (None, [self.closing, probe_at].into_iter().flatten().min()),
        }
    }

    /// Workers that wait for a lane's window need not be woken by what does not change it.
    pub(super) fn wakes(&mut self, key: &LaneKey, texts: usize) -> Wakes {
        let all = self.installs.len();
        let everybody_has_all = self.engines.values().all(|it| it.hosts.count_ones() as usize == all);
        match () {
            () if self.idle > 0 && self.woken && everybody_has_all => Wakes::Nobody,
            () if self.idle == 0 && !self.policy.is_ripe(key, texts) => Wakes::Nobody,
            () if everybody_has_all => {
                self.woken = self.idle > 0;
                Wakes::One
            }
            () => Wakes::All,
        }
    }
}
