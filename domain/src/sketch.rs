//! A latency histogram that merges exactly: sparse exponential buckets as in OpenTelemetry's data model, scale 6 fixed.
//!
//! Enters: durations in nanoseconds. Leaves: counts per bucket. Bucket `i` holds values in `(2^(i/64), 2^((i+1)/64)]` seconds
//! (~1.1 % wide) for i in -896..384, that is 61 us to 64 s; anything outside is counted as under- or overflow. Never: a lossy merge.
//!
//! Source: OpenTelemetry metrics data model, "Exponential Histogram".

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// Buckets a doubling of the value.
pub const PER_DOUBLING: i32 = 64;
/// Lowest bucket.
pub const MIN_INDEX: i32 = -14 * PER_DOUBLING;
/// One past the highest bucket.
pub const END_INDEX: i32 = 6 * PER_DOUBLING;

/// Upper bounds in nanoseconds of the values below bucket `MIN_INDEX + i`; as integers, so that every machine agrees.
static BOUNDS: LazyLock<Vec<u64>> =
    LazyLock::new(|| (MIN_INDEX..=END_INDEX).map(|i| (f64::from(i) / f64::from(PER_DOUBLING)).exp2().mul_add(1e9, 0.5) as u64).collect());

/// A sparse histogram of durations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    /// Bucket index -> count; no zero counts.
    pub buckets: BTreeMap<i32, u64>,
    /// Values of at most 61 us.
    pub underflow: u64,
    /// Values above 64 s.
    pub overflow: u64,
    /// Sum of all values, ns.
    pub sum_ns: u64,
}

impl Sketch {
    /// Adds one value.
    pub fn record(&mut self, nanos: u64) {
        self.sum_ns = self.sum_ns.saturating_add(nanos);
        match bucket_of(nanos) {
            Place::Under => self.underflow += 1,
            Place::Over => self.overflow += 1,
            Place::Bucket(i) => *self.buckets.entry(i).or_default() += 1,
        }
    }

    /// Adds everything another sketch holds.
    pub fn merge(&mut self, other: &Self) {
        for (i, n) in &other.buckets {
            *self.buckets.entry(*i).or_default() += n;
        }
        self.underflow += other.underflow;
        self.overflow += other.overflow;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.underflow + self.overflow + self.buckets.values().sum::<u64>()
    }

    /// Number of values above the lower bound of bucket `index`: exact, for a threshold on a bucket boundary.
    pub fn count_above(&self, index: i32) -> u64 {
        self.overflow + self.buckets.range(index..).map(|(_, n)| n).sum::<u64>()
    }

    /// The upper bound, ns, of the bucket that holds the `q`-quantile (nearest rank); `None` when empty, `u64::MAX` in the overflow.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        self.boundary(q).map(|at| if at > END_INDEX { u64::MAX } else { lower_bound(at) })
    }

    /// The index of the lowest bucket boundary at or above the `q`-quantile (nearest rank); `None` when empty, past [`END_INDEX`] in the overflow.
    pub fn boundary(&self, q: f64) -> Option<i32> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = self.underflow;
        if seen >= rank {
            return Some(MIN_INDEX);
        }
        for (i, n) in &self.buckets {
            seen += n;
            if seen >= rank {
                return Some(i + 1);
            }
        }
        Some(END_INDEX + 1)
    }
}

/// The value, ns, above which bucket `index` begins.
pub fn lower_bound(index: i32) -> u64 {
    BOUNDS[(index.clamp(MIN_INDEX, END_INDEX) - MIN_INDEX) as usize]
}

/// The bucket of a value, for whoever counts into an array: `MIN_INDEX - 1` below all buckets, `END_INDEX` above them.
pub fn index_of(nanos: u64) -> i32 {
    MIN_INDEX + bounds_below(nanos) as i32 - 1
}

/// Values with the same exponent and the same next bits lie in one cell, narrower than a bucket: a search begins there.
const CELL_BITS: u32 = 7;
/// Exponent of the first cell; all below is underflow.
const FIRST_EXPONENT: u32 = 15;
/// Exponents with cells; all above is overflow.
const EXPONENTS: u32 = 21;

