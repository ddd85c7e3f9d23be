//! The work that waits. Behind a lock, not a channel: a client that leaves frees its place at once, also while the executor is inside a
//! batch.
//!
//! long: every way into and out of the one lock.
//!
//! Enters: requests, engines, finished batches. Leaves: the executor's next step, answers. Never: a lock held while an engine runs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use akidb_domain::window::LaneId;
use tokio::sync::{oneshot, watch};

use super::budget::LARGEST;
use super::policy::{Ask, Cut, Next, Policy};
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
    Remove(EngineId, Arc<Gone>),
    Overhead(Overhead),
    Batch(Batch),
    End,
}

/// A context of an engine on its way in.
pub(super) struct Install {
    pub(super) id: EngineId,
    pub(super) engine: Box<dyn Engine>,
    pub(super) done: Option<oneshot::Sender<()>>,
}

/// Tells who waits for it that an engine is gone, when the last context has been dropped.
pub(super) struct Gone(Option<oneshot::Sender<()>>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            // Who asked may have left.
            let _ = done.send(());
        }
    }
}

/// An engine on its way out.
struct Removal {
    engine: EngineId,
    /// Bits of the workers that still have a context of it.
    left: u128,
    gone: Arc<Gone>,
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
    pub(super) metrics: Option<Arc<LaneMetrics>>,
    /// Spans of its requests that are traced.
    pub(super) links: Vec<TraceLink>,
}

/// How a batch went.
pub(super) struct Outcome {
    pub(super) from: Instant,
    pub(super) to: Instant,
    /// The device's own time.
    pub(super) busy: Duration,
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
    /// Why the device runs nothing any more.
    fault: Mutex<Option<String>>,
}

struct State {
    policy: Policy<LaneKey>,
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
    /// Budgets by model and variant, and the bytes of the engine that had it.
    learnt: HashMap<(String, String), (usize, u64)>,
    /// No more work is taken; what waits at this moment is given up.
    closing: Option<Instant>,
    /// Workers that wait for work, of those that live.
    idle: usize,
    alive: usize,
    /// One of them was woken and has not looked yet: it will see whatever comes in meanwhile.
    woken: bool,
    /// Answers to be sent when the lock is free: waking a task takes longer than the rest of its bookkeeping.
    outbox: Vec<(oneshot::Sender<Answer>, Answer)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("waiting", &self.policy.waiting()).finish_non_exhaustive()
    }
}

/// What the queue knows of an engine: who has it, and how its batches are ended.
struct Known {
    /// Bits of the workers that get a context of it.
    assigned: u128,
    /// Bits of those that have it already.
    hosts: u128,
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
    metrics: Arc<LaneMetrics>,
    trace: Option<TraceLink>,
    answer: oneshot::Sender<Answer>,
}

/// A request's place; dropping it gives the place up.
pub(super) struct Ticket {
    queue: Option<Arc<Queue>>,
    request: u64,
}

impl Ticket {
    /// It has no place any more: the answer is there.
    pub(super) fn answered(mut self) {
        self.queue = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.leave(self.request);
        }
    }
}

