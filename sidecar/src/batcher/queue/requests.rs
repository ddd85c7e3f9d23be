//! From a request's texts to its answer.
//!
//! Enters: work, batches that were cut and what became of them. Leaves: batches with their tokens, answers. Never: a request lost or answered
//! twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::steps::Wakes;
use super::{LaneKey, Queue, State};
use crate::batcher::policy::{Ask, Cut};
use crate::batcher::probes::Pair;
use crate::batcher::row::Row;
use crate::batcher::{BatchError, Embedded, Work};
use crate::metrics::LaneMetrics;
use crate::traces::TraceLink;

pub(super) type Answer = Result<Answered, BatchError>;

/// What became of a request: its texts' vectors, in order, and its times as [`Embedded`] has them.
#[derive(Debug)]
pub(in crate::batcher) struct Answered {
    rows: Vec<Row>,
    queue: Duration,
    engine: Duration,
    engine_share_ns: u64,
}

impl Answered {
    /// The vectors copied out of their batches.
    pub(in crate::batcher) fn embedded(self) -> Embedded {
        let Self { rows, queue, engine, engine_share_ns } = self;
        Embedded { vectors: rows.iter().map(|it| it.to_vec()).collect(), queue, engine, engine_share_ns }
    }
}

/// A batch of requests, taken out of the queue.
pub(in crate::batcher) struct Batch {
    pub(in crate::batcher) cut: Cut<LaneKey>,
    /// Token ids, in the order of `cut.items`.
    pub(in crate::batcher) texts: Vec<Vec<u32>>,
    pub(in crate::batcher) metrics: Option<Arc<LaneMetrics>>,
    /// Spans of its requests that are traced.
    pub(in crate::batcher) links: Vec<TraceLink>,
    /// The engines of its experiment, if it may be probed.
    pub(in crate::batcher) probe: Option<Arc<Pair>>,
}

/// How a batch went.
pub(in crate::batcher) struct Outcome {
    pub(in crate::batcher) from: Instant,
    pub(in crate::batcher) to: Instant,
    /// The device's own time.
    pub(in crate::batcher) busy: Duration,
    pub(in crate::batcher) tokens: u64,
    pub(in crate::batcher) padded_tokens: u64,
    /// One a text, in the order of the batch.
    pub(in crate::batcher) vectors: Vec<Result<Row, Arc<str>>>,
}

/// A request on its way.
pub(super) struct Pending {
    pub(super) key: LaneKey,
    texts: Vec<Vec<u32>>,
    rows: Vec<Row>,
    left: usize,
    submitted: Instant,
    started: bool,
    engine: Duration,
    share_ns: u64,
    /// Its tokens in the batch that is being delivered.
    own: Option<u64>,
    metrics: Arc<LaneMetrics>,
    trace: Option<TraceLink>,
    probe: Option<Arc<Pair>>,
    answer: oneshot::Sender<Answer>,
}

/// A request before it has a place: all of it that needs no lock.
pub(super) struct Incoming {
    pending: Pending,
    lengths: Vec<u32>,
    app: String,
    deadline: Instant,
}

impl Incoming {
    pub(super) fn new(work: Work, metrics: Arc<LaneMetrics>, answer: oneshot::Sender<Answer>, now: Instant) -> Self {
        let Work { lane, engine, texts, deadline, app, trace, probe } = work;
        let lengths = texts.iter().map(|it| it.len() as u32).collect();
        let pending = Pending {
            key: LaneKey { lane, engine },
            rows: vec![Row::default(); texts.len()],
            left: texts.len(),
            texts,
            submitted: now,
            started: false,
            engine: Duration::ZERO,
            share_ns: 0,
            own: None,
            metrics,
            trace,
            probe,
            answer,
        };
        Self { pending, lengths, app, deadline }
    }
}

/// A request's place; dropping it gives the place up.
pub(in crate::batcher) struct Ticket {
    queue: Option<Arc<Queue>>,
    request: u64,
}

