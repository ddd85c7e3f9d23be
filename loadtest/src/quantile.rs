//! `histogram_quantile`, step by step as Prometheus computes it for classic histograms (promql/quantile.go, `BucketQuantile`).
//!
//! Enters: cumulative buckets. Leaves: a number, NaN where there is none. Never: an interpolation of its own invention.

use serde::Serialize;

/// A cumulative bucket: observations up to and including `le`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bucket {
    /// Upper bound; the last one is infinite.
    pub le: f64,
    /// Observations.
    pub count: f64,
}

/// The `q`-quantile: linear within the bucket that its rank falls in, from 0 in the lowest, the second highest bound when it falls in the
/// infinite bucket. NaN without observations, without an infinite bucket, or with that bucket alone.
pub fn histogram_quantile(q: f64, buckets: &[Bucket]) -> f64 {
    let buckets = prepared(buckets);
    match q {
        _ if q.is_nan() => return f64::NAN,
        _ if q < 0.0 => return f64::NEG_INFINITY,
        _ if q > 1.0 => return f64::INFINITY,
        _ => {}
    }
    let [finite @ .., last] = buckets.as_slice() else { return f64::NAN };
    let Some(highest) = finite.last().filter(|_| last.le == f64::INFINITY && last.count > 0.0) else { return f64::NAN };
    let mut rank = q * last.count;
    let Some(at) = finite.iter().position(|it| it.count >= rank) else { return highest.le };
    let end = finite[at].le;
    if at == 0 && end <= 0.0 {
        return end;
    }
    let (mut start, mut count) = (0.0, finite[at].count);
    if let Some(before) = at.checked_sub(1).map(|it| finite[it]) {
        start = before.le;
        count -= before.count;
        rank -= before.count;
    }
    start + (end - start) * (rank / count)
}

/// Sorted, equal bounds added, counts never falling.
fn prepared(buckets: &[Bucket]) -> Vec<Bucket> {
    let mut sorted = buckets.to_vec();
    sorted.sort_by(|a, b| a.le.total_cmp(&b.le));
    let mut out: Vec<Bucket> = Vec::with_capacity(sorted.len());
    for bucket in sorted {
        match out.last_mut() {
            Some(last) if last.le.total_cmp(&bucket.le).is_eq() => last.count += bucket.count,
            _ => out.push(bucket),
        }
    }
    let mut most = 0.0_f64;
    for bucket in &mut out {
        most = most.max(bucket.count);
        bucket.count = most;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    fn at(q: f64, buckets: &[(f64, f64)]) -> f64 {
        let buckets: Vec<_> = buckets.iter().map(|&(le, count)| Bucket { le, count }).collect();
        histogram_quantile(q, &buckets)
    }

    #[test]
    fn it_interpolates_as_computed_by_hand() {
        let check = |q: f64, expected: f64| {
            let found = at(q, &[(1.0, 10.0), (2.0, 30.0), (4.0, 90.0), (INF, 100.0)]);
            assert!((found - expected).abs() < 1e-12, "{q}: {found}, expected {expected}");
        };
        check(0.05, 0.5); // rank 5 of 10 in (0, 1]
        check(0.1, 1.0); // rank 10: the first bucket holds it whole
        check(0.2, 1.5); // rank 20: 10 of 20 in (1, 2]
        check(0.5, 2.0 + 2.0 * 20.0 / 60.0); // rank 50: 20 of 60 in (2, 4]
        check(0.95, 4.0); // rank 95: in the infinite bucket, so the highest bound
        check(0.0, 0.0);
    }

    #[test]
    fn edges_are_those_of_prometheus() {
        assert!(at(0.5, &[]).is_nan());
        assert!(at(0.5, &[(INF, 5.0)]).is_nan(), "one bucket alone");
        assert!(at(0.5, &[(1.0, 0.0), (INF, 0.0)]).is_nan(), "nothing observed");
        assert!(at(0.5, &[(1.0, 5.0), (2.0, 5.0)]).is_nan(), "no infinite bucket");
        assert!(at(f64::NAN, &[(1.0, 5.0), (INF, 5.0)]).is_nan());
        assert_eq!((at(-0.1, &[(1.0, 5.0), (INF, 5.0)]), at(1.1, &[(1.0, 5.0), (INF, 5.0)])), (-INF, INF));
        assert_eq!(at(0.5, &[(-1.0, 5.0), (INF, 5.0)]).to_bits(), (-1.0_f64).to_bits(), "a lowest bound below 0 is itself the answer");
    }

    #[test]
    fn order_repeats_and_falling_counts_are_repaired() {
        let plain = at(0.5, &[(1.0, 4.0), (2.0, 8.0), (INF, 8.0)]);
        assert_eq!(at(0.5, &[(INF, 8.0), (2.0, 8.0), (1.0, 4.0)]).to_bits(), plain.to_bits());
        assert_eq!(at(0.5, &[(1.0, 2.0), (1.0, 2.0), (2.0, 8.0), (INF, 8.0)]).to_bits(), plain.to_bits());
        assert_eq!(at(0.5, &[(1.0, 4.0), (2.0, 8.0), (INF, 7.0)]).to_bits(), plain.to_bits());
    }
}
