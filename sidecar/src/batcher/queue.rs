//! The work that waits. Behind a lock, not a channel: a client that leaves frees its place at once, also while the executor is inside a
//! batch.
//!
//! long: one lock, and everything that may be done behind it.
//!
//! Enters: requests, engines, finished batches. Leaves: the executor's next step, answers. Never: a lock held while an engine runs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use akidb_domain::window::LaneId;
use tokio::sync::{oneshot, watch};

use super::policy::{Ask, Cut, Next, Policy};
use super::probes::policy::{self as probing, Offer};
use super::probes::{Candidate, Pair};
use super::{BatchError, BatcherConfig, Embedded, EngineId, Family, Work};
use crate::engine::{Engine, EngineError, Stop, TokenBatch};
use crate::metrics::{LaneMetrics, Metrics};
use crate::traces::TraceLink;

/// Overhead batches that may wait.
const MAX_OVERHEADS: usize = 64;
/// Budgets that are kept for engines to come.
const MAX_LEARNT: usize = 1_024;
/// Engines whose sizes differ by less than this part are alike: another version of the same graph.
const ALIKE: u64 = 10;

type Answer = Result<Embedded, BatchError>;

/// A lane on an engine: what the policy tells apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LaneKey {
    pub(super) lane: Arc<LaneId>,
    pub(super) engine: EngineId,
}

/// What the executor does next.
pub(super) enum Step {
    Install(Install),
    Remove(EngineId, oneshot::Sender<()>),
    Overhead(Overhead),
    Batch(Batch),
    Probe(Candidate),
    End,
}

/// An engine on its way in.
pub(super) struct Install {
    pub(super) id: EngineId,
    pub(super) engine: Box<dyn Engine>,
    pub(super) done: oneshot::Sender<()>,
}

/// A batch that no request asked for.
pub(super) struct Overhead {
    pub(super) engine: EngineId,
    pub(super) batch: TokenBatch,
    pub(super) cause: &'static str,
    pub(super) model: String,
    pub(super) variant: String,
    /// It is given up when a request comes in.
    pub(super) yields: bool,
    pub(super) done: oneshot::Sender<Result<(Vec<f32>, Duration), EngineError>>,
}

/// A batch of requests, taken out of the queue.
pub(super) struct Batch {
    pub(super) cut: Cut<LaneKey>,
    /// Token ids, in the order of `cut.items`.
    pub(super) texts: Vec<Vec<u32>>,
    pub(super) metrics: Option<LaneMetrics>,
    /// Spans of its requests that are traced.
    pub(super) links: Vec<TraceLink>,
    /// The engines of its experiment, if it may be probed.
    pub(super) probe: Option<Arc<Pair>>,
}

/// How a batch went.
pub(super) struct Outcome {
    pub(super) from: Instant,
    pub(super) to: Instant,
    pub(super) tokens: u64,
    pub(super) padded_tokens: u64,
    /// One a text, in the order of the batch.
    pub(super) vectors: Vec<Result<Vec<f32>, Arc<str>>>,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    config: BatcherConfig,
    metrics: Metrics,
    ended: watch::Sender<bool>,
}

struct State {
    policy: Policy<LaneKey>,
    probes: probing::Policy<Candidate>,
    /// Loads that go on.
    loading: usize,
    pending: HashMap<u64, Pending>,
    next_request: u64,
    next_engine: u64,
    engines: HashMap<EngineId, Stops>,
    /// Ends the overhead batch that runs, where it yields.
    interrupt: Option<Stop>,
    installs: VecDeque<Install>,
    removals: Vec<(EngineId, oneshot::Sender<()>)>,
    overheads: VecDeque<Overhead>,
    /// Budgets by model and variant, and the bytes of the engine that had it.
    learnt: HashMap<(String, String), (usize, u64)>,
    /// No more work is taken; what waits at this moment is given up.
    closing: Option<Instant>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waiting", &self.policy.waiting()).finish_non_exhaustive()
    }
}

/// How an engine's batches are ended.
struct Stops {
    /// Every one, for good.
    stop: Option<Stop>,
    /// One that yields.
    interrupt: Option<Stop>,
}

/// A request on its way.
struct Pending {
    key: LaneKey,
    texts: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
    left: usize,
    submitted: Instant,
    started: bool,
    engine: Duration,
    share_ns: u64,
    metrics: LaneMetrics,
    trace: Option<TraceLink>,
    probe: Option<Arc<Pair>>,
    answer: oneshot::Sender<Answer>,
}

