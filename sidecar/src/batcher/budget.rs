//! How many tokens a batch of an engine should hold, from a short sweep.
//!
//! Enters: how long batches of growing size took. Leaves: the next batch to try, then a budget. Never: a thread, a clock; a budget from
//! fewer than two sizes.
//!
//! A batch that holds more than it must keeps everybody else waiting, so the smallest budget counts that is nearly as fast as the fastest.
//! Sizes double until more tokens no longer pay: on a CPU that is soon, on a GPU late.

use std::time::Duration;

use crate::engine::TokenBatch;

/// Longest that a sweep may take, whoever else the device serves meanwhile.
pub const MOST_TIME: Duration = Duration::from_secs(3);
/// Smallest budget tried, in tokens: a lone text of middle length is not split further.
const SMALLEST: usize = 128;
/// Largest, of an engine without a shape profile.
pub const LARGEST: usize = 16_384;
/// A text of the sweep has so many tokens, unless there may not be enough texts in a batch.
const TEXT: usize = 32;
/// Times that each size runs; its fastest counts, since whatever else the machine does only adds.
const PASSES: usize = 3;
/// A budget is good enough from this part of the best rate.
const NEARLY: f64 = 0.98;
/// Nothing that should take longer than this is tried, beyond two sizes: whoever waits would wait too long, and its memory stays taken.
const LONGEST: Duration = Duration::from_millis(40);
/// Two doublings that bring less than this end the sweep.
const PAYS: f64 = 1.05;
/// An id that every vocabulary has; what it means does not matter.
const ID: i64 = 100;

/// A sweep under way.
#[derive(Debug)]
pub struct Sweep {
    max_rows: usize,
    max_tokens: usize,
    largest: usize,
    sizes: Vec<Size>,
}

#[derive(Debug)]
struct Size {
    tokens: usize,
    fastest: Duration,
    ran: usize,
}

impl Size {
    /// Tokens a second.
    fn rate(&self) -> f64 {
        self.tokens as f64 / self.fastest.as_secs_f64().max(1e-9)
    }
}

impl Sweep {
    /// `max_rows` texts at most in a batch, `max_tokens` at most in a text, `largest` at most in a batch.
    pub fn new(max_rows: usize, max_tokens: usize, largest: usize) -> Self {
        Self { max_rows: max_rows.max(1), max_tokens: max_tokens.max(1), largest, sizes: Vec::new() }
    }

    /// What to run next; none when more would not help.
    pub fn next_batch(&mut self) -> Option<TokenBatch> {
        if self.sizes.last().is_none_or(|it| it.ran >= PASSES) {
            let tokens = self.sizes.last().map_or(SMALLEST, |it| it.tokens * 2);
            if tokens > self.largest || tokens > self.max_rows * self.max_tokens || !self.pays() {
                return None;
            }
            self.sizes.push(Size { tokens, fastest: Duration::MAX, ran: 0 });
        }
        let tokens = self.sizes.last()?.tokens;
        let row = TEXT.max(tokens.div_ceil(self.max_rows)).min(self.max_tokens);
        let rows = (tokens / row).max(1);
        Some(TokenBatch { rows, tokens: row, ids: vec![ID; rows * row], mask: vec![1; rows * row] })
    }

    /// What [`Sweep::next_batch`] gave took so long.
    pub fn ran(&mut self, took: Duration) {
        if let Some(size) = self.sizes.last_mut() {
            size.fastest = size.fastest.min(took);
            size.ran += 1;
        }
    }

    /// The smallest budget that is nearly as fast as the fastest; none from fewer than two sizes.
    pub fn best(&self) -> Option<usize> {
        let complete = || self.sizes.iter().filter(|it| it.ran >= PASSES);
        let best = complete().map(Size::rate).fold(0.0, f64::max);
        complete().find(|it| it.rate() >= NEARLY * best).filter(|_| complete().count() > 1).map(|it| it.tokens)
    }

    /// Whether either of the last two doublings paid.
    fn pays(&self) -> bool {
        match self.sizes.as_slice() {
            [_, .., last] if 2 * last.fastest > LONGEST => false,
            [.., before, first, second] => first.rate().max(second.rate()) > PAYS * before.rate(),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sweeps an engine that costs `fixed` and `by_token` microseconds, more from `cliff` tokens on.
    fn sweep(fixed: f64, by_token: f64, cliff: usize) -> (Option<usize>, Duration) {
        let (mut sweep, mut total) = (Sweep::new(64, 256, LARGEST), Duration::ZERO);
        while let Some(batch) = sweep.next_batch() {
            assert_eq!((batch.ids.len(), batch.mask.len()), (batch.rows * batch.tokens, batch.rows * batch.tokens));
            assert!(batch.rows <= 64 && batch.tokens <= 256);
            let tokens = batch.ids.len();
            let slower = if tokens >= cliff { 1.3 } else { 1.0 };
            let took = Duration::from_secs_f64((fixed + by_token * tokens as f64 * slower) / 1e6);
            sweep.ran(took);
            total += took;
        }
        (sweep.best(), total)
    }

    #[test]
    fn a_cpu_gets_a_small_budget_and_soon() {
        let (budget, took) = sweep(500.0, 130.0, 1_024);
        assert_eq!(budget, Some(128));
        assert!(took < Duration::from_millis(800), "{took:?}");
    }

    #[test]
    fn a_gpu_gets_a_large_one() {
        assert_eq!(sweep(300.0, 0.1, usize::MAX).0, Some(16_384));
        assert_eq!(sweep(1_000.0, 10.0, usize::MAX).0, Some(2_048));
    }

    #[test]
    fn one_size_is_not_enough_to_choose() {
        let mut sweep = Sweep::new(64, 256, LARGEST);
        for _ in 0..PASSES {
            assert!(sweep.next_batch().is_some());
            sweep.ran(Duration::from_millis(1));
        }
        assert_eq!(sweep.best(), None);
        let mut lone = Sweep::new(1, 16, LARGEST);
        assert!(lone.next_batch().is_none() && lone.best().is_none());
    }
}
