//! Paired probes: a production batch of an experiment, run once more on both its engines, same tensors, in random order, beside the
//! requests. A probe costs three runs, two of them timed, each right after one of the other engine; the production run is not timed for it, since what
//! ran before it differs from arm to arm. It is made by one worker, on contexts that are its own, while the others may go on with batches.
//!
//! Enters: batches that were answered, budgets. Leaves: engine times of the pair, how alike its vectors are, and whether they find the same
//! neighbours. Never: a request that waits for its own probe, a probe while many wait or an engine is loaded, device time past the budget but for
//! the last probe.
//!
//! Rooms, in reading order:
//! - [`policy`]: which batch, and when; pure
//! - `turns`: one at a time on a device of several workers; pure
//! - `reservoir`: recent baseline vectors, and the neighbours of a vector among them; pure
//! - `judge`: the thread that compares

mod judge;
pub mod policy;
mod reservoir;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use akidb_domain::snapshot::ProbeBudget;
use akidb_domain::window::LaneId;

use super::EngineId;
use super::row::Row;
use policy::Stage;

pub(super) use judge::Judge;
pub(super) use turns::Turns;

/// Most vectors of a batch that the reservoir gets, and most texts of a probe whose neighbours are looked for.
const SAMPLE: usize = 8;

/// The engines of an experiment, for work that may be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The stable one.
    pub baseline: EngineId,
    /// The one on trial.
    pub canary: EngineId,
    /// Its variant: what the device time of probes is booked on.
    pub canary_variant: String,
    /// What probes may cost.
    pub budget: ProbeBudget,
}

/// A batch that may be probed.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) lane: Arc<LaneId>,
    pub(super) pair: Arc<Pair>,
    pub(super) texts: Vec<Vec<u32>>,
}

/// A vector that a baseline engine gave, and the hash of its text's ids.
pub(super) type Known = (u64, Vec<f32>);

/// Both engines ran.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) candidate: Candidate,
    pub(super) canary: Run,
    pub(super) baseline: Run,
    pub(super) canary_first: bool,
    pub(super) at: Instant,
}

/// One engine's half of a probe: vectors side by side, and the time they took.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) vectors: Vec<f32>,
    /// By the host's clock.
    pub(super) took: Duration,
    /// By the device's own, where it tells.
    pub(super) own: Option<Duration>,
}

impl Ran {
    /// What the canary took and what the baseline did, by one clock: the device's own where it tells for both, else the host's.
    fn times(&self) -> (Duration, Duration) {
        self.canary.own.zip(self.baseline.own).unwrap_or((self.canary.took, self.baseline.took))
    }
}

impl Candidate {
    pub(super) fn stage(&self) -> Stage {
        Stage { phase: self.lane.phase, baseline: self.pair.baseline, canary: self.pair.canary }
    }
}

/// What a text is known by among vectors.
fn text_hash(ids: &[u32]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    ids.hash(&mut hasher);
    hasher.finish()
}

/// A few of a batch's vectors, for the reservoir.
pub(super) fn sample(texts: &[Vec<u32>], vectors: &[Result<Row, Arc<str>>]) -> Vec<Known> {
    let good = texts.iter().zip(vectors).filter_map(|(ids, vector)| Some((ids, vector.as_ref().ok()?)));
    good.take(SAMPLE).map(|(ids, vector)| (text_hash(ids), vector.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};

    use super::*;

    #[test]
    fn a_pair_is_timed_by_one_clock() {
        let micros = Duration::from_micros;
        for (canary, baseline, expected) in [
            ((9, Some(3)), (8, Some(4)), (3, 4)),
            ((9, None), (8, None), (9, 8)),
            ((9, None), (8, Some(4)), (9, 8)),
            ((9, Some(3)), (8, None), (9, 8)),
        ] {
            let run = |(took, own): (u64, Option<u64>)| Run { vectors: vec![1.0], took: micros(took), own: own.map(micros) };
            let ran = Ran { candidate: candidate(), canary: run(canary), baseline: run(baseline), canary_first: true, at: Instant::now() };
            assert_eq!(ran.times(), (micros(expected.0), micros(expected.1)), "{canary:?} {baseline:?}");
        }
    }

    pub(super) fn candidate() -> Candidate {
        let lane = LaneId {
            model: "m".into(),
            version: "1".into(),
            variant: "fp32".into(),
            precision: Precision::Fp32,
            arm: Arm::Baseline,
            experiment: "e".into(),
            phase: 1,
            digest: "d".into(),
            provider: ExecutionProvider::TensorRt,
            fallback: false,
        };
        let budget = ProbeBudget { device_ppm: 10_000, idle_ppm: 0, shed_queue_texts: 8 };
        let pair = Pair { baseline: EngineId(1), canary: EngineId(2), canary_variant: "new".into(), budget };
        Candidate { lane: Arc::new(lane), pair: Arc::new(pair), texts: vec![vec![1, 2]] }
    }
}
