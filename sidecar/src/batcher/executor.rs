//! A thread that owns a context of each of the device's engines and runs one batch at a time.
//!
//! Enters: steps from the queue. Leaves: vectors, observations, metrics. Never: two batches at once, an end by a panic of an engine.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EngineId;
use super::probes::{Candidate, Judge, Known, Ran, Run, sample};
use super::queue::{Batch, Gone, Outcome, Overhead, Queue, Step};
use super::row::{Row, Spares};
use crate::engine::{Engine, EngineError, TokenBatch, checked, settled};
use crate::metrics::Metrics;
use crate::telemetry::{BatchDone, Observation, Telemetry};
use crate::traces::{self, BatchFacts};

/// Failed parts of a batch that are halved and tried again: two bad texts of 64 are found.
const RETRIES: usize = 12;
/// The cause of the overhead of shapes that are recorded.
const RECORDING: &str = "recording";
/// Padding; masked, so any id would do.
const PAD: i64 = 0;

pub(super) struct Executor {
    /// Which of the device's threads.
    pub(super) worker: usize,
    pub(super) queue: Arc<Queue>,
    pub(super) telemetry: Telemetry,
    pub(super) metrics: Metrics,
    pub(super) judge: Judge,
    pub(super) engines: HashMap<EngineId, Box<dyn Engine>>,
    /// Kept between batches, for their memory.
    pub(super) tensors: TokenBatch,
    /// Likewise, of vectors that have been answered.
    pub(super) spares: Arc<Spares>,
}

