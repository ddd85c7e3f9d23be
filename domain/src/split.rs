//! Which arm of an experiment a request meets.
//!
//! Enters: a salt, a unit, the shares. Leaves: an [`Arm`]. A unit's bucket is `xxh3_64(salt ‖ 0x00 ‖ unit)` into 1,000,000 buckets; the
//! canary takes buckets from the bottom, the control lane from the top, so growing either only ever adds units to it. Never: state.

use xxhash_rust::xxh3::xxh3_64;

use crate::vocabulary::Arm;

/// Number of buckets; a share of one bucket is one part in a million.
pub const BUCKETS: u32 = 1_000_000;

/// How traffic on one model is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Parts in a million on the canary.
    pub canary_ppm: u32,
    /// Parts in a million on the baseline in the control lane.
    pub control_ppm: u32,
}

/// The bucket of a unit, in `0..BUCKETS`.
pub fn bucket(salt: &str, unit: &[u8]) -> u32 {
    let mut bytes = Vec::with_capacity(salt.len() + 1 + unit.len());
    bytes.extend_from_slice(salt.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(unit);
    // Multiply-shift: every bucket gets 2^64 / 10^6 of the hashes, to one part in 10^13.
    ((u128::from(xxh3_64(&bytes)) * u128::from(BUCKETS)) >> 64) as u32
}

/// The arm of a bucket. Where the shares overlap the canary wins.
pub fn arm(bucket: u32, shares: Shares) -> Arm {
    if bucket < shares.canary_ppm {
        Arm::Canary
    } else if bucket >= BUCKETS.saturating_sub(shares.control_ppm) {
        Arm::Control
    } else {
        Arm::Baseline
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_split_is_within_binomial_bounds() {
        let canary = (0..200_000u32).filter(|it| bucket("exp-1", &it.to_le_bytes()) < 50_000).count() as f64;
        let (mean, sigma) = (10_000.0, (200_000.0 * 0.05 * 0.95f64).sqrt());
        assert!((canary - mean).abs() < 5.0 * sigma, "{canary} of 200,000 at 5 %");
    }

    proptest! {
        #[test]
        fn growth_never_takes_a_unit_from_the_canary(unit in prop::collection::vec(any::<u8>(), 0..32), small in 0..BUCKETS, more in 0..BUCKETS) {
            let at = |ppm| arm(bucket("s", &unit), Shares { canary_ppm: ppm, control_ppm: 0 });
            let large = (small + more).min(BUCKETS);
            prop_assert!(at(small) != Arm::Canary || at(large) == Arm::Canary);
        }
    }
}
