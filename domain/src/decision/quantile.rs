//! The reported interval of a latency quantile: valid at every look, for independent requests.
//!
//! Enters: a sketch, a quantile, alpha. Leaves: bounds on bucket boundaries. Requests that share a batch are not independent, so the
//! interval is labelled i.i.d. and never decides.
//!
//! With `l(t) = (1.4 ln ln(2.1 t) + ln(10/alpha)) / t` and `f = 1.5 sqrt(p (1 - p) l(t)) + 0.8 l(t)`, the p-quantile lies between the empirical
//! quantiles at `p - f` and `p + f` for all t at once with probability 1 - alpha. Source: Howard and Ramdas, "Sequential estimation of quantiles with
//! applications to A/B testing and best-arm identification", arXiv 1906.09712, theorem 1. Where `p + f >= 1` nothing bounds it from above.

use serde::{Deserialize, Serialize};

use crate::sketch::Sketch;

/// Bounds in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyInterval {
    /// 0 where nothing bounds it from below.
    pub low_ns: u64,
    /// `None` is +infinity: too few requests to bound it.
    pub high_ns: Option<u64>,
}

/// The interval of the `p`-quantile at level `1 - alpha`.
pub fn interval(sketch: &Sketch, p: f64, alpha: f64) -> LatencyInterval {
    let count = sketch.count() as f64;
    if count < 1.0 {
        return LatencyInterval { low_ns: 0, high_ns: None };
    }
    // ln ln(2.1 t) at t = 1 is negative; the bound holds from there on.
    let l = (1.4 * libm::log(libm::log(2.1 * count)) + libm::log(10.0 / alpha)) / count;
    let f = 1.5 * (p * (1.0 - p) * l).sqrt() + 0.8 * l;
    // A bucket's upper bound is above its values: one bucket lower is below them.
    let low =
        sketch.boundary(p - f).filter(|at| p > f && *at > crate::sketch::MIN_INDEX).map_or(0, |at| crate::sketch::lower_bound(at - 1));
    LatencyInterval { low_ns: low, high_ns: sketch.quantile(p + f).filter(|it| p + f < 1.0 && *it < u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::testing::Coin;

    #[test]
    fn few_requests_leave_it_open_above() {
        let mut sketch = Sketch::default();
        assert_eq!(interval(&sketch, 0.95, 0.05), LatencyInterval { low_ns: 0, high_ns: None });
        (0..100).for_each(|i| sketch.record(1_000_000 + i));
        assert_eq!(interval(&sketch, 0.95, 0.05).high_ns, None);
        (0..10_000).for_each(|i| sketch.record(1_000_000 + i));
        let many = interval(&sketch, 0.95, 0.05);
        assert!(many.low_ns < 1_010_000 && many.high_ns.is_some_and(|it| it > 1_000_000), "{many:?}");
    }

    /// Uniform on 1..2 ms, looked at every 100 requests up to 4,000: the true p95 is outside at any look in at most 5 % of the runs.
    #[test]
    fn it_covers_at_all_looks() {
        let missed = (0..400).filter(|&run| {
            let (mut sketch, mut coin) = (Sketch::default(), Coin::new(run));
            (0..40).any(|_| {
                (0..100).for_each(|_| sketch.record(1_000_000 + coin.below(1_000_000)));
                let at = interval(&sketch, 0.95, 0.05);
                at.low_ns > 1_950_000 || at.high_ns.is_some_and(|it| it < 1_950_000)
            })
        });
        let missed = missed.count();
        assert!(missed <= 20, "{missed} of 400");
    }
}
