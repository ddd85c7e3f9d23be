//! The work that waits. Behind a lock, not a channel: a client that leaves frees its place at once, also while the executor is inside a
//! batch.
//!
//! Enters: requests, engines, finished batches. Leaves: the executor's next step, answers. Never: a lock held while an engine runs.
//!
//! Rooms, in reading order, each with its ways into and out of the one lock:
//! - `engines`: who has which engine, and what its batches may hold
//! - `requests`: from a request's texts to its answer
//! - `overhead`: batches that no request asked for
//! - `steps`: what a worker does next, and who is woken for it

mod engines;
mod overhead;
mod requests;
mod steps;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use akidb_domain::window::LaneId;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::policy::Policy;
use super::probes::Turns;
use super::{BatchError, BatcherConfig, EngineId};
use crate::engine::Stop;
use crate::metrics::Metrics;
use crate::telemetry::busy::Credited;

use engines::{Install, Known, Removal};
use requests::{Answer, Pending};

pub(super) use engines::Gone;
pub(super) use overhead::Overhead;
pub(super) use requests::{Answered, Batch, Outcome};
pub(super) use steps::Step;

/// From so many answers on, sending them is not the executor's.
const MANY: usize = 4;
/// A task of the runtime sends at least so many.
const EACH: usize = 8;
/// Threads of the runtime for each task that sends.
const THREADS_A_SENDER: usize = 4;
/// Most tasks that send.
const SENDERS: usize = 8;

/// A lane on an engine: what the policy tells apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LaneKey {
    pub(super) lane: Arc<LaneId>,
    pub(super) engine: EngineId,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    config: BatcherConfig,
    metrics: Metrics,
    ended: watch::Sender<bool>,
    /// Why the device runs nothing any more.
    fault: Mutex<Option<String>>,
    /// Of who asks.
    runtime: Option<Handle>,
}

struct State {
    policy: Policy<LaneKey>,
    probes: Turns,
    pending: HashMap<u64, Pending>,
    next_request: u64,
    next_engine: u64,
    engines: HashMap<EngineId, Known>,
    /// Ends the overhead batch that runs, where it yields.
    interrupt: Option<Stop>,
    /// By worker.
    installs: Vec<VecDeque<Install>>,
    removals: Vec<Removal>,
    overheads: VecDeque<Overhead>,
    /// Which time of each device is counted in somebody's share, ns since `began`.
    credited: Vec<Credited>,
    began: Instant,
    /// Budgets by model and variant, and the bytes of the engine that had it.
    learnt: HashMap<(String, String), (usize, u64)>,
    /// No more work is taken; what waits at this moment is given up.
    closing: Option<Instant>,
    /// Bits of the workers that sleep until there is work,
    idle: u128,
    /// and of those that sleep until a lane's window has passed.
    watching: u128,
    /// How many live.
    alive: usize,
    /// One that sleeps was woken and has not looked yet: it will see whatever comes in meanwhile, and what it leaves it tells the next one.
    woken: bool,
    /// Answers to be sent when the lock is free: waking a task takes longer than the rest of its bookkeeping.
    outbox: Vec<(oneshot::Sender<Answer>, Answer)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waiting", &self.policy.waiting()).finish_non_exhaustive()
    }
}

fn send(answers: Vec<(oneshot::Sender<Answer>, Answer)>) {
    for (to, answer) in answers {
        // Who asked may have left in this moment.
        drop(to.send(answer));
    }
}

impl Queue {
    pub(super) fn new(config: BatcherConfig, workers: usize, metrics: Metrics) -> Self {
        let state = State {
            policy: Policy::new(config.clone()),
            probes: Turns::default(),
            pending: HashMap::new(),
            next_request: 0,
            next_engine: 0,
            engines: HashMap::new(),
            interrupt: None,
            installs: (0..workers).map(|_| VecDeque::new()).collect(),
            removals: Vec::new(),
            overheads: VecDeque::new(),
            credited: (0..config.devices.max(1)).map(|_| Credited::default()).collect(),
            began: Instant::now(),
            learnt: HashMap::new(),
            closing: None,
            idle: 0,
            watching: 0,
            alive: workers,
            woken: false,
            outbox: Vec::new(),
        };
        let (state, changed, ended) = (Mutex::new(state), Condvar::new(), watch::channel(false).0);
        let runtime = Handle::try_current().ok();
        Self { state, changed, config, metrics, ended, fault: Mutex::default(), runtime }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the lock and has sent what was to be answered; many answers by threads of the runtime, which wake their own tasks without asking
    /// the kernel, while the executor goes on with the next batch. Who is woken goes on on the thread that woke it until another one steals it,
    /// and a request's last part, writing its answer, is its longest: so where there are many threads several begin.
    fn answer(&self, mut state: MutexGuard<'_, State>) {
        let answers = std::mem::take(&mut state.outbox);
        drop(state);
        match &self.runtime {
            Some(runtime) if answers.len() >= MANY => {
                let senders = (runtime.metrics().num_workers() / THREADS_A_SENDER).clamp(1, SENDERS);
                let each = answers.len().div_ceil(senders).max(EACH);
                let mut left = answers.into_iter().peekable();
                while left.peek().is_some() {
                    let part: Vec<_> = left.by_ref().take(each).collect();
                    drop(runtime.spawn(async move { send(part) }));
                }
            }
            _ => send(answers),
        }
    }

    /// Notes that the device runs nothing any more.
    pub(super) fn device_lost(&self, why: &str) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.is_none() {
            tracing::error!(why, "the device is lost; this sidecar is not ready until it is started anew");
            *fault = Some(why.to_owned());
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether what still waits or runs is given up.
    pub(super) fn gave_up(&self) -> bool {
        self.lock().closing.is_some_and(|it| Instant::now() >= it)
    }

    pub(super) fn close(&self, deadline: Instant) {
        self.lock().closing.get_or_insert(deadline);
        self.changed.notify_all();
    }

    /// An executor has ended. After the last one, who still waits is told so.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.closing.get_or_insert_with(Instant::now);
        state.alive -= 1;
        self.changed.notify_all();
        if state.alive > 0 {
            return;
        }
        let left: Vec<u64> = state.pending.keys().copied().collect();
        for request in left {
            state.answer(request, |_| Err(BatchError::Closed));
        }
        state.removals.clear();
        state.overheads.clear();
        state.installs.clear();
        self.answer(state);
        self.ended.send_replace(true);
    }

    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }
}

#[cfg(test)]
mod tests;
