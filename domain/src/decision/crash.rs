//! Are sidecars that serve the canary lost faster than others?
//!
//! Enters: sidecars lost and time served, with and without the canary. Leaves: ln E. Never: a request.
//!
//! Given that a sidecar is lost, it is one with the canary with probability `theta` = its part of the sidecar-seconds, if the canary does not matter.
//! `E = mean over p > theta of prod (p/theta)^c ((1-p)/(1-theta))^k` is then an e-process (Ville). Where every sidecar serves the canary there
//! is nothing to compare with, and a count decides.

use serde::{Deserialize, Serialize};

use super::bets::log_mean_exp;
use super::look::Crashes;

/// How far towards 1 from `theta` the mixed probabilities lie.
const TOWARDS: [f64; 4] = [0.3, 0.6, 0.8, 0.95];

/// Sidecars lost in a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CrashTest {
    log_likelihoods: [f64; TOWARDS.len()],
    /// With the canary.
    pub canary: u64,
    /// Without it.
    pub control: u64,
    /// With the canary while none without it could be compared with.
    pub alone: u64,
}

impl CrashTest {
    /// Takes a look's losses.
    pub fn push(&mut self, look: Crashes) {
        self.canary += look.canary;
        self.control += look.control;
        let theta = look.canary_seconds as f64 / (look.canary_seconds + look.control_seconds).max(1) as f64;
        if look.control_seconds == 0 || theta <= 0.0 {
            self.alone += look.canary;
            return;
        }
        for (log, towards) in self.log_likelihoods.iter_mut().zip(TOWARDS) {
            let p = theta + towards * (1.0 - theta);
            *log += look.canary as f64 * libm::log(p / theta) + look.control as f64 * libm::log((1.0 - p) / (1.0 - theta));
        }
    }

    /// ln E.
    pub fn log_e(&self) -> f64 {
        log_mean_exp(&self.log_likelihoods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_losses_of_the_canary_not_losses() {
        let after = |canary, control| {
            let mut test = CrashTest::default();
            (0..8).for_each(|_| test.push(Crashes { canary, canary_seconds: 100, control, control_seconds: 100 }));
            test.log_e()
        };
        assert!(after(1, 0) > libm::log(50.0) && after(1, 1) < 0.0 && after(0, 1) < 0.0);
    }

    #[test]
    fn without_a_comparison_only_the_count_speaks() {
        let mut test = CrashTest::default();
        test.push(Crashes { canary: 2, canary_seconds: 100, control: 0, control_seconds: 0 });
        assert_eq!((test.alone, test.log_e()), (2, 0.0));
    }
}
