//! The thread that compares the vectors of probes. It has a low priority: on a CPU it takes its time from the engines' cores.
//!
//! Enters: baseline vectors, probes that ran. Leaves: results to telemetry. Never: a wait of an executor; what comes while eight probes wait is
//! dropped and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

use akidb_domain::window::ProbeResult;

use super::super::EngineId;
use super::reservoir::{Reservoir, cosine};
use super::{Known, Ran, SAMPLE, text_hash};
use crate::metrics::Metrics;
use crate::telemetry::{Observation, Telemetry};

/// Probes that may wait,
const INBOX: usize = 8;
/// and batches' vectors, which must not take a probe's place: more of them come by themselves.
const MOST_VECTORS: usize = 8;
/// Most experiments with vectors at a time.
const MOST_EXPERIMENTS: usize = 8;
/// Added to the thread's niceness.
const NICE: i32 = 10;

/// The handle, one a worker; the thread ends with the last one.
#[derive(Debug, Clone)]
pub(in crate::batcher) struct Judge {
    facts: SyncSender<Fact>,
    /// Batches' vectors that wait.
    vectors: Arc<AtomicUsize>,
    metrics: Metrics,
}

enum Fact {
    Vectors { experiment: String, baseline: EngineId, vectors: Vec<Known> },
    Ran(Box<Ran>),
}

impl Judge {
    pub(in crate::batcher) fn start(telemetry: Telemetry, metrics: Metrics) -> std::io::Result<Self> {
        let (facts, inbox) = sync_channel(INBOX + MOST_VECTORS);
        let vectors = Arc::<AtomicUsize>::default();
        let bench = Bench { telemetry, metrics: metrics.clone(), vectors: vectors.clone(), reservoirs: BTreeMap::new() };
        Builder::new().name("probe-judge".into()).spawn(move || bench.run(&inbox))?;
        Ok(Self { facts, vectors, metrics })
    }

    /// Vectors for the reservoir; dropped if the thread is busy, since more will come.
    pub(in crate::batcher) fn learn(&self, experiment: &str, baseline: EngineId, vectors: Vec<Known>) {
        let room = |waiting: usize| (waiting < MOST_VECTORS).then_some(waiting + 1);
        if self.vectors.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
            && self.facts.try_send(Fact::Vectors { experiment: experiment.to_owned(), baseline, vectors }).is_err()
        {
            self.vectors.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Batches' vectors that wait for the thread.
    #[cfg(test)]
    pub(in crate::batcher) fn waiting(&self) -> usize {
        self.vectors.load(Ordering::Relaxed)
    }

    pub(in crate::batcher) fn take(&self, ran: Ran) {
        if self.facts.try_send(Fact::Ran(Box::new(ran))).is_err() {
            self.metrics.probe("dropped");
        }
    }
}

struct Bench {
    telemetry: Telemetry,
    metrics: Metrics,
    vectors: Arc<AtomicUsize>,
    reservoirs: BTreeMap<String, (EngineId, Reservoir)>,
}

impl Bench {
    fn run(mut self, inbox: &Receiver<Fact>) {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::warn!(%error, "the priority of comparing probes could not be lowered");
        }
        for fact in inbox {
            match fact {
                Fact::Vectors { experiment, baseline, vectors } => {
                    self.vectors.fetch_sub(1, Ordering::Relaxed);
                    self.learn(&experiment, baseline, vectors);
                }
                Fact::Ran(ran) => self.judge(&ran),
            }
        }
    }

    fn learn(&mut self, experiment: &str, baseline: EngineId, vectors: Vec<Known>) {
        let reservoir = self.reservoir(experiment, baseline);
        for vector in vectors {
            reservoir.add(vector);
        }
    }

    /// The vectors of another engine are no neighbours: it begins anew.
    fn reservoir(&mut self, experiment: &str, baseline: EngineId) -> &mut Reservoir {
        if self.reservoirs.len() >= MOST_EXPERIMENTS && !self.reservoirs.contains_key(experiment) {
            self.reservoirs.pop_first();
        }
        let (engine, reservoir) = self.reservoirs.entry(experiment.to_owned()).or_insert_with(|| (baseline, Reservoir::default()));
        if *engine != baseline {
            (*engine, *reservoir) = (baseline, Reservoir::default());
        }
        reservoir
    }

    fn judge(&mut self, ran: &Ran) {
        let (experiment, baseline) = (&ran.candidate.lane.experiment, ran.candidate.pair.baseline);
        let outcome = match compare(ran, self.reservoir(experiment, baseline)) {
            Ok(result) => {
                self.telemetry.observe(Observation::Probe { at: ran.at, result });
                "made"
            }
            Err(outcome) => outcome,
        };
        self.metrics.probe(outcome);
    }
}

/// A probe's result; else what became of it. Its baseline vectors are kept.
fn compare(ran: &Ran, reservoir: &mut Reservoir) -> Result<ProbeResult, &'static str> {
    let texts = &ran.candidate.texts;
    let dimension = ran.baseline.vectors.len() / texts.len().max(1);
    if dimension == 0 || ran.canary.vectors.len() != ran.baseline.vectors.len() {
        return Err("failed");
    }
    let pairs = || ran.canary.vectors.chunks(dimension).zip(ran.baseline.vectors.chunks(dimension));
    let cosine = pairs().map(|(canary, baseline)| cosine(canary, baseline)).sum::<f64>() / texts.len() as f64;
    let some = || texts.iter().zip(pairs()).step_by(texts.len().div_ceil(SAMPLE));
    let recalls: Vec<f64> = some().filter_map(|(ids, it)| reservoir.recall(text_hash(ids), it.0, it.1)).collect();
    for (ids, (_, baseline)) in some() {
        reservoir.add((text_hash(ids), baseline.to_vec()));
    }
    if recalls.is_empty() {
        return Err("few");
    }
    let (canary, baseline) = ran.times();
    Ok(ProbeResult {
        experiment: ran.candidate.lane.experiment.clone(),
        phase: ran.candidate.lane.phase,
        at_ns: 0,
        canary_ns: (canary.as_nanos() as u64).max(1),
        baseline_ns: (baseline.as_nanos() as u64).max(1),
        cosine: cosine.clamp(-1.0, 1.0),
        recall: recalls.iter().sum::<f64>() / recalls.len() as f64,
        texts: texts.len() as u32,
        tokens: texts.iter().map(|it| it.len() as u32).sum(),
        canary_first: ran.canary_first,
    })
}