impl Queue {
    pub(super) fn new(config: BatcherConfig, workers: usize, metrics: Metrics) -> Self {
        let state = State {
            policy: Policy::new(config.clone()),
            pending: HashMap::new(),
            next_request: 0,
            next_engine: 0,
            engines: HashMap::new(),
            interrupt: None,
            installs: (0..workers).map(|_| VecDeque::new()).collect(),
            removals: Vec::new(),
            overheads: VecDeque::new(),
            learnt: HashMap::new(),
            closing: None,
            idle: 0,
            alive: workers,
            woken: false,
            outbox: Vec::new(),
        };
        let (state, changed, ended) = (Mutex::new(state), Condvar::new(), watch::channel(false).0);
        Self { state, changed, config, metrics, ended, fault: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the lock and sends what was to be answered.
    fn answer(mut state: MutexGuard<'_, State>) {
        let answers = std::mem::take(&mut state.outbox);
        drop(state);
        for (to, answer) in answers {
            // Who asked may have left in this moment.
            drop(to.send(answer));
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

    /// Answers once an executor has it. Each context of it goes to an executor of its own, the first to the first; what there are no executors
    /// for is let go.
    pub(super) fn install(&self, mut engine: Box<dyn Engine>) -> (EngineId, oneshot::Receiver<()>) {
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
    pub(super) fn remove(&self, engine: EngineId) -> oneshot::Receiver<()> {
        let (done, gone) = oneshot::channel();
        let mut state = self.lock();
        if let Some(left) = state.engines.get(&engine).map(|it| it.assigned) {
            state.removals.push(Removal { engine, left, gone: Arc::new(Gone(Some(done))) });
            self.changed.notify_all();
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
                self.changed.notify_all();
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
        let texts = work.texts.len();
        let pending = Pending {
            key: key.clone(),
            vectors: vec![Vec::new(); texts],
            left: texts,
            texts: work.texts,
            submitted: now,
            started: false,
            engine: Duration::ZERO,
            share_ns: 0,
            metrics,
            trace: work.trace,
            answer,
        };
        pending.metrics.queue_depth.add(pending.left as i64);
        state.pending.insert(request, pending);
        state.policy.push(now, Ask { request, lane: key.clone(), engine: work.engine, app: work.app, lengths, deadline: work.deadline });
        let interrupt = state.interrupt.take();
        let wakes = state.wakes(&key, texts);
        drop(state);
        if let Some(interrupt) = interrupt {
            interrupt();
        }
        match wakes {
            Wakes::Nobody => {}
            Wakes::One => self.changed.notify_one(),
            Wakes::All => self.changed.notify_all(),
        }
        Ok((Ticket { queue: Some(self.clone()), request }, answered))
    }

    /// What of a request still waits is dropped; what runs is thrown away when it is done.
    fn leave(&self, request: u64) {
        let mut state = self.lock();
        if let Some(pending) = state.pending.remove(&request) {
            state.policy.remove(request);
            state.show_depth(&pending);
            // An engine may have been waiting for its last request to leave.
            if !state.removals.is_empty() {
                self.changed.notify_all();
            }
        }
    }

    /// Waits for something to do.
    pub(super) fn next_step(&self, worker: usize) -> Step {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            state.woken = false;
            let (step, until) = state.next_step(worker, now);
            if let Some(step) = step {
                return step;
            }
            let idle = usize::from(until.is_none() || state.policy.waiting() == 0);
            state.idle += idle;
            state = match until {
                Some(until) => {
                    let wait = until.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.idle -= idle;
        }
    }

    /// A batch is done: those whose last text was in it are answered.
    pub(super) fn finish(&self, batch: &Batch, outcome: Outcome) {
        let mut state = self.lock();
        let took = outcome.to.saturating_duration_since(outcome.from);
        if outcome.vectors.iter().all(Result::is_ok) {
            state.policy.finished(batch.cut.engine, outcome.tokens, outcome.padded_tokens, took);
        } else {
            state.policy.failed(outcome.tokens);
        }
        for (item, vector) in batch.cut.items.iter().zip(&outcome.vectors) {
            if let Err(cause) = vector {
                state.fail(item.request, cause);
            }
        }
        state.deliver(batch, outcome.vectors, outcome.busy, outcome.tokens);
        if !state.removals.is_empty() || state.closing.is_some() {
            self.changed.notify_all();
        }
        Self::answer(state);
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

    /// Most texts and most tokens that a batch of an engine may be tried with.
    pub(super) fn sizes(&self, engine: EngineId) -> (usize, usize) {
        let state = self.lock();
        (state.policy.max_rows(engine), state.policy.limits(engine).map_or(LARGEST, |it| it.max_tokens))
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

    pub(super) fn overhead_finished(&self, took: Duration, yielded: bool) {
        let mut state = self.lock();
        if yielded {
            state.interrupt = None;
        }
        if !state.removals.is_empty() {
            self.changed.notify_all();
        }
        state.policy.overhead_finished(took);
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
        Self::answer(state);
        self.ended.send_replace(true);
    }

    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }
}

/// Whom a request that comes in wakes.
enum Wakes {
    Nobody,
    One,
    All,
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
        let engines = &self.engines;
        let next = self.policy.next_for(now, |engine| has(engines, engine, worker));
        match next {
            Next::Run(cut) => (Some(Step::Batch(self.take(cut, now))), None),
            Next::WaitUntil(until) => (None, Some(self.closing.map_or(until, |it| it.min(until)))),
            Next::Idle => (None, self.closing),
        }
    }

    /// The first whose engine this worker has, or nobody: then it learns that it is gone.
    fn next_overhead(&mut self, worker: usize) -> Option<Overhead> {
        let ours = |it: &Overhead| self.engines.get(&it.engine).is_none_or(|it| it.hosts >> worker & 1 == 1);
        let at = self.overheads.iter().position(ours)?;
        self.overheads.remove(at)
    }

    /// Workers that wait for a lane's window need not be woken by what does not change it.
    fn wakes(&mut self, key: &LaneKey, texts: usize) -> Wakes {
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

    fn next_removal(&mut self, worker: usize) -> Option<Step> {
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

    fn take(&mut self, cut: Cut<LaneKey>, now: Instant) -> Batch {
        let mut texts = Vec::with_capacity(cut.items.len());
        let mut metrics: Option<Arc<LaneMetrics>> = None;
        let mut links = BTreeMap::new();
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
            if let Some(link) = &pending.trace {
                links.entry(item.request).or_insert_with(|| link.clone());
            }
            metrics.get_or_insert_with(|| pending.metrics.clone());
        }
        if let Some(metrics) = &metrics {
            metrics.queue_depth.set(self.policy.waiting_in(&cut.lane) as i64);
        }
        Batch { cut, texts, metrics, links: links.into_values().collect() }
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
            self.outbox.push((pending.answer, answer));
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

fn has(engines: &HashMap<EngineId, Known>, engine: EngineId, worker: usize) -> bool {
    engines.get(&engine).is_some_and(|it| it.hosts >> worker & 1 == 1)
}
