//! Batches that no request asked for: warm-up, parity and probes.
//!
//! Enters: batches for an engine, candidates for probes. Leaves: the next of them. Never: more than a bound of them, one that runs on while a
//! request comes in and it yields.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::engines::ours_or_gone;
use super::steps::Step;
use super::{Queue, State};
use crate::batcher::EngineId;
use crate::batcher::probes::{Candidate, policy as probing};
use crate::engine::{EngineError, TokenBatch};

/// Overhead batches that may wait.
const MAX_OVERHEADS: usize = 64;

/// A batch that no request asked for.
pub(in crate::batcher) struct Overhead {
    pub(in crate::batcher) engine: EngineId,
    pub(in crate::batcher) batch: TokenBatch,
    pub(in crate::batcher) cause: &'static str,
    pub(in crate::batcher) model: String,
    pub(in crate::batcher) variant: String,
    /// It is given up when a request comes in.
    pub(in crate::batcher) yields: bool,
    pub(in crate::batcher) done: oneshot::Sender<Result<(Vec<f32>, Duration), EngineError>>,
}

impl Queue {
    pub(in crate::batcher) fn overhead(&self, overhead: Overhead) {
        let mut state = self.lock();
        let refusal = match () {
            () if state.closing.is_some() => "the batcher has stopped",
            () if state.overheads.len() >= MAX_OVERHEADS => "too many warm-up and parity batches wait",
            () => {
                state.overheads.push_back(overhead);
                self.changed.notify_all();
                return;
            }
        };
        drop(state);
        // Who asked may have left.
        drop(overhead.done.send(Err(EngineError::Run(refusal.to_owned()))));
    }

    pub(in crate::batcher) fn overhead_finished(&self, took: Duration, yielded: bool) {
        let mut state = self.lock();
        if yielded {
            state.interrupt = None;
        }
        if !state.removals.is_empty() {
            self.changed.notify_all();
        }
        state.policy.overhead_finished(took);
    }

    /// A batch that a worker answered may be probed. `vectors` of it went to the reservoir.
    pub(in crate::batcher) fn offer(&self, worker: usize, candidate: Candidate, vectors: usize, draw: u64) {
        let pair = candidate.pair.clone();
        let mut state = self.lock();
        state.probes.offer(Instant::now(), candidate, vectors, draw);
        // The worker looks next; if it cannot make the probe, those that can may sleep.
        if [pair.baseline, pair.canary].iter().any(|it| !ours_or_gone(&state.engines, *it, worker)) {
            self.changed.notify_all();
        }
    }

    pub(in crate::batcher) fn probe_finished(&self, experiment: &str, took: Duration) {
        self.lock().probes.finished(experiment, took);
        self.changed.notify_all();
    }

    pub(in crate::batcher) fn hold_probes(&self, held: bool) {
        self.lock().probes.hold(held);
        self.changed.notify_all();
    }

    pub(in crate::batcher) fn probed(&self, engine: EngineId, tokens: u64, took: Duration) {
        self.lock().policy.probed(engine, tokens, took);
    }
}

impl State {
    /// The first whose engine this worker has, or nobody: then it learns that it is gone.
    pub(super) fn next_overhead(&mut self, worker: usize) -> Option<Overhead> {
        let at = self.overheads.iter().position(|it| ours_or_gone(&self.engines, it.engine, worker))?;
        self.overheads.remove(at)
    }

    pub(super) fn next_probe(&mut self, worker: usize, now: Instant) -> (Option<Step>, Option<Instant>) {
        let (waiting, closing, engines) = (self.policy.waiting(), self.closing.is_some(), &self.engines);
        match self.probes.next(now, waiting, closing, |engine| ours_or_gone(engines, engine, worker)) {
            probing::Next::Probe(candidate) => (Some(Step::Probe(candidate)), None),
            probing::Next::WaitUntil(until) => (None, Some(until)),
            probing::Next::Nothing => (None, None),
        }
    }
}
