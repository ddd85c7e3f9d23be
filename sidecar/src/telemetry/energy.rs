//! What the devices drew, window by window.
//!
//! Enters: readings of their counters, from whoever can ask the driver. Leaves: the difference since the window before. Never: a wait for the driver, a
//! millijoule in two windows.
//!
//! A cut takes the newest reading: what was drawn after it is in the next window. None of it is lost while readings come. Where they stop, or a counter
//! falls back (the driver was loaded anew), the windows up to the next reading are not measured, and what was drawn meanwhile is in none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

/// An older reading says nothing of this moment.
const FRESH: Duration = Duration::from_secs(1);

/// The counters of all devices at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// When they were read.
    pub at: Instant,
    /// One a device, each since some moment of its own.
    pub millijoules: Vec<u64>,
}

/// Where the newest reading lies; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Energy(Arc<ArcSwapOption<Reading>>);

impl Energy {
    /// Replaces it; none: a device gives no reading.
    pub fn set(&self, reading: Option<Reading>) {
        self.0.store(reading.map(Arc::new));
    }

    pub(super) fn newest(&self) -> Option<Arc<Reading>> {
        self.0.load_full()
    }
}

/// What windows have been given.
#[derive(Debug)]
pub(super) struct Drawn {
    before: Option<Arc<Reading>>,
    total: u64,
}

impl Drawn {
    /// From a reading at the start on.
    pub(super) fn since(first: Option<Arc<Reading>>) -> Self {
        Self { before: first, total: 0 }
    }

    /// What all devices drew since the last cut; none: not measured.
    pub(super) fn take(&mut self, newest: Option<Arc<Reading>>, now: Instant) -> Option<u64> {
        let newest = newest.filter(|it| now.saturating_duration_since(it.at) <= FRESH);
        let before = std::mem::replace(&mut self.before, newest);
        let drawn = difference(before.as_deref()?, self.before.as_deref()?)?;
        self.total += drawn;
        Some(drawn)
    }

    /// Of all windows.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

/// Over all devices; none if one of them is not further than it was.
fn difference(before: &Reading, newest: &Reading) -> Option<u64> {
    if before.millijoules.len() != newest.millijoules.len() {
        return None;
    }
    before.millijoules.iter().zip(&newest.millijoules).map(|(before, newest)| newest.checked_sub(*before)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A cut at so many ms, and the newest reading then: its ms and counters.
    type Cut<'a> = (u64, Option<(u64, &'a [u64])>);

    fn check(first: Option<&[u64]>, cuts: &[Cut<'_>], expected: &[Option<u64>]) {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let reading = |ms: u64, counters: &[u64]| Arc::new(Reading { at: at(ms), millijoules: counters.to_vec() });
        let mut drawn = Drawn::since(first.map(|it| reading(0, it)));
        let got: Vec<_> = cuts.iter().map(|(cut, it)| drawn.take(it.map(|(ms, counters)| reading(ms, counters)), at(*cut))).collect();
        assert_eq!(got, expected);
        assert_eq!(drawn.total(), expected.iter().flatten().sum::<u64>());
    }

    #[test]
    fn a_window_has_what_the_counters_moved() {
        check(
            Some(&[100]),
            &[(1_000, Some((950, &[700]))), (1_010, Some((950, &[700]))), (2_000, Some((2_000, &[701])))],
            &[Some(600), Some(0), Some(1)],
        );
        check(Some(&[5, u64::MAX - 9]), &[(1_000, Some((950, &[7, u64::MAX])))], &[Some(11)]);
    }

    #[test]
    fn a_window_without_both_readings_is_not_measured() {
        check(None, &[(1_000, None), (2_000, Some((2_000, &[5]))), (3_000, Some((3_000, &[9])))], &[None, None, Some(4)]);
        // One that is too old to say anything, and what follows it.
        let stalled: &[u64] = &[30];
        check(
            Some(&[10]),
            &[(1_000, Some((1_000, &[20]))), (2_500, Some((1_400, stalled))), (3_000, Some((3_000, &[90]))), (4_000, Some((4_000, &[95])))],
            &[Some(10), None, None, Some(5)],
        );
    }

    #[test]
    fn a_driver_that_was_loaded_anew_costs_one_window() {
        check(Some(&[900, 900]), &[(1_000, Some((1_000, &[950, 3]))), (2_000, Some((2_000, &[960, 8])))], &[None, Some(15)]);
        check(Some(&[900, 900]), &[(1_000, Some((1_000, &[950]))), (2_000, Some((2_000, &[960])))], &[None, Some(10)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_counted_twice(steps in prop::collection::vec((0..1_000u64, 0..1_000u64, any::<bool>()), 1..50)) {
            let now = Instant::now();
            let reading = |counters: [u64; 2]| Some(Arc::new(Reading { at: now, millijoules: counters.to_vec() }));
            let (mut counters, mut windows) = ([7, 9_000], 0);
            let mut drawn = Drawn::since(reading(counters));
            for (a, b, cut) in &steps {
                counters = [counters[0] + a, counters[1] + b];
                if *cut {
                    windows += drawn.take(reading(counters), now).unwrap();
                }
            }
            windows += drawn.take(reading(counters), now).unwrap();
            prop_assert_eq!((windows, drawn.total()), (counters[0] + counters[1] - 9_007, windows));
        }
    }
}
