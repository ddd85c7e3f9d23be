//! Which of the device's time is credited; pure.
//!
//! Enters: stretches of time, as executors report them: a long batch after the shorter ones that ran beside it. Leaves: how much of each was not yet
//! credited. Never: a nanosecond credited twice, or lost because another stretch ended first.

use std::collections::VecDeque;

/// Stretches kept. What lies before the oldest counts as credited: a tenth of a second at 10,000 batches a second with gaps between all of them.
const MOST: usize = 1_024;

/// The time that is credited, Unix ns.
#[derive(Debug, Default)]
pub struct Credited {
    /// All before it.
    floor: u64,
    /// After it: rising, and apart from each other.
    stretches: VecDeque<(u64, u64)>,
}

impl Credited {
    /// Credits `[from, to)`; returns how much of it was not.
    pub fn credit(&mut self, from: u64, to: u64) -> u64 {
        let from = from.max(self.floor);
        if from >= to {
            return 0;
        }
        let first = self.stretches.partition_point(|it| it.1 < from);
        let beyond = self.stretches.partition_point(|it| it.0 <= to);
        let (mut known, mut whole) = (0, (from, to));
        for (begin, end) in self.stretches.drain(first..beyond) {
            known += end.min(to) - begin.max(from);
            whole = (whole.0.min(begin), whole.1.max(end));
        }
        self.stretches.insert(first, whole);
        if self.stretches.len() > MOST
            && let Some((_, end)) = self.stretches.pop_front()
        {
            self.floor = end;
        }
        to - from - known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stretches: &[(u64, u64)], expected: &[u64]) {
        let mut credited = Credited::default();
        let got: Vec<u64> = stretches.iter().map(|it| credited.credit(it.0, it.1)).collect();
        assert_eq!(got, expected, "{stretches:?}");
        // As many as an account of each nanosecond says.
        let last = stretches.iter().map(|it| it.1).max().unwrap_or(0);
        let each = (0..last).filter(|ns| stretches.iter().any(|it| (it.0..it.1).contains(ns))).count();
        assert_eq!(got.iter().sum::<u64>(), each as u64, "{stretches:?}");
    }

    #[test]
    fn one_after_the_other_is_credited_whole_and_again_is_not() {
        check(&[(0, 5), (7, 9), (9, 12), (12, 12), (14, 13)], &[5, 2, 3, 0, 0]);
        check(&[(2, 8), (2, 8), (3, 5), (2, 9)], &[6, 0, 0, 1]);
    }

    #[test]
    fn a_long_one_gets_what_shorter_ones_beside_it_left() {
        check(&[(40, 50), (60, 65), (0, 100)], &[10, 5, 85]);
        check(&[(0, 10), (5, 15), (10, 20), (8, 30)], &[10, 5, 5, 10]);
        check(&[(10, 20), (30, 40), (15, 35), (5, 50)], &[10, 10, 10, 15]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut credited = Credited::default();
        for i in 0..3 * MOST as u64 {
            assert_eq!(credited.credit(10 * i, 10 * i + 4), 4);
        }
        assert_eq!(credited.stretches.len(), MOST);
        assert_eq!(credited.credit(0, credited.floor), 0, "too old to tell");
        let (from, to) = (credited.floor, 30 * MOST as u64);
        assert_eq!(credited.credit(from, to), to - from - 4 * MOST as u64, "the gaps");
        assert_eq!(credited.stretches.len(), 1);
    }
}
