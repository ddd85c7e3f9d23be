//! Figures of one side over some of its slices, and their ratio.
//!
//! Enters: slices, and how often each counts. Leaves: p50, p95, p99 and throughput. Never: the mean of percentiles; a percentile is of all
//! requests of the slices together.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::account::Account;
use crate::bootstrap::{Bootstrap, Interval};

/// One slice of one side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    /// Milliseconds and how many successes took them.
    pub latencies: Vec<(f64, u64)>,
    /// Successes a second.
    pub throughput: f64,
}

/// Figures of a side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// Milliseconds, of all successes of all slices.
    pub p50_ms: f64,
    /// The same.
    pub p95_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Successes a second: the median over slices.
    pub requests_per_second: f64,
}

/// How B compares to A in one figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratio {
    /// `p50`, `p95`, `p99`, `throughput`.
    pub figure: &'static str,
    /// Of A.
    pub a: f64,
    /// Of B.
    pub b: f64,
    /// B / A; null where a side has no successes.
    pub ratio: Option<f64>,
    /// Of the ratio.
    pub interval: Option<Interval>,
}

impl Slice {
    /// From an account of `elapsed`.
    pub fn new(account: &Account, elapsed: Duration) -> Self {
        let latencies = account.latency.iter_recorded().map(|it| (it.value_iterated_to() as f64 / 1_000.0, it.count_at_value()));
        let seconds = elapsed.as_secs_f64();
        let throughput = if seconds > 0.0 { account.latency.len() as f64 / seconds } else { 0.0 };
        Self { latencies: latencies.collect(), throughput }
    }
}

/// Slices of one side, ready to be counted many times.
struct Grid {
    values: Vec<f64>,
    slices: Vec<Vec<(usize, u64)>>,
    /// By throughput: its value and the slice.
    throughputs: Vec<(f64, usize)>,
}

impl Grid {
    fn new(slices: &[Slice]) -> Self {
        let mut values: Vec<f64> = slices.iter().flat_map(|it| it.latencies.iter().map(|it| it.0)).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let places: BTreeMap<u64, usize> = values.iter().enumerate().map(|(at, it)| (it.to_bits(), at)).collect();
        let indexed = |it: &Slice| it.latencies.iter().filter_map(|(ms, n)| Some((*places.get(&ms.to_bits())?, *n))).collect();
        let mut throughputs: Vec<_> = slices.iter().map(|it| it.throughput).zip(0..).collect();
        throughputs.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { slices: slices.iter().map(indexed).collect(), values, throughputs }
    }

    /// p50, p95, p99 and throughput with slice `i` taken `times[i]` times; NaN without successes.
    fn figures(&self, times: &[u32]) -> [f64; 4] {
        let mut counts = vec![0_u64; self.values.len()];
        for (slice, times) in self.slices.iter().zip(times).filter(|it| *it.1 > 0) {
            for (at, n) in slice {
                counts[*at] += n * u64::from(*times);
            }
        }
        let total: u64 = counts.iter().sum();
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| {
            let rank = ((q * total as f64).ceil() as u64).max(1);
            let mut seen = 0;
            let at = counts.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            at.map_or(f64::NAN, |it| self.values[it])
        });
        [p50, p95, p99, self.median_throughput(times)]
    }

    fn median_throughput(&self, times: &[u32]) -> f64 {
        let total: u32 = times.iter().sum();
        let at = |rank: u32| {
            let mut seen = 0;
            let found = self.throughputs.iter().find(|(_, slice)| {
                seen += times[*slice];
                seen > rank
            });
            found.map_or(f64::NAN, |it| it.0)
        };
        if total == 0 { f64::NAN } else { f64::midpoint(at((total - 1) / 2), at(total / 2)) }
    }
}

/// The ratios of all figures, B to A; a block of the bootstrap is a pair of slices.
pub(super) fn ratios(a: &[Slice], b: &[Slice], bootstrap: &Bootstrap) -> [Ratio; 4] {
    let pairs = a.len().min(b.len());
    let (grid_a, grid_b) = (Grid::new(&a[..pairs]), Grid::new(&b[..pairs]));
    let divided = |times: &[u32]| {
        let (a, b) = (grid_a.figures(times), grid_b.figures(times));
        std::array::from_fn(|at| b[at] / a[at])
    };
    let once = vec![1; pairs];
    let (of_a, of_b, point) = (grid_a.figures(&once), grid_b.figures(&once), divided(&once));
    let intervals: [_; 4] = bootstrap.intervals(pairs, divided);
    let names = ["p50", "p95", "p99", "throughput"];
    std::array::from_fn(|at| Ratio {
        figure: names[at],
        a: of_a[at],
        b: of_b[at],
        ratio: Some(point[at]).filter(|it: &f64| it.is_finite()),
        interval: intervals[at],
    })
}

impl Figures {
    /// Of one side of the ratios.
    pub fn of(ratios: &[Ratio; 4], side: fn(&Ratio) -> f64) -> Self {
        let [p50_ms, p95_ms, p99_ms, requests_per_second] = ratios.each_ref().map(side);
        Self { p50_ms, p95_ms, p99_ms, requests_per_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 300, level: 0.95, seed: 3 };

    fn slice(ms: &[f64], throughput: f64) -> Slice {
        Slice { latencies: ms.iter().map(|it| (*it, 1)).collect(), throughput }
    }

    #[test]
    fn percentiles_are_of_all_requests_together() {
        let grid = Grid::new(&[slice(&[1.0, 2.0], 10.0), slice(&[3.0, 4.0, 5.0], 30.0), slice(&[100.0], 20.0)]);
        let close = |found: [f64; 4], expected: [f64; 4]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}, expected {expected:?}");
        };
        close(grid.figures(&[1, 1, 1]), [3.0, 100.0, 100.0, 20.0]);
        close(grid.figures(&[2, 0, 0]), [1.0, 2.0, 2.0, 10.0]);
        close(grid.figures(&[1, 1, 0]), [3.0, 5.0, 5.0, 20.0]);
        assert!(Grid::new(&[]).figures(&[])[0].is_nan());
    }

    #[test]
    fn a_side_twice_as_slow_is_seen_and_equal_sides_are_not() {
        let a: Vec<_> = (0..20).map(|it| slice(&[10.0 + f64::from(it % 3), 11.0, 12.0], 90.0 + f64::from(it % 5))).collect();
        let b: Vec<_> = a
            .iter()
            .map(|it| Slice { latencies: it.latencies.iter().map(|it| (it.0 * 2.0, it.1)).collect(), throughput: it.throughput / 2.0 })
            .collect();
        let [p50, .., throughput] = ratios(&a, &b, &BOOTSTRAP);
        assert!(p50.ratio.is_some_and(|it| (it - 2.0).abs() < 1e-12) && p50.interval.is_some_and(|it| it.low > 1.9), "{p50:?}");
        assert!(throughput.interval.is_some_and(|it| it.high < 0.6), "{throughput:?}");
        let [p50, ..] = ratios(&a, &a, &BOOTSTRAP);
        assert_eq!(p50.interval, Some(Interval { low: 1.0, high: 1.0 }));
    }

    #[test]
    fn without_successes_there_is_no_ratio() {
        let nothing = vec![Slice::default(); 8];
        assert!(ratios(&nothing, &nothing, &BOOTSTRAP).iter().all(|it| it.ratio.is_none() && it.interval.is_none()));
    }
}
