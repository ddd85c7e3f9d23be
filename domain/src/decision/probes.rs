//! What paired probes prove: speed, cost and quality.
//!
//! Enters: probes, margins. Leaves: ln E of each test in both directions, and the figures beside it. Never: a time that users saw; both
//! engines met the same tensors, so queues and batch mates cancel out.
//!
//! - Speed: the sign test of [`super::signs`].
//! - Cost: bets on `d = price_ratio T_c - (1 + margin) T_b`, over a scale known before the probe (twice the mean of `|d|` so far) and clipped to
//!   -1..1. At the margin the two terms are exchangeable, so `d` is symmetric and clipping leaves its mean at 0. Large batches weigh as much
//!   as they cost.
//! - Quality: bets on a loss in 0..1 against its margin (Waudby-Smith and Ramdas): 1 - recall@10, and 1 - cosine cut at ten margins. The cut
//!   says: a mean over texts is judged, and one text counts for at most ten margins.

use serde::{Deserialize, Serialize};

use super::bets::Bets;
use super::config::Margins;
use super::look::Probe;
use super::signs::Signs;

/// Probes that only set the scale of the cost bets.
const SCALE_PROBES: u64 = 10;
/// Margins at which a cosine loss is cut.
const CUT: f64 = 10.0;

/// All that probes of one stage have shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeTests {
    /// Order of the two times.
    pub speed: Signs,
    /// Sum of `ln(T_c / T_b)`.
    log_ratios: f64,
    /// Sum of the canary's engine time, s.
    canary_s: f64,
    /// Sum of the baseline's engine time, s.
    baseline_s: f64,
    /// Cost.
    pub cost: Cost,
    /// 1 - cosine.
    pub cosine: Loss,
    /// 1 - recall@10.
    pub recall: Loss,
}

/// Bets on a difference of costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Against "within the margin".
    pub worse: Bets,
    /// Against "not within the margin".
    pub within: Bets,
    /// Sum of |d|, s.
    size: f64,
}

/// Bets on a mean loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Against "at most the margin".
    pub worse: Bets,
    /// Against "at least the margin".
    pub within: Bets,
    sum: f64,
}

impl ProbeTests {
    /// Takes one probe.
    pub fn push(&mut self, probe: Probe, margins: &Margins) {
        let (canary, baseline) = (probe.canary_ns.max(1) as f64 / 1e9, probe.baseline_ns.max(1) as f64 / 1e9);
        let before = self.speed.probes;
        self.speed.push(canary > (1.0 + margins.speed) * baseline);
        self.log_ratios += libm::log(canary / baseline);
        self.canary_s += canary;
        self.baseline_s += baseline;
        self.cost.push(margins.price_ratio * canary - (1.0 + margins.cost) * baseline, before);
        self.cosine.push(1.0 - probe.cosine, margins.cosine, CUT * margins.cosine);
        self.recall.push(1.0 - probe.recall, margins.recall, 1.0);
    }

    /// Probes so far.
    pub fn count(&self) -> u64 {
        self.speed.probes
    }

    /// Geometric mean of `T_c / T_b`.
    pub fn time_ratio(&self) -> Option<f64> {
        (self.count() > 0).then(|| libm::exp(self.log_ratios / self.count() as f64))
    }

    /// The canary's engine time over the baseline's, for the same work.
    pub fn work_ratio(&self) -> Option<f64> {
        (self.baseline_s > 0.0).then(|| self.canary_s / self.baseline_s)
    }

    /// Mean of a loss, cut as the test cuts it.
    pub fn mean(&self, loss: &Loss) -> Option<f64> {
        (self.count() > 0).then(|| loss.sum / self.count() as f64)
    }
}

impl Cost {
    fn push(&mut self, difference: f64, before: u64) {
        if before >= SCALE_PROBES && self.size > 0.0 {
            let gain = (difference * before as f64 / (2.0 * self.size)).clamp(-1.0, 1.0);
            self.worse.push(gain);
            self.within.push(-gain);
        }
        self.size += difference.abs();
    }
}

