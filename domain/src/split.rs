//! Which arm of an experiment a request meets.
//!
//! Enters: a salt, a unit, the shares. Leaves: an [`Arm`]. A unit's bucket is `xxh3_64(salt ‖ 0x00 ‖ unit)` into 1,000,000 buckets; the
//! canary takes buckets from the bottom, the control lane from the top, so growing either only ever adds units to it. The canary's sample is the
//! bottom of its buckets: its units stay on the canary whatever becomes of the sample. Never: state.

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
    /// Parts in a million, of the canary's, in a lane of their own.
    pub canary_sample_ppm: u32,
}

/// The bucket of a unit, in `0..BUCKETS`.
pub fn bucket(salt: &str, unit: &[u8]) -> u32 {
    bucket_of(unit_hash(salt, unit))
}

/// What a unit is known by: its hash under the experiment's salt.
pub fn unit_hash(salt: &str, unit: &[u8]) -> u64 {
    let mut bytes = Vec::with_capacity(salt.len() + 1 + unit.len());
    bytes.extend_from_slice(salt.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(unit);
    xxh3_64(&bytes)
}

/// The bucket of a unit's hash.
pub fn bucket_of(hash: u64) -> u32 {
    // Multiply-shift: every bucket gets 2^64 / 10^6 of the hashes, to one part in 10^13.
    ((u128::from(hash) * u128::from(BUCKETS)) >> 64) as u32
}

/// The arm of a bucket. Where the shares overlap the canary wins.
pub fn arm(bucket: u32, shares: Shares) -> Arm {
    if bucket < shares.canary_sample_ppm.min(shares.canary_ppm) {
        Arm::CanarySample
    } else if bucket < shares.canary_ppm {
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

    /// Within five standard deviations of what a fair draw of a million units gives each arm.
    fn check_split(salt: &str, shares: Shares, expected: &[(Arm, f64)]) {
        let mut counts = std::collections::BTreeMap::<Arm, u32>::new();
        for unit in 0..1_000_000u32 {
            *counts.entry(arm(bucket(salt, format!("user-{unit}").as_bytes()), shares)).or_default() += 1;
        }
        for (arm, p) in expected {
            let (got, sigma) = (f64::from(counts.get(arm).copied().unwrap_or(0)), (1e6 * p * (1.0 - p)).sqrt());
            assert!((got - 1e6 * p).abs() <= 5.0 * sigma, "{got} of 1,000,000 in `{arm}` at {p}, salt `{salt}`");
        }
    }

    #[test]
    fn a_million_units_are_split_within_binomial_bounds() {
        let small = Shares { canary_ppm: 50_000, control_ppm: 50_000, canary_sample_ppm: 0 };
        let held_back = Shares { canary_ppm: 950_000, control_ppm: 0, canary_sample_ppm: 50_000 };
        for salt in ["exp-1", "exp-2"] {
            check_split(salt, small, &[(Arm::Canary, 0.05), (Arm::Control, 0.05), (Arm::Baseline, 0.9), (Arm::CanarySample, 0.0)]);
            check_split(salt, held_back, &[(Arm::Canary, 0.9), (Arm::CanarySample, 0.05), (Arm::Baseline, 0.05), (Arm::Control, 0.0)]);
        }
    }

    proptest! {
        #[test]
        fn growth_never_takes_a_unit_from_the_canary(unit in prop::collection::vec(any::<u8>(), 0..32), small in 0..BUCKETS, more in 0..BUCKETS) {
            let at = |ppm| arm(bucket("s", &unit), Shares { canary_ppm: ppm, control_ppm: 0, canary_sample_ppm: 0 });
            let large = (small + more).min(BUCKETS);
            prop_assert!(at(small) != Arm::Canary || at(large) == Arm::Canary);
        }

        #[test]
        fn a_rollout_never_moves_a_unit_back(unit in prop::collection::vec(any::<u8>(), 0..32), salt in ".{0,8}") {
            let phases = [(50_000, 50_000, 0), (250_000, 250_000, 0), (500_000, 0, 0), (950_000, 0, 50_000), (1_000_000, 0, 0)];
            let on_canary = |(canary_ppm, control_ppm, canary_sample_ppm)| {
                let shares = Shares { canary_ppm, control_ppm, canary_sample_ppm };
                matches!(arm(bucket(&salt, &unit), shares), Arm::Canary | Arm::CanarySample)
            };
            let served: Vec<bool> = phases.into_iter().map(on_canary).collect();
            prop_assert!(served.is_sorted(), "{:?}", served);
        }
    }
}