/// Bounds below the least value of each cell.
static CELLS: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let least = |cell: u64| ((1 << CELL_BITS) + cell % (1 << CELL_BITS)) << (FIRST_EXPONENT - CELL_BITS + (cell >> CELL_BITS) as u32);
    (0..u64::from(EXPONENTS) << CELL_BITS).map(|cell| BOUNDS.partition_point(|bound| *bound < least(cell)) as u16).collect()
});

/// How many bounds are below a value.
fn bounds_below(nanos: u64) -> usize {
    let exponent = (nanos | 1).ilog2();
    if exponent < FIRST_EXPONENT {
        return 0;
    }
    let cell = ((exponent - FIRST_EXPONENT) << CELL_BITS) as usize + ((nanos >> (exponent - CELL_BITS)) & ((1 << CELL_BITS) - 1)) as usize;
    let bounds = BOUNDS.as_slice();
    let mut at = CELLS.get(cell).map_or(bounds.len(), |it| usize::from(*it));
    while at < bounds.len() && bounds[at] < nanos {
        at += 1;
    }
    at
}

enum Place {
    Under,
    Bucket(i32),
    Over,
}

fn bucket_of(nanos: u64) -> Place {
    match bounds_below(nanos) {
        0 => Place::Under,
        n if n == BOUNDS.len() => Place::Over,
        n => Place::Bucket(MIN_INDEX + n as i32 - 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch_of(values: &[u64]) -> Sketch {
        let mut sketch = Sketch::default();
        for value in values {
            sketch.record(*value);
        }
        sketch
    }

    #[test]
    fn the_range_is_61_us_to_64_s() {
        assert_eq!((lower_bound(MIN_INDEX), lower_bound(0), lower_bound(END_INDEX)), (61_035, 1_000_000_000, 64_000_000_000));
        let mut sketch = Sketch::default();
        for nanos in [0, 61_035, 61_036, 64_000_000_000, 64_000_000_001] {
            sketch.record(nanos);
        }
        assert_eq!((sketch.underflow, sketch.overflow, sketch.count()), (2, 1, 5));
        assert_eq!(sketch.buckets.keys().copied().collect::<Vec<_>>(), [MIN_INDEX, END_INDEX - 1]);
    }

    proptest! {
        #[test]
        fn a_value_is_found_where_a_search_finds_it(nanos in 0..140_000_000_000u64, at in 0..BOUNDS.len(), by in 0..3u64) {
            for nanos in [nanos, nanos >> 8, nanos >> 16, BOUNDS[at] + by - 1] {
                prop_assert_eq!(bounds_below(nanos), BOUNDS.partition_point(|bound| *bound < nanos), "{}", nanos);
            }
        }

        #[test]
        fn a_merge_equals_recording_everything_in_one(a in prop::collection::vec(0..100_000_000_000u64, 0..60), b in prop::collection::vec(0..100_000_000_000u64, 0..60)) {
            let mut merged = sketch_of(&a);
            merged.merge(&sketch_of(&b));
            prop_assert_eq!(merged, sketch_of(&[a, b].concat()));
        }

        #[test]
        fn a_quantile_is_at_most_1_1_percent_above_the_value(mut values in prop::collection::vec(62_000..60_000_000_000u64, 1..200), q in 0.0..1.0f64) {
            let sketch = sketch_of(&values);
            values.sort_unstable();
            let exact = values[((q * values.len() as f64).ceil() as usize).max(1) - 1];
            let got = sketch.quantile(q).unwrap();
            prop_assert!(got >= exact && got as f64 <= exact as f64 * 1.011 + 1.0, "{} for {}", got, exact);
        }

        #[test]
        fn a_threshold_on_a_boundary_counts_exactly(values in prop::collection::vec(0..100_000_000_000u64, 0..100), index in MIN_INDEX..END_INDEX) {
            let sketch = sketch_of(&values);
            prop_assert_eq!(sketch.count_above(index), values.iter().filter(|v| **v > lower_bound(index)).count() as u64);
        }
    }
}
