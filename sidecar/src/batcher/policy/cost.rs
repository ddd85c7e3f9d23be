//! What a batch costs on an engine, learnt from batches: a fixed part and a part by the token (least squares, older batches fade).
//!
//! Enters: tokens and times. Leaves: estimates. Never: a negative one.

use std::time::Duration;

/// A batch's weight after each one that follows: the last fifty count.
const FADE: f64 = 0.98;
/// Padding is never worth more than this, whatever was learnt.
const MOST_FIXED_TOKENS: f64 = 8_192.0;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    batches: f64,
    tokens: f64,
    padded: f64,
    padded_squared: f64,
    ns: f64,
    padded_ns: f64,
}

impl Cost {
    pub(super) fn learn(&mut self, tokens: u64, padded: u64, took: Duration) {
        let (padded, ns) = (padded as f64, took.as_nanos() as f64);
        self.batches = self.batches * FADE + 1.0;
        self.tokens = self.tokens * FADE + tokens as f64;
        self.padded = self.padded * FADE + padded;
        self.padded_squared = self.padded_squared * FADE + padded * padded;
        self.ns = self.ns * FADE + ns;
        self.padded_ns = self.padded_ns * FADE + padded * ns;
    }

    /// Engine time of so many tokens, at the rate seen, padding and fixed parts included.
    pub(super) fn estimate(&self, tokens: u64) -> Duration {
        if self.tokens <= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_nanos((self.ns / self.tokens * tokens as f64) as u64)
    }

    /// Cost of one more run, whatever is in it.
    pub(super) fn fixed(&self) -> Duration {
        Duration::from_nanos(self.line().0 as u64)
    }

    /// The same in tokens.
    pub(super) fn fixed_tokens(&self) -> usize {
        let (fixed, by_token) = self.line();
        if by_token > 0.0 { (fixed / by_token).min(MOST_FIXED_TOKENS) as usize } else { 0 }
    }

    /// Fixed ns and ns a token; all by the token while sizes have hardly differed.
    fn line(&self) -> (f64, f64) {
        if self.batches < 8.0 {
            return (0.0, 0.0);
        }
        let (mean, mean_ns) = (self.padded / self.batches, self.ns / self.batches);
        let variance = self.padded_squared / self.batches - mean * mean;
        if variance < (0.1 * mean) * (0.1 * mean) {
            return (0.0, mean_ns / mean);
        }
        let slope = ((self.padded_ns / self.batches - mean * mean_ns) / variance).clamp(0.0, mean_ns / mean);
        (mean_ns - slope * mean, slope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_in_batches() {
        let mut cost = Cost::default();
        for i in 0..200u64 {
            let padded = 16 + (i * 37) % 500;
            cost.learn(padded, padded, Duration::from_nanos(400_000 + 2_000 * padded));
        }
        assert!((cost.fixed().as_nanos() as f64 - 400_000.0).abs() < 1_000.0, "{:?}", cost.fixed());
        assert!((199..=201).contains(&cost.fixed_tokens()), "{}", cost.fixed_tokens());
    }

    #[test]
    fn equal_batches_say_nothing_of_a_fixed_part() {
        let mut cost = Cost::default();
        for _ in 0..50 {
            cost.learn(100, 128, Duration::from_millis(5));
        }
        assert_eq!((cost.fixed(), cost.fixed_tokens()), (Duration::ZERO, 0));
        assert_eq!(cost.estimate(200), Duration::from_millis(10));
    }
}