impl Loss {
    /// A loss that is not a number is the largest one.
    fn push(&mut self, loss: f64, margin: f64, most: f64) {
        let loss = if loss <= most { loss.max(0.0) } else { most };
        self.sum += loss;
        // In units of the largest loss x in 0..1 and its null m: 1 + kappa (x - m)/m, and 1 + kappa (m - x)/(1 - m).
        let (x, m) = (loss / most, margin / most);
        self.worse.push((x - m) / m);
        self.within.push((m - x) / (1.0 - m));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::testing::Coin;

    fn noisy(coin: &mut Coin, spread: f64) -> f64 {
        libm::exp(spread * ((0..12).map(|_| coin.unit()).sum::<f64>() - 6.0)) * if coin.below(50) == 0 { 4.0 } else { 1.0 }
    }

    fn probe(coin: &mut Coin, ratio: f64, spread: f64) -> Probe {
        let work = 1e6 * (1.0 + 30.0 * coin.unit());
        let times = [ratio, 1.0].map(|it| (it * work * noisy(coin, spread)) as u64);
        Probe { canary_ns: times[0], baseline_ns: times[1], cosine: 0.9999, recall: 0.99 }
    }

    /// Which of (speed, cost) are proven within, which worse, at any of 300 probes, in how many of 300 runs.
    fn runs(ratio: f64, spread: f64) -> [usize; 4] {
        let (margins, needed) = (Margins::default(), libm::log(20.0));
        let mut counts = [0; 4];
        for run in 0..300 {
            let (mut coin, mut tests, mut seen) = (Coin::new(run), ProbeTests::default(), [false; 4]);
            for _ in 0..300 {
                tests.push(probe(&mut coin, ratio, spread), &margins);
                let now = [tests.speed.log_e_within(), tests.cost.within.log_e(), tests.speed.log_e_slower(), tests.cost.worse.log_e()];
                seen.iter_mut().zip(now).for_each(|(seen, now)| *seen |= now >= needed);
            }
            counts.iter_mut().zip(seen).for_each(|(count, seen)| *count += usize::from(seen));
        }
        counts
    }

    #[test]
    fn equal_and_faster_engines_are_proven_and_slower_ones_are_caught() {
        let [speed, cost, slow, dear] = runs(1.0, 0.1);
        assert!(speed == 300 && cost >= 290 && slow <= 1 && dear <= 1, "equal: {:?}", [speed, cost, slow, dear]);
        let [speed, cost, slow, dear] = runs(1.0 / 3.0, 0.25);
        assert!(speed == 300 && cost == 300 && slow == 0 && dear == 0, "3x faster: {:?}", [speed, cost, slow, dear]);
        let [speed, cost, slow, dear] = runs(1.3, 0.1);
        assert!(speed == 0 && cost <= 1 && slow == 300 && dear >= 290, "1.3x slower: {:?}", [speed, cost, slow, dear]);
    }

    #[test]
    fn exactly_at_the_margin_nothing_is_proven_but_by_chance() {
        // 5 % of 300 and three standard errors.
        for wrong in runs(1.1, 0.2) {
            assert!(wrong <= 26, "{wrong} of 300");
        }
    }

    #[test]
    fn a_loss_is_judged_on_both_sides_of_its_margin() {
        let check = |loss: f64, expected: [bool; 2]| {
            let (mut cosine, mut coin) = (Loss::default(), Coin::new(1));
            (0..300).for_each(|_| cosine.push(loss * 2.0 * coin.unit(), 0.01, 0.1));
            assert_eq!([cosine.within.log_e(), cosine.worse.log_e()].map(|it| it >= libm::log(20.0)), expected, "{loss}");
        };
        check(0.0001, [true, false]);
        check(0.005, [true, false]);
        check(0.01, [false, false]);
        check(0.02, [false, true]);
        check(f64::NAN, [false, true]);
    }
}