/// A request's place; dropping it gives the place up.
pub(super) struct Ticket {
    queue: Arc<Queue>,
    request: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.leave(self.request);
    }
}

impl Queue {
    pub(super) fn new(config: BatcherConfig, metrics: Metrics) -> Self {
        let state = State {
            policy: Policy::new(config.clone()),
            probes: probing::Policy::default(),
            loading: 0,
            pending: HashMap::new(),
            next_request: 0,
            next_engine: 0,
            engines: HashMap::new(),
            interrupt: None,
            installs: VecDeque::new(),
            removals: Vec::new(),
            overheads: VecDeque::new(),
            learnt: HashMap::new(),
            closing: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), config, metrics, ended: watch::channel(false).0 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers once the executor has it.
    pub(super) fn install(&self, engine: Box<dyn Engine>) -> (EngineId, oneshot::Receiver<()>) {
        let (done, taken) = oneshot::channel();
        let mut state = self.lock();
        let id = EngineId(state.next_engine);
        state.next_engine += 1;
        if state.closing.is_none() {
            state.engines.insert(id, Stops { stop: engine.stop(), interrupt: engine.interrupt() });
            state.installs.push_back(Install { id, engine, done });
            self.changed.notify_one();
        }
        (id, taken)
    }

    /// Answers once the engine is gone.
    pub(super) fn remove(&self, engine: EngineId) -> oneshot::Receiver<()> {
        let (done, gone) = oneshot::channel();
        let mut state = self.lock();
        if state.engines.contains_key(&engine) {
            state.removals.push((engine, done));
            self.changed.notify_one();
        }
        gone
    }

    pub(super) fn overhead(&self, overhead: Overhead) {
        let mut state = self.lock();
        let refusal = match () {
            () if state.closing.is_some() => "the batcher has stopped",
            () if state.overheads.len() >= MAX_OVERHEADS => "too many warm-up and parity batches wait",
            () => {
                state.overheads.push_back(overhead);
                self.changed.notify_one();
                return;
            }
        };
        drop(state);
        // Who asked may have left.
        drop(overhead.done.send(Err(EngineError::Run(refusal.to_owned()))));
    }

    /// Takes a request in, if there is room.
    pub(super) fn push(self: &Arc<Self>, work: Work, now: Instant) -> Result<(Ticket, oneshot::Receiver<Answer>), BatchError> {
        let metrics = self.metrics.lane(&work.lane.model, &work.lane.variant);
        let lengths: Vec<u32> = work.texts.iter().map(|it| it.len() as u32).collect();
        let (answer, answered) = oneshot::channel();
        let key = LaneKey { lane: work.lane, engine: work.engine };
        let mut state = self.lock();
        if state.closing.is_some() {
            return Err(BatchError::Closed);
        }
        if !state.engines.contains_key(&work.engine) {
            return Err(BatchError::Gone);
        }
        let within = work.deadline.saturating_duration_since(now);
        state.policy.admit(work.engine, &lengths, within).map_err(|retry_after| BatchError::QueueFull { retry_after })?;
        let request = state.next_request;
        state.next_request += 1;
        let pending = Pending {
            key: key.clone(),
            vectors: vec![Vec::new(); work.texts.len()],
            left: work.texts.len(),
            texts: work.texts,
            submitted: now,
            started: false,
            engine: Duration::ZERO,
            share_ns: 0,
            metrics,
            trace: work.trace,
            probe: work.probe,
            answer,
        };
        pending.metrics.queue_depth.add(pending.left as i64);
        state.pending.insert(request, pending);
        state.policy.push(now, Ask { request, lane: key, engine: work.engine, app: work.app, lengths, deadline: work.deadline });
        let interrupt = state.interrupt.take();
        drop(state);
        if let Some(interrupt) = interrupt {
            interrupt();
        }
        self.changed.notify_one();
        Ok((Ticket { queue: self.clone(), request }, answered))
    }

    /// What of a request still waits is dropped; what runs is thrown away when it is done.
    fn leave(&self, request: u64) {
        let mut state = self.lock();
        if let Some(pending) = state.pending.remove(&request) {
            state.policy.remove(request);
            state.show_depth(&pending);
            // An engine may have been waiting for its last request to leave.
            if !state.removals.is_empty() {
                self.changed.notify_one();
            }
        }
    }

    /// Waits for something to do.
    pub(super) fn next_step(&self) -> Step {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let (step, until) = state.next_step(now);
            for _ in 0..state.probes.take_shed() {
                self.metrics.probe("shed");
            }
            if let Some(step) = step {
                return step;
            }
            state = match until {
                Some(until) => {
                    let wait = until.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.probes.slept(now.elapsed());
        }
    }

    /// A batch is done: those whose last text was in it are answered.
    pub(super) fn finish(&self, batch: &Batch, outcome: Outcome) {
        let mut state = self.lock();
        let took = outcome.to.saturating_duration_since(outcome.from);
        if outcome.vectors.iter().all(Result::is_ok) {
            state.policy.finished(batch.cut.engine, outcome.tokens, outcome.padded_tokens, took);
        } else {
            state.policy.failed();
        }
        for (item, vector) in batch.cut.items.iter().zip(&outcome.vectors) {
            if let Err(cause) = vector {
                state.fail(item.request, cause);
            }
        }
        state.deliver(batch, outcome.vectors, took, outcome.tokens);
    }

    /// A batch that was answered may be probed. `vectors` of it went to the reservoir.
    pub(super) fn offer(&self, candidate: Candidate, vectors: usize, draw: u64) {
        let (stage, budget) = (candidate.stage(), candidate.pair.budget);
        let experiment = &candidate.lane.clone().experiment;
        self.lock().probes.offer(Offer { now: Instant::now(), experiment, stage, budget, vectors, draw }, || candidate);
    }

    pub(super) fn probe_finished(&self, experiment: &str, took: Duration) {
        self.lock().probes.spent(experiment, took);
    }

    pub(super) fn hold_probes(&self, held: bool) {
        let mut state = self.lock();
        state.loading = if held { state.loading + 1 } else { state.loading.saturating_sub(1) };
        self.changed.notify_one();
    }

    pub(super) fn probed(&self, engine: EngineId, tokens: u64, took: Duration) {
        self.lock().policy.probed(engine, tokens, took);
    }

    /// Sets a budget, and keeps it for the next engine of the family.
    pub(super) fn learnt_budget(&self, engine: EngineId, tokens: usize, family: Family<'_>) {
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
    pub(super) fn take_over_budget(&self, engine: EngineId, family: Family<'_>) -> bool {
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

    pub(super) fn budget(&self, engine: EngineId) -> usize {
        self.lock().policy.budget(engine)
    }

    pub(super) fn learns_budgets(&self) -> bool {
        self.config.learn_budget && self.config.enabled
    }

    pub(super) fn max_batch_size(&self) -> usize {
        self.config.max_batch_size
    }

    /// Whether what still waits or runs is given up.
    pub(super) fn gave_up(&self) -> bool {
        self.lock().closing.is_some_and(|it| Instant::now() >= it)
    }

    /// Stops what runs, where an engine can be stopped; for good.
    pub(super) fn stop_engines(&self) {
        let stops: Vec<Stop> = self.lock().engines.values().filter_map(|it| it.stop.clone()).collect();
        for stop in stops {
            stop();
        }
    }

    pub(super) fn overhead_finished(&self, took: Duration) {
        let mut state = self.lock();
        state.interrupt = None;
        state.policy.overhead_finished(took);
    }

    pub(super) fn close(&self, deadline: Instant) {
        self.lock().closing.get_or_insert(deadline);
        self.changed.notify_one();
    }

    /// The executor has ended: who still waits is told so.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.closing.get_or_insert_with(Instant::now);
        let left: Vec<u64> = state.pending.keys().copied().collect();
        for request in left {
            state.answer(request, |_| Err(BatchError::Closed));
        }
        state.removals.clear();
        state.overheads.clear();
        state.installs.clear();
        self.ended.send_replace(true);
    }

    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }
}

impl State {
    /// Something to do, or until when to wait for it.
    fn next_step(&mut self, now: Instant) -> (Option<Step>, Option<Instant>) {
        if let Some(install) = self.installs.pop_front() {
            return (Some(Step::Install(install)), None);
        }
        if let Some(step) = self.next_removal() {
            return (Some(step), None);
        }
        if self.closing.is_some_and(|it| now >= it || self.policy.waiting() == 0) {
            return (Some(Step::End), None);
        }
        if self.policy.overhead_allowed()
            && let Some(mut overhead) = self.overheads.pop_front()
        {
            // Where requests wait already it is its turn, and it runs to its end.
            self.interrupt = self.engines.get(&overhead.engine).and_then(|it| it.interrupt.clone()).filter(|_| self.policy.waiting() == 0);
            overhead.yields = self.interrupt.is_some();
            return (Some(Step::Overhead(overhead)), None);
        }
        let (probe, probe_at) = self.next_probe(now);
        if probe.is_some() {
            return (probe, None);
        }
        match self.policy.next(now) {
            Next::Run(cut) => (Some(Step::Batch(self.take(cut, now))), None),
            Next::WaitUntil(until) => (None, [Some(until), self.closing, probe_at].into_iter().flatten().min()),
            Next::Idle => (None, [self.closing, probe_at].into_iter().flatten().min()),
        }
    }

    fn next_probe(&mut self, now: Instant) -> (Option<Step>, Option<Instant>) {
        let load = probing::Load { waiting: self.policy.waiting(), loading: self.loading > 0 || self.closing.is_some() };
        match self.probes.next(now, load) {
            probing::Next::Probe(candidate) => (Some(Step::Probe(candidate)), None),
            probing::Next::WaitUntil(until) => (None, Some(until)),
            probing::Next::Nothing => (None, None),
        }
    }

    fn next_removal(&mut self) -> Option<Step> {
        let busy = |engine: EngineId| {
            self.pending.values().any(|it| it.key.engine == engine) || self.overheads.iter().any(|it| it.engine == engine)
        };
        let at = self.removals.iter().position(|(engine, _)| !busy(*engine))?;
        let (engine, done) = self.removals.swap_remove(at);
        self.engines.remove(&engine);
        self.policy.forget(engine);
        Some(Step::Remove(engine, done))
    }

    fn take(&mut self, cut: Cut<LaneKey>, now: Instant) -> Batch {
        let mut texts = Vec::with_capacity(cut.items.len());
        let mut metrics: Option<LaneMetrics> = None;
        let (mut links, mut probe) = (BTreeMap::new(), None);
        for item in &cut.items {
            let Some(pending) = self.pending.get_mut(&item.request) else {
                texts.push(Vec::new());
                continue;
            };
            if !pending.started {
                pending.started = true;
                pending.metrics.batch_wait.observe(now.saturating_duration_since(pending.submitted).as_secs_f64());
            }
            texts.push(std::mem::take(&mut pending.texts[item.text]));
            probe.clone_from(&pending.probe);
            if let Some(link) = &pending.trace {
                links.entry(item.request).or_insert_with(|| link.clone());
            }
            metrics.get_or_insert_with(|| pending.metrics.clone());
        }
        if let Some(metrics) = &metrics {
            metrics.queue_depth.set(self.policy.waiting_in(&cut.lane) as i64);
        }
        Batch { cut, texts, metrics, links: links.into_values().collect(), probe }
    }

    fn deliver(&mut self, batch: &Batch, vectors: Vec<Result<Vec<f32>, Arc<str>>>, took: Duration, tokens: u64) {
        let mut requests: HashMap<u64, u64> = HashMap::new();
        for (item, vector) in batch.cut.items.iter().zip(vectors) {
            let (Some(pending), Ok(vector)) = (self.pending.get_mut(&item.request), vector) else { continue };
            pending.vectors[item.text] = vector;
            pending.left -= 1;
            *requests.entry(item.request).or_default() += u64::from(item.tokens);
        }
        let now = Instant::now();
        for (request, own) in requests {
            let Some(pending) = self.pending.get_mut(&request) else { continue };
            pending.engine += took;
            pending.share_ns += (took.as_nanos() * u128::from(own) / u128::from(tokens.max(1))) as u64;
            if pending.left == 0 {
                self.answer(request, |it| Ok(it.embedded(now)));
            }
        }
    }

    fn fail(&mut self, request: u64, cause: &str) {
        self.policy.remove(request);
        self.answer(request, |_| Err(BatchError::Engine(cause.to_owned())));
    }

    fn answer(&mut self, request: u64, answer: impl FnOnce(&mut Pending) -> Answer) {
        if let Some(mut pending) = self.pending.remove(&request) {
            let answer = answer(&mut pending);
            self.show_depth(&pending);
            // Who asked may have left in this moment.
            drop(pending.answer.send(answer));
        }
    }

    fn show_depth(&self, pending: &Pending) {
        pending.metrics.queue_depth.set(self.policy.waiting_in(&pending.key) as i64);
    }
}

impl Pending {
    fn embedded(&mut self, now: Instant) -> Embedded {
        let queue = now.saturating_duration_since(self.submitted).saturating_sub(self.engine);
        Embedded { vectors: std::mem::take(&mut self.vectors), queue, engine: self.engine, engine_share_ns: self.share_ns }
    }
}
