//! The paired sign test: of the probes, how many found the canary slower than the margin allows?
//!
//! Enters: one bit a probe, 1 when `T_c > (1 + margin) T_b`. Leaves: ln E in both directions. Only the order of two times counts, so
//! neither the distribution of times nor their drift matters. Never: a probe's size.
//!
//! `E = mean over p of prod (2p)^s (2 - 2p)^(1 - s)`: the likelihood ratio of P(s = 1) = p against 1/2, mixed. With every p below 1/2 it is
//! an e-process for "P(s = 1 | past) >= 1/2" (not within the margin); with every p above, for "<= 1/2" (within it). Source: Robbins,
//! "Statistical methods related to the law of the iterated logarithm" (Annals of Mathematical Statistics 41, 1970) for the mixture; Ville, 1939,
//! for the bound 1/alpha.

use serde::{Deserialize, Serialize};

use super::bets::log_mean_exp;

/// Probabilities of the lesser side that are mixed.
const LESSER: [f64; 7] = [0.02, 0.1, 0.2, 0.3, 0.36, 0.41, 0.45];

/// What the probes said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signs {
    /// Probes in which the canary was slower than the margin allows.
    pub slower: u64,
    /// All probes.
    pub probes: u64,
}

impl Signs {
    /// Takes one probe.
    pub fn push(&mut self, slower: bool) {
        self.slower += u64::from(slower);
        self.probes += 1;
    }

    /// ln E against "within the margin".
    pub fn log_e_slower(self) -> f64 {
        mixture(self.probes - self.slower, self.slower)
    }

    /// ln E against "not within the margin".
    pub fn log_e_within(self) -> f64 {
        mixture(self.slower, self.probes - self.slower)
    }
}

fn mixture(lesser: u64, greater: u64) -> f64 {
    log_mean_exp(&LESSER.map(|p| lesser as f64 * libm::log(2.0 * p) + greater as f64 * libm::log(2.0 - 2.0 * p)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::testing::Coin;

    #[test]
    fn ten_of_ten_convince() {
        let check = |slower: u64, probes: u64, expected: [bool; 2]| {
            let signs = Signs { slower, probes };
            assert_eq!([signs.log_e_within(), signs.log_e_slower()].map(|it| it >= libm::log(20.0)), expected, "{slower} of {probes}");
        };
        check(0, 8, [true, false]);
        check(8, 8, [false, true]);
        check(5, 10, [false, false]);
        check(500, 1_000, [false, false]);
        check(430, 1_000, [true, false]);
    }

    proptest! {
        #[test]
        fn a_fair_coin_keeps_the_expectation(slower in 0..60u64, faster in 0..60u64) {
            let signs = |s, f| Signs { slower: s, probes: s + f };
            for log_e in [Signs::log_e_within, Signs::log_e_slower] {
                let next = f64::midpoint(libm::exp(log_e(signs(slower + 1, faster))), libm::exp(log_e(signs(slower, faster + 1))));
                prop_assert!((next / libm::exp(log_e(signs(slower, faster))) - 1.0).abs() < 1e-9);
            }
        }

        #[test]
        fn one_more_slow_probe_speaks_for_slow(slower in 0..500u64, faster in 1..500u64) {
            let (a, b) = (Signs { slower, probes: slower + faster }, Signs { slower: slower + 1, probes: slower + faster });
            prop_assert!(b.log_e_slower() > a.log_e_slower() && b.log_e_within() < a.log_e_within());
        }
    }

    /// Exactly at the margin a probe is slower half the time: 2,000 runs of 300 probes, looked at after each.
    #[test]
    fn at_the_margin_it_is_wrong_in_at_most_5_percent() {
        let wrong = |log_e: fn(Signs) -> f64, seed: u64| {
            let runs = (0..2_000).filter(|&run| {
                let (mut signs, mut coin) = (Signs::default(), Coin::new(seed + run));
                (0..300).any(|_| {
                    signs.push(coin.below(2) == 0);
                    log_e(signs) >= libm::log(20.0)
                })
            });
            runs.count()
        };
        for wrong in [wrong(Signs::log_e_within, 0), wrong(Signs::log_e_slower, 10_000)] {
            assert!((1..=129).contains(&wrong), "{wrong} of 2,000");
        }
    }
}
