//! A look's telemetry while it is counted.
//!
//! Enters: latencies, failures. Leaves: the [`Look`] that the decision engine takes. Never: a request.

use akidb_domain::decision::Look;
use akidb_domain::decision::look::{self, Answers, Probe, Units, Window};
use akidb_domain::sketch::{END_INDEX, MIN_INDEX, Sketch, index_of};

/// Texts of at most so many tokens are short: the two token-length buckets.
pub(super) const SHORT: u16 = 32;
const WIDTH: usize = (END_INDEX - MIN_INDEX + 2) as usize;

/// Of one look.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) lanes: [LaneCounts; 3],
    pub(super) probes: Vec<Probe>,
    pub(super) units: Units,
    pub(super) sticky: bool,
    pub(super) elapsed_s: f64,
    pub(super) busy_s: f64,
    pub(super) probe_s: f64,
}

/// Of one lane.
#[derive(Debug)]
pub(super) struct LaneCounts {
    /// Requests and errors of every user.
    pub(super) all: u64,
    pub(super) all_errors: u64,
    /// As the engine counts them, a second each: with sticky users, of those that had not failed before.
    windows: Vec<Answers>,
    pub(super) failures: u64,
    pub(super) first_late: u64,
    latency: [Dense; 2],
}

/// A sketch's buckets as an array, with one below and one above.
#[derive(Debug)]
struct Dense {
    counts: Vec<u32>,
    sum_ns: u64,
}

impl Default for LaneCounts {
    fn default() -> Self {
        let dense = || Dense { counts: vec![0; WIDTH], sum_ns: 0 };
        Self { all: 0, all_errors: 0, windows: Vec::new(), failures: 0, first_late: 0, latency: [dense(), dense()] }
    }
}

impl LaneCounts {
    /// Counts a latency and gives its bucket.
    pub(super) fn record(&mut self, class: usize, nanos: u64) -> i32 {
        let bucket = index_of(nanos);
        self.latency[class].counts[(bucket - MIN_INDEX + 1) as usize] += 1;
        self.latency[class].sum_ns += nanos;
        bucket
    }

    /// Counts an answer of the look's second `second`.
    pub(super) fn answer(&mut self, second: usize, error: bool) {
        if self.windows.len() <= second {
            self.windows.resize(second + 1, Answers::default());
        }
        self.windows[second].requests += 1;
        self.windows[second].errors += u64::from(error);
    }

    /// All lengths together.
    pub(super) fn histogram(&self) -> Vec<u32> {
        self.latency[0].counts.iter().zip(&self.latency[1].counts).map(|(a, b)| a + b).collect()
    }

    fn lane(&self, sticky: bool) -> look::Lane {
        look::Lane {
            latency: self.latency.iter().map(Dense::sketch).collect(),
            failures: self.failures,
            first_exceedances: sticky.then_some(self.first_late),
        }
    }
}

impl Dense {
    fn sketch(&self) -> Sketch {
        let inner = &self.counts[1..WIDTH - 1];
        let buckets = inner.iter().zip(MIN_INDEX..).filter(|it| *it.0 > 0).map(|(n, i)| (i, u64::from(*n))).collect();
        Sketch { buckets, underflow: u64::from(self.counts[0]), overflow: u64::from(self.counts[WIDTH - 1]), sum_ns: self.sum_ns }
    }
}

impl Counts {
    /// What the engine sees. Lanes are rest, control, canary.
    pub(super) fn look(&self, number: u64, length_ms: u64) -> Look {
        let [_, control, canary] = &self.lanes;
        let answers = |lane: &LaneCounts, second: usize| lane.windows.get(second).copied().unwrap_or_default();
        let seconds = 0..canary.windows.len().max(control.windows.len());
        Look {
            number,
            length_ms,
            probes: self.probes.clone(),
            canary: canary.lane(self.sticky),
            control: control.lane(self.sticky),
            windows: seconds.map(|it| Window { canary: answers(canary, it), control: answers(control, it) }).collect(),
            units: self.units,
            utilisation: Some((self.busy_s / self.elapsed_s.max(1e-9)).min(1.0)),
            ..Look::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_the_sketch_of_its_values() {
        let (mut lane, mut expected) = (LaneCounts::default(), Sketch::default());
        for nanos in [0, 61_035, 61_036, 5_000_000, 5_000_001, 64_000_000_000, 64_000_000_001] {
            lane.record(1, nanos);
            expected.record(nanos);
        }
        assert_eq!(lane.lane(false).latency, [Sketch::default(), expected]);
    }
}
