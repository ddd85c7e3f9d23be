//! Confidence intervals by resampling blocks.
//!
//! Enters: how many blocks there are and a statistic of how often each is taken. Leaves: an interval of each figure. Never: single requests
//! as if they were independent: requests of one slice share its weather.
//!
//! Method: non-overlapping block bootstrap (Carlstein: The Use of Subseries Values for Estimating the Variance of a General Statistic from
//! a Stationary Sequence, Annals of Statistics 14, 1986) with the percentile interval (Efron, Tibshirani: An Introduction to the
//! Bootstrap, 1993, chapter 13).

use serde::Serialize;

use crate::random::Random;

/// Bounds of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each field is its own name")]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Times.
    pub resamples: u32,
    /// Of the interval, e.g. 0.95.
    pub level: f64,
    /// Of the draws.
    pub seed: u64,
}

impl Bootstrap {
    /// Draws `blocks` blocks with replacement, `resamples` times, and takes the middle `level` of each figure of `statistic`, which is told
    /// how often each block was drawn. `None` with fewer than 5 blocks or where over a tenth of the draws gave no finite figure.
    pub fn intervals<const N: usize>(&self, blocks: usize, mut statistic: impl FnMut(&[u32]) -> [f64; N]) -> [Option<Interval>; N] {
        let mut seen: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(self.resamples as usize));
        if blocks < 5 {
            return [None; N];
        }
        let (mut random, mut times) = (Random::new(self.seed, 0), vec![0; blocks]);
        for _ in 0..self.resamples {
            times.fill(0);
            for _ in 0..blocks {
                times[random.below(blocks as u64) as usize] += 1;
            }
            for (figures, figure) in seen.iter_mut().zip(statistic(&times)) {
                figures.extend(Some(figure).filter(|it| it.is_finite()));
            }
        }
        seen.map(|figures| self.middle(figures))
    }

    fn middle(&self, mut figures: Vec<f64>) -> Option<Interval> {
        if (figures.len() as f64) < 0.9 * f64::from(self.resamples) {
            return None;
        }
        figures.sort_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        let last = figures.len().checked_sub(1)?;
        let at = |part: f64| figures[(part * last as f64).round() as usize];
        Some(Interval { low: at(tail), high: at(1.0 - tail) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Bootstrap = Bootstrap { resamples: 400, level: 0.95, seed: 1 };

    /// Roughly normal: the sum of twelve uniform numbers.
    fn normal(random: &mut Random) -> f64 {
        (0..12).map(|_| random.below(1 << 32) as f64 / f64::from(u32::MAX)).sum::<f64>() - 6.0
    }

    fn ratio(times: &[u32], pairs: &[(f64, f64)]) -> [f64; 1] {
        let sum = |side: fn(&(f64, f64)) -> f64| -> f64 { times.iter().zip(pairs).map(|(n, it)| f64::from(*n) * side(it)).sum() };
        [sum(|it| it.1) / sum(|it| it.0)]
    }

    /// 300 experiments of 40 blocks whose true ratio is 1.1, with drift that both sides share: about 95 % of the intervals contain it.
    #[test]
    fn intervals_cover_the_truth_about_as_often_as_they_say() {
        let covered = (0..300).filter(|&experiment| {
            let mut random = Random::new(7, experiment);
            let pairs: Vec<(f64, f64)> = (0..40)
                .map(|_| {
                    let weather = 10.0 + normal(&mut random);
                    (weather + 0.3 * normal(&mut random), 1.1 * weather + 0.3 * normal(&mut random))
                })
                .collect();
            let [interval] = PLAN.intervals(pairs.len(), |times| ratio(times, &pairs));
            interval.is_some_and(|it| it.low <= 1.1 && 1.1 <= it.high)
        });
        let covered = covered.count();
        assert!((270..=296).contains(&covered), "{covered} of 300");
    }

    #[test]
    fn a_seed_fixes_an_interval() {
        let pairs: Vec<(f64, f64)> = (1..=9_u8).map(|it| (1.0, f64::from(it).sqrt())).collect();
        let of = |plan: Bootstrap| plan.intervals(9, |times| ratio(times, &pairs))[0];
        assert_eq!(of(PLAN), of(PLAN));
        assert_ne!(of(PLAN), of(Bootstrap { seed: 2, ..PLAN }));
        assert!(of(PLAN).is_some_and(|it| it.low < 2.1 && 2.1 < it.high));
    }

    #[test]
    fn there_is_no_interval_of_too_little() {
        assert_eq!(PLAN.intervals(4, |_| [1.0]), [None]);
        assert_eq!(PLAN.intervals(9, |_| [f64::NAN, 2.0]), [None, Some(Interval { low: 2.0, high: 2.0 })]);
    }
}