/// Tells the queue even if the thread dies.
struct EndOnDrop(Arc<Queue>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Executor {
    pub(super) fn run(mut self) {
        let _end = EndOnDrop(self.queue.clone());
        loop {
            match self.queue.next_step(self.worker) {
                Step::Install(install) => {
                    self.engines.insert(install.id, install.engine);
                    if let Some(done) = install.done {
                        // Who asked may have left.
                        let _ = done.send(());
                    }
                }
                Step::Remove(id, done) => {
                    self.let_go(id, done);
                }
                Step::Overhead(overhead) => self.overhead(overhead),
                Step::Batch(batch) => self.batch(batch),
                Step::Probe(candidate) => self.probe(candidate),
                Step::End => return,
            }
        }
    }

    fn batch(&mut self, batch: Batch) {
        let (lane, rows) = (&batch.cut.lane.lane, batch.cut.items.len());
        let tokens: u64 = batch.cut.items.iter().map(|it| u64::from(it.tokens)).sum();
        let padded_tokens = (rows * batch.texts.iter().map(Vec::len).max().unwrap_or(0)) as u64;
        let from = Instant::now();
        self.telemetry.observe(Observation::BatchStarted { worker: self.worker, lane: lane.clone(), at: from });
        let mut retries = RETRIES;
        let mut device = Some(Duration::ZERO);
        let vectors = self.vectors(&batch, 0..rows, &mut retries, &mut device);
        let to = Instant::now();
        // Where the device tells its own time, what the host did before and after is not the device's.
        let busy = device.map_or(to - from, |it| it.min(to - from));
        let (began, from) = (from, to.checked_sub(busy).unwrap_or(from));
        let facts = BatchFacts { model: &lane.model, variant: &lane.variant, texts: rows, padded_tokens, from, to };
        traces::batch(&batch.links, &facts);
        self.telemetry.observe(Observation::BatchFinished(BatchDone {
            worker: self.worker,
            lane: lane.clone(),
            from,
            to,
            tokens,
            padded_tokens,
        }));
        if let Some(error) = vectors.iter().find_map(|it| it.as_ref().err()) {
            let failed = vectors.iter().filter(|it| it.is_err()).count();
            tracing::error!(model = lane.model, variant = lane.variant, rows, failed, %error, "texts of a batch failed");
        }
        if let Some(metrics) = &batch.metrics {
            metrics.batch_size.observe(rows as f64);
            metrics.flush(batch.cut.reason);
            metrics.tokens.inc_by(tokens);
            metrics.padded_tokens.inc_by(padded_tokens);
            metrics.engine_seconds.inc_by(busy.as_secs_f64());
        }
        // Copied before the vectors leave with their answers.
        let (good, known) = (vectors.iter().all(Result::is_ok), recent(&batch, &vectors));
        self.queue.finish(self.worker, &batch, Outcome { from: began, to, busy, tokens, padded_tokens, vectors });
        self.settle(batch.cut.engine, &batch.cut.lane.lane.model, &batch.cut.lane.lane.variant);
        if good {
            self.offer(batch, known);
        }
    }

    /// What was answered may be probed.
    fn offer(&mut self, batch: Batch, known: Vec<Known>) {
        let Some(pair) = batch.probe else { return };
        let (lane, vectors) = (batch.cut.lane.lane, known.len());
        if vectors > 0 {
            self.judge.learn(&lane.experiment, pair.baseline, known);
        }
        self.queue.offer(self.worker, Candidate { lane, pair, texts: batch.texts }, vectors, rand::random());
    }

    /// Both engines on the same tensors, in random order. Each timed run comes right after one of the other engine: the one that will be second
    /// runs once before, untimed, or the first would pay for caches and threads that had gone cold.
    fn probe(&mut self, candidate: Candidate) {
        fill(&mut self.tensors, &candidate.texts);
        let canary_first: bool = rand::random();
        let (lane, pair) = (candidate.lane.clone(), candidate.pair.clone());
        let (first, second) = if canary_first { (pair.canary, pair.baseline) } else { (pair.baseline, pair.canary) };
        let began = Instant::now();
        let runs = self.timed(second).and_then(|cold| Ok([cold, self.timed(first)?, self.timed(second)?]));
        let at = Instant::now();
        let busy = runs.as_ref().ok().and_then(|it| own_time(it)).map_or(at - began, |it| it.min(at - began));
        let from = at.checked_sub(busy).unwrap_or(began);
        let (model, variant, experiment) = (lane.model.clone(), pair.canary_variant.clone(), lane.experiment.clone());
        let worker = self.worker;
        self.telemetry.observe(Observation::Overhead { worker, cause: "probe", model, variant, experiment, from, to: at });
        self.metrics.overhead("probe", busy);
        self.queue.probe_finished(&lane.experiment, busy);
        match runs {
            Ok([_, first, second]) => {
                let (canary, baseline) = if canary_first { (first, second) } else { (second, first) };
                self.judge.take(Ran { candidate, canary, baseline, canary_first, at });
            }
            Err(error) => {
                if matches!(error, EngineError::DeviceLost(_)) {
                    self.queue.device_lost(&error.to_string());
                }
                self.metrics.probe("failed");
                tracing::warn!(experiment = lane.experiment, %error, "a probe failed");
            }
        }
        // Else a canary of few requests would be timed kernel by kernel at shapes that the baseline has recorded.
        self.settle(pair.canary, &lane.model, &pair.canary_variant);
    }

    fn timed(&mut self, engine: EngineId) -> Result<Run, EngineError> {
        let from = Instant::now();
        let (vectors, _) = run(&mut self.engines, engine, &self.tensors, |it, batch| it.run(batch))?;
        let took = from.elapsed();
        let own = self.engines.get(&engine).and_then(|it| it.device_time());
        Ok(Run { vectors, took, own })
    }

    /// Vectors of a part of a batch. If it fails its halves are tried, so that a bad text fails alone; no more than `retries` times, and not
    /// once the shutdown has given up.
    /// `device` is added the device's own time, and is none once an engine does not tell it.
    fn vectors(
        &mut self,
        batch: &Batch,
        part: Range<usize>,
        retries: &mut usize,
        device: &mut Option<Duration>,
    ) -> Vec<Result<Row, Arc<str>>> {
        fill(&mut self.tensors, &batch.texts[part.clone()]);
        if let Some((engine, memory)) = self.engines.get_mut(&batch.cut.engine).zip(self.spares.take()) {
            engine.reuse(memory);
        }
        let result = run(&mut self.engines, batch.cut.engine, &self.tensors, |it, batch| it.run(batch));
        let told = self.engines.get(&batch.cut.engine).and_then(|it| it.device_time());
        *device = device.zip(told).map(|(sum, it)| sum + it);
        let error = match result {
            Ok((flat, dimension)) => return Row::all(flat, dimension, &self.spares).map(Ok).collect(),
            Err(error) => error,
        };
        let lost = matches!(error, EngineError::DeviceLost(_));
        if lost {
            self.queue.device_lost(&error.to_string());
        }
        if part.len() == 1 || *retries == 0 || lost || self.queue.gave_up() {
            let cause: Arc<str> = error.to_string().into();
            return vec![Err(cause); part.len()];
        }
        *retries -= 1;
        let middle = part.start + part.len() / 2;
        let mut vectors = self.vectors(batch, part.start..middle, retries, device);
        vectors.extend(self.vectors(batch, middle..part.end, retries, device));
        vectors
    }

    /// What an engine left for after the answers.
    fn settle(&mut self, id: EngineId, model: &str, variant: &str) {
        let Some(engine) = self.engines.get_mut(&id) else { return };
        let (before, from) = (engine.recorded(), Instant::now());
        if !settled(&mut **engine) {
            return;
        }
        let (recorded, to) = (engine.recorded().saturating_sub(before), Instant::now());
        self.metrics.lane(model, variant).cuda_graphs.inc_by(recorded as u64);
        self.metrics.overhead(RECORDING, to - from);
        let (worker, experiment) = (self.worker, String::new());
        let (model, variant) = (model.to_owned(), variant.to_owned());
        self.telemetry.observe(Observation::Overhead { worker, cause: RECORDING, model, variant, experiment, from, to });
    }

    /// Freeing an engine's memory takes milliseconds that a request would wait: on a thread of its own.
    fn let_go(&mut self, id: EngineId, done: Arc<Gone>) {
        let engine = self.engines.remove(&id);
        let gone = std::thread::Builder::new().name("engine-drop".into()).spawn(move || {
            drop(engine);
            drop(done);
        });
        if let Err(error) = gone {
            tracing::warn!(%error, "no thread to free an engine's memory; it was freed between batches");
        }
    }

    fn overhead(&mut self, overhead: Overhead) {
        let Overhead { engine, batch, cause, model, variant, yields, done } = overhead;
        if done.is_closed() {
            return self.queue.overhead_finished(Duration::ZERO, yields);
        }
        let from = Instant::now();
        let result = run(&mut self.engines, engine, &batch, |it, batch| if yields { it.run_yielding(batch) } else { it.run(batch) });
        let to = Instant::now();
        let (worker, experiment) = (self.worker, String::new());
        let (its_model, its_variant) = (model.clone(), variant.clone());
        self.telemetry.observe(Observation::Overhead { worker, cause, model: its_model, variant: its_variant, experiment, from, to });
        self.metrics.overhead(cause, to - from);
        self.queue.overhead_finished(to - from, yields);
        // Who asked may have left.
        drop(done.send(result.map(|it| (it.0, to - from))));
        self.settle(engine, &model, &variant);
    }
}

/// Vectors and their length.
fn run(
    engines: &mut HashMap<EngineId, Box<dyn Engine>>,
    id: EngineId,
    batch: &TokenBatch,
    how: impl FnOnce(&mut dyn Engine, &TokenBatch) -> Result<Vec<f32>, EngineError>,
) -> Result<(Vec<f32>, usize), EngineError> {
    let engine = engines.get_mut(&id).ok_or_else(|| EngineError::Run("the engine is gone".into()))?;
    let dimension = engine.dimension();
    checked(&mut **engine, batch, how).map(|it| (it, dimension))
}

/// Vectors for the reservoir: of a batch that an experiment's baseline ran.
fn recent(batch: &Batch, vectors: &[Result<Row, Arc<str>>]) -> Vec<Known> {
    let of_baseline = batch.probe.as_ref().is_some_and(|it| it.baseline == batch.cut.engine);
    if of_baseline { sample(&batch.texts, vectors) } else { Vec::new() }
}

/// The device's own time of some runs, where it tells that of each.
fn own_time(runs: &[Run]) -> Option<Duration> {
    runs.iter().map(|it| it.own).sum()
}

/// Texts side by side, padded to the longest.
fn fill(tensors: &mut TokenBatch, texts: &[Vec<u32>]) {
    let tokens = texts.iter().map(Vec::len).max().unwrap_or(0);
    (tensors.rows, tensors.tokens) = (texts.len(), tokens);
    tensors.ids.clear();
    tensors.mask.clear();
    for text in texts {
        let padding = tokens - text.len();
        tensors.ids.extend(text.iter().map(|it| i64::from(*it)));
        tensors.ids.extend(std::iter::repeat_n(PAD, padding));
        tensors.mask.extend(std::iter::repeat_n(1, text.len()));
        tensors.mask.extend(std::iter::repeat_n(0, padding));
    }
}