impl Ticket {
    /// It has no place any more: the answer is there.
    pub(in crate::batcher) fn answered(mut self) {
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
    /// Takes a request in, if there is room.
    pub(in crate::batcher) fn push(self: &Arc<Self>, work: Work, now: Instant) -> Result<(Ticket, oneshot::Receiver<Answer>), BatchError> {
        let metrics = self.metrics.lane(&work.lane.model, &work.lane.variant);
        let (answer, answered) = oneshot::channel();
        let incoming = Incoming::new(work, metrics, answer, now);
        let mut state = self.lock();
        let (request, wakes) = state.enter(incoming, now)?;
        let interrupt = state.interrupt.take();
        drop(state);
        if let Some(interrupt) = interrupt {
            interrupt();
        }
        self.wake(wakes);
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

    /// A batch is done: those whose last text was in it are answered.
    pub(in crate::batcher) fn finish(&self, worker: usize, batch: &Batch, outcome: Outcome) {
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
        let own_ns = state.credit(worker, outcome.to, outcome.busy);
        state.deliver(batch, outcome.vectors, (outcome.busy, own_ns), outcome.tokens);
        if !state.removals.is_empty() || state.closing.is_some() {
            self.changed.notify_all();
        }
        self.answer(state);
    }
}

impl State {
    /// A request comes in; whom that wakes.
    pub(super) fn enter(&mut self, incoming: Incoming, now: Instant) -> Result<(u64, Wakes), BatchError> {
        let Incoming { pending, lengths, app, deadline } = incoming;
        let (lane, engine, texts) = (pending.key.clone(), pending.key.engine, pending.left);
        if self.closing.is_some() {
            return Err(BatchError::Closed);
        }
        if !self.engines.contains_key(&engine) {
            return Err(BatchError::Gone);
        }
        let within = deadline.saturating_duration_since(now);
        self.policy.admit(engine, &lengths, within).map_err(|retry_after| BatchError::QueueFull { retry_after })?;
        let request = self.next_request;
        self.next_request += 1;
        pending.metrics.queue_depth.add(texts as i64);
        self.pending.insert(request, pending);
        self.policy.push(now, Ask { request, lane: lane.clone(), engine, app, lengths, deadline });
        Ok((request, self.wakes(&lane, texts)))
    }

    pub(super) fn take(&mut self, cut: Cut<LaneKey>, now: Instant) -> Batch {
        let mut texts = Vec::with_capacity(cut.items.len());
        let mut metrics: Option<Arc<LaneMetrics>> = None;
        let (mut links, mut probe) = (BTreeMap::new(), None);
        for items in cut.items.chunk_by(|a, b| a.request == b.request) {
            let request = items[0].request;
            let Some(pending) = self.pending.get_mut(&request) else {
                texts.extend(items.iter().map(|_| Vec::new()));
                continue;
            };
            if !pending.started {
                pending.started = true;
                pending.metrics.batch_wait.observe(now.saturating_duration_since(pending.submitted).as_secs_f64());
            }
            texts.extend(items.iter().map(|it| std::mem::take(&mut pending.texts[it.text])));
            probe.clone_from(&pending.probe);
            if let Some(link) = &pending.trace {
                links.entry(request).or_insert_with(|| link.clone());
            }
            metrics.get_or_insert_with(|| pending.metrics.clone());
        }
        if let Some(metrics) = &metrics {
            metrics.queue_depth.set(self.policy.waiting_in(&cut.lane) as i64);
        }
        Batch { cut, texts, metrics, links: links.into_values().collect(), probe }
    }

    /// What of the device's time until `to` no other batch has had, ns; on one executor all of it.
    fn credit(&mut self, worker: usize, to: Instant, busy: Duration) -> u64 {
        let to = to.saturating_duration_since(self.began).as_nanos() as u64;
        let device = worker % self.credited.len();
        self.credited[device].credit(to.saturating_sub(busy.as_nanos() as u64), to)
    }

    fn deliver(&mut self, batch: &Batch, vectors: Vec<Result<Row, Arc<str>>>, (took, own_ns): (Duration, u64), tokens: u64) {
        let (mut requests, mut vectors) = (Vec::new(), vectors.into_iter());
        for items in batch.cut.items.chunk_by(|a, b| a.request == b.request) {
            let (request, mut pending) = (items[0].request, self.pending.get_mut(&items[0].request));
            for (item, vector) in items.iter().zip(vectors.by_ref()) {
                let (Some(pending), Ok(vector)) = (pending.as_deref_mut(), vector) else { continue };
                pending.rows[item.text] = vector;
                pending.left -= 1;
                if pending.own.is_none() {
                    requests.push(request);
                }
                *pending.own.get_or_insert_default() += u64::from(item.tokens);
            }
        }
        let now = Instant::now();
        for request in requests {
            let Some(pending) = self.pending.get_mut(&request) else { continue };
            let own = pending.own.take().unwrap_or_default();
            pending.engine += took;
            pending.share_ns += (u128::from(own_ns) * u128::from(own) / u128::from(tokens.max(1))) as u64;
            if pending.left == 0 {
                self.answer(request, |it| Ok(it.answered(now)));
            }
        }
    }

    fn fail(&mut self, request: u64, cause: &str) {
        self.policy.remove(request);
        self.answer(request, |_| Err(BatchError::Engine(cause.to_owned())));
    }

    pub(super) fn answer(&mut self, request: u64, answer: impl FnOnce(&mut Pending) -> Answer) {
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
    fn answered(&mut self, now: Instant) -> Answered {
        let queue = now.saturating_duration_since(self.submitted).saturating_sub(self.engine);
        Answered { rows: std::mem::take(&mut self.rows), queue, engine: self.engine, engine_share_ns: self.share_ns }
    }
}
