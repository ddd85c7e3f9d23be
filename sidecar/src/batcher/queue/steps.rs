//! What a worker does next, and who is woken for it.
//!
//! Enters: a worker that has nothing to do, a request that came in. Leaves: a [`Step`], or a sleep until there is one. Never: a sleep past a
//! lane's window; a worker that sleeps beside work that it could run.
//!
//! A request wakes one worker, and those that follow before it has looked wake nobody. So whoever takes a step looks at what is left: work
//! that a sleeping worker could run, or a window that nobody watches, wakes one more. A lone request leaves nothing, a lone worker has nobody
//! to wake: neither pays for it.

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

/// Whom a request that comes in wakes, or what a step leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
            if let Some(step) = step {
                let wakes = state.left(now);
                drop(state);
                self.wake(wakes);
                return step;
            }
            let (us, idle) = (1 << worker, until.is_none() || state.policy.waiting() == 0);
            if idle {
                state.idle |= us;
            } else {
                state.watching |= us;
            }
            let alive = state.alive;
            state.probes.sleeps(now, alive);
            state = match until {
                Some(until) => {
                    let wait = until.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            (state.idle, state.watching) = (state.idle & !us, state.watching & !us);
            state.probes.wakes(Instant::now());
        }
    }

    pub(super) fn wake(&self, whom: Wakes) {
        match whom {
            Wakes::Nobody => {}
            Wakes::One => self.changed.notify_one(),
            Wakes::All => self.changed.notify_all(),
        }
    }
}

impl State {
    /// Something to do, or until when to wait for it.
    pub(super) fn next_step(&mut self, worker: usize, now: Instant) -> (Option<Step>, Option<Instant>) {
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
        match () {
            () if self.idle != 0 && self.woken && self.everybody_has_all() => Wakes::Nobody,
            () if self.idle == 0 && !self.policy.is_ripe(key, texts) => Wakes::Nobody,
            () => self.whoever_can(),
        }
    }

    /// What still waits when a worker has taken a step: nobody else may know of it.
    pub(super) fn left(&mut self, now: Instant) -> Wakes {
        let (idle, watching) = (self.idle, self.watching);
        if idle | watching == 0 {
            return Wakes::Nobody;
        }
        let for_one_that_sleeps = |(engine, ripe): (EngineId, bool)| {
            let hosts = self.engines.get(&engine).map_or(0, |it| it.hosts);
            if ripe { hosts & (idle | watching) != 0 } else { hosts & idle != 0 && hosts & watching == 0 }
        };
        if self.policy.lanes(now).any(for_one_that_sleeps) { self.whoever_can() } else { Wakes::Nobody }
    }

    /// One, where any would do.
    fn whoever_can(&mut self) -> Wakes {
        if !self.everybody_has_all() {
            return Wakes::All;
        }
        self.woken = self.idle != 0;
        Wakes::One
    }

    fn everybody_has_all(&self) -> bool {
        let all = self.installs.len();
        self.engines.values().all(|it| it.hosts.count_ones() as usize == all)
    }
}
