//! Betting on the mean of a bounded quantity: the e-process behind every guardrail but the sign test.
//!
//! Enters: gains `g >= -1` whose conditional mean is at most 0 under the null hypothesis. Leaves: the logarithm of
//! `E = sum over kappa of w prod (1 + kappa g_i)`, weights `w` in proportion to kappa. Each product is a non-negative supermartingale that starts at 1, so their mean is one and
//! `P(E ever reaches 1/alpha) <= alpha` (Ville's inequality), however often it is looked at. Never: the standard library's logarithm,
//! whose last bit may differ between machines.
//!
//! Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686: the capital process
//! (section 4), here with fixed bets mixed ("diversified Kelly betting", its appendix) instead of one adaptive bet.

use serde::{Deserialize, Serialize};

/// The parts of the capital put at stake, each by a bettor of its own, who begins with capital in proportion: large bets decide early, when
/// evidence is dear; small ones find small differences, with so much evidence that a late start does not matter.
pub const FRACTIONS: [f64; 6] = [0.05, 0.1, 0.2, 0.4, 0.65, 0.9];

/// Log capital of each bettor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bets {
    log_capital: [f64; FRACTIONS.len()],
}

impl Bets {
    /// Takes one gain; below -1 it counts as -1.
    pub fn push(&mut self, gain: f64) {
        let gain = gain.max(-1.0);
        for (capital, fraction) in self.log_capital.iter_mut().zip(FRACTIONS) {
            *capital += libm::log(1.0 + fraction * gain);
        }
    }

    /// ln E.
    pub fn log_e(&self) -> f64 {
        let most = self.log_capital.iter().copied().fold(f64::MIN, f64::max);
        let capital = self.log_capital.iter().zip(FRACTIONS).fold(0.0, |sum, (log, weight)| sum + weight * libm::exp(log - most));
        most + libm::log(capital / FRACTIONS.iter().fold(0.0, |sum, it| sum + it))
    }
}

/// ln of the mean of exponentials, summed in the order given.
pub(super) fn log_mean_exp(logs: &[f64]) -> f64 {
    let most = logs.iter().copied().fold(f64::MIN, f64::max);
    let sum = logs.iter().fold(0.0, |sum, it| sum + libm::exp(it - most));
    most + libm::log(sum / logs.len() as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::testing::Coin;

    fn bets(gains: &[f64]) -> Bets {
        let mut bets = Bets::default();
        for gain in gains {
            bets.push(*gain);
        }
        bets
    }

    proptest! {
        #[test]
        fn a_larger_gain_never_leaves_less(gains in prop::collection::vec(-1.0..4.0f64, 1..50), at in 0..50usize, more in 0.0..2.0f64) {
            let mut larger = gains.clone();
            larger[at % gains.len()] += more;
            prop_assert!(bets(&larger).log_e() >= bets(&gains).log_e());
        }

        #[test]
        fn json_keeps_every_bit(gains in prop::collection::vec(-1.0..4.0f64, 1..50)) {
            let bets = bets(&gains);
            let back: Bets = serde_json::from_str(&serde_json::to_string(&bets).unwrap()).unwrap();
            prop_assert_eq!(back.log_capital.map(f64::to_bits), bets.log_capital.map(f64::to_bits));
        }

        /// One step under any null keeps the mean of E: E after = E before x (1 + kappa g), and g averages to 0.
        #[test]
        fn a_fair_gain_keeps_the_expectation(start in prop::collection::vec(-1.0..1.0f64, 0..20), win in 0.1..5.0f64) {
            let before = bets(&start);
            let (mut up, mut down) = (before, before);
            up.push(win);
            down.push(-1.0);
            // P(up) = 1 / (1 + win) makes the mean gain 0.
            let mean = (libm::exp(up.log_e()) + win * libm::exp(down.log_e())) / (1.0 + win);
            prop_assert!((mean / libm::exp(before.log_e()) - 1.0).abs() < 1e-9);
        }
    }

    /// 2,000 fair games of 200 rounds, looked at after each: E reaches 20 in at most 5 % (100, and three standard errors).
    #[test]
    fn looking_always_costs_nothing() {
        let alarms = (0..2_000).filter(|&game| {
            let (mut bets, mut coin) = (Bets::default(), Coin::new(game));
            (0..200).any(|_| {
                bets.push(if coin.below(4) == 0 { 1.5 } else { -0.5 });
                bets.log_e() >= libm::log(20.0)
            })
        });
        let alarms = alarms.count();
        assert!((1..=129).contains(&alarms), "{alarms} of 2,000");
    }
}
