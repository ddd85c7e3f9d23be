//! Are counts split as they should be? The sequential multinomial test.
//!
//! Enters: counts a category and the shares they should have. Leaves: ln of a Bayes factor, an e-process for "independent, with these shares".
//! Never: a verdict on dependent counts; whoever cannot vouch for independence may report it, not act on it.
//!
//! `E = Γ(A)/Γ(A + n) prod Γ(a_i + n_i)/Γ(a_i) theta_i^(-n_i)` with a Dirichlet prior centred on the null, `a_i = K theta_i`, `A = K`. Source:
//! Lindon and Malek, "Anytime-valid inference for multinomial count data", arXiv 2011.03567, section 3.

/// Weight of the prior: deviations of about `1/sqrt(K)` are expected.
const CONCENTRATION: f64 = 100.0;

/// ln E of `counts` against `shares`, which sum to 1. A count where the share is 0 cannot be: infinitely strong evidence, given as `f64::MAX`.
pub fn log_e(counts: &[u64], shares: &[f64]) -> f64 {
    let total = counts.iter().fold(0.0, |sum, it| sum + *it as f64);
    let mut log_e = libm::lgamma(CONCENTRATION) - libm::lgamma(CONCENTRATION + total);
    for (count, share) in counts.iter().zip(shares).filter(|it| *it.0 > 0) {
        if *share <= 0.0 {
            return f64::MAX;
        }
        let (count, prior) = (*count as f64, CONCENTRATION * share);
        log_e += libm::lgamma(prior + count) - libm::lgamma(prior) - count * libm::log(*share);
    }
    log_e
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::testing::Coin;

    const SHARES: [f64; 3] = [0.05, 0.05, 0.9];

    proptest! {
        #[test]
        fn the_null_keeps_the_expectation(counts in prop::array::uniform3(0..2_000u64)) {
            let mean: f64 = (0..3).map(|i| { let mut next = counts; next[i] += 1; SHARES[i] * libm::exp(log_e(&next, &SHARES) - log_e(&counts, &SHARES)) }).sum();
            prop_assert!((mean - 1.0).abs() < 1e-6, "{}", mean);
        }
    }

    #[test]
    fn a_lane_that_loses_a_fifth_of_its_units_is_seen_and_a_fair_split_is_not() {
        let split = |lost: bool, seed: u64| {
            let (mut counts, mut coin) = ([0; 3], Coin::new(seed));
            (0..40).any(|_| {
                for _ in 0..1_000 {
                    match coin.below(100) {
                        0..5 if lost && coin.below(5) == 0 => {}
                        0..5 => counts[0] += 1,
                        5..10 => counts[1] += 1,
                        _ => counts[2] += 1,
                    }
                }
                log_e(&counts, &SHARES) >= libm::log(100.0)
            })
        };
        let seen = |lost| (0..200).filter(|it| split(lost, *it)).count();
        assert!(seen(true) >= 190 && seen(false) <= 6, "{} and {}", seen(true), seen(false));
    }

    #[test]
    fn a_unit_where_none_can_be_is_proof() {
        assert!(log_e(&[10, 10, 1], &[0.5, 0.5, 0.0]) > 1e300);
        assert!(log_e(&[10, 10, 0], &[0.5, 0.5, 0.0]) < 0.0);
    }
}
