//! Engines taking turns.
//!
//! Enters: engines with batches of one shape. Leaves: the time of every run that counts. Never: a ratio of engines that met another machine:
//! each has a turn in every round, and who begins rotates.

use std::time::{Duration, Instant};

use akidb_domain::benchmark::{Latency, Measured};
use akidb_sidecar::engine::{Engine, TokenBatch};

use super::raw;

/// How long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Measured time of each engine.
    pub(crate) each: Duration,
    /// Runs of each engine, whatever time they take.
    pub(crate) least_runs: usize,
}

/// An engine stays on for so long: what it keeps in the caches counts, as when it serves alone, and still no disturbance hits one engine only.
const TURN: Duration = Duration::from_millis(100);
/// Runs before the first that counts; one alone where a run takes longer than a turn.
const WARM_UP_RUNS: usize = 5;

/// Times of one engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    pub(crate) milliseconds: Vec<f64>,
    pub(crate) warm_up_runs: usize,
}

impl Samples {
    /// The figures, `None` without a run.
    pub(crate) fn figures(&self, turns: &str, batch: &TokenBatch) -> Option<Measured> {
        let took: f64 = self.milliseconds.iter().sum::<f64>() / 1e3;
        let runs = self.milliseconds.len();
        Some(Measured {
            turns: turns.to_owned(),
            runs,
            warm_up_runs: self.warm_up_runs,
            seconds: took,
            latency_ms: Latency::of(&self.milliseconds)?,
            texts_per_second: raw::rate(runs * batch.rows, Duration::from_secs_f64(took)),
            padded_tokens_per_text: batch.tokens as f64,
        })
    }
}

/// One engine and its batches.
pub(crate) struct Seat<'a> {
    pub(crate) engine: &'a mut dyn Engine,
    pub(crate) batches: Vec<TokenBatch>,
}

impl Seat<'_> {
    fn run(&mut self, count: usize) -> Result<f64, String> {
        let batch = &self.batches[count % self.batches.len()];
        let from = Instant::now();
        let vectors = self.engine.run(batch).map_err(|it| it.to_string())?;
        let took = from.elapsed().as_secs_f64() * 1e3;
        // What was timed was an embedding of every text.
        if vectors.iter().all(|it| it.is_finite()) { Ok(took) } else { Err("the engine answers what is not a number".into()) }
    }
}

/// Rounds until every engine has its time and its runs. The first engine that fails ends it, with its place.
pub(crate) fn alternate(seats: &mut [Seat<'_>], plan: Plan) -> Result<Vec<Samples>, (usize, String)> {
    let mut samples = vec![Samples::default(); seats.len()];
    for (i, (seat, samples)) in seats.iter_mut().zip(&mut samples).enumerate() {
        let from = Instant::now();
        while samples.warm_up_runs == 0 || (samples.warm_up_runs < WARM_UP_RUNS && from.elapsed() < TURN) {
            seat.run(samples.warm_up_runs).map_err(|it| (i, it))?;
            samples.warm_up_runs += 1;
        }
    }
    let done =
        |it: &Samples| it.milliseconds.len() >= plan.least_runs && it.milliseconds.iter().sum::<f64>() >= plan.each.as_secs_f64() * 1e3;
    let mut round = 0;
    while !samples.iter().all(done) {
        for place in 0..seats.len() {
            let i = (round + place) % seats.len();
            let from = Instant::now();
            while from.elapsed() < TURN {
                let took = seats[i].run(samples[i].milliseconds.len()).map_err(|it| (i, it))?;
                samples[i].milliseconds.push(took);
            }
        }
        round += 1;
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use akidb_domain::vocabulary::ExecutionProvider;
    use akidb_sidecar::engine::EngineError;

    use super::*;

    struct Sleeper(Duration, Option<usize>);

    impl Engine for Sleeper {
        fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
            std::thread::sleep(self.0);
            match &mut self.1 {
                Some(0) => Err(EngineError::Run("out of memory".into())),
                Some(left) => {
                    *left -= 1;
                    Ok(vec![0.0; batch.rows])
                }
                None => Ok(vec![0.0; batch.rows]),
            }
        }

        fn dimension(&self) -> usize {
            1
        }

        fn provider(&self) -> ExecutionProvider {
            ExecutionProvider::Cpu
        }
    }

    fn seats(engines: &mut [Sleeper]) -> Vec<Seat<'_>> {
        let batch = TokenBatch { rows: 4, tokens: 2, ids: vec![1; 8], mask: vec![1; 8] };
        engines.iter_mut().map(|engine| Seat { engine, batches: vec![batch.clone()] }).collect()
    }

    #[test]
    fn each_engine_has_its_time_and_its_runs() {
        let mut engines = [Sleeper(Duration::from_millis(2), None), Sleeper(Duration::from_millis(120), None)];
        let plan = Plan { each: Duration::from_millis(150), least_runs: 3 };
        let mut seats = seats(&mut engines);
        let samples = alternate(&mut seats, plan).unwrap();
        let (fast, slow) = (&samples[0], &samples[1]);
        assert!((3..=6).contains(&slow.milliseconds.len()) && slow.warm_up_runs == 1, "{slow:?}");
        assert!(fast.milliseconds.len() > 3 * slow.milliseconds.len() && fast.warm_up_runs == WARM_UP_RUNS, "{fast:?}");
        let figures = slow.figures("t", &seats[1].batches[0]).unwrap();
        assert!(figures.latency_ms.p50 >= 120.0 && figures.latency_ms.p95.is_none() && (20.0..34.0).contains(&figures.texts_per_second));
        assert_eq!(Samples::default().figures("t", &seats[1].batches[0]), None);
    }

    #[test]
    fn an_engine_that_fails_is_named() {
        let mut engines = [Sleeper(Duration::ZERO, None), Sleeper(Duration::ZERO, Some(7))];
        let plan = Plan { each: Duration::from_millis(50), least_runs: 1 };
        let (place, problem) = alternate(&mut seats(&mut engines), plan).unwrap_err();
        assert!(place == 1 && problem.contains("out of memory"), "{problem}");
    }
}
