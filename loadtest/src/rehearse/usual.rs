//! The tests that are usually run, beside the engine on the same telemetry: what they would have done.
//!
//! Enters: a look's counts. Leaves: a verdict each, once. Never: a say in the rollout.
//!
//! - Thresholds, as canary controllers ship them: a look fails when the canary's p95 is more than the margin above that of everything else, or its
//!   error rate more than half a point; three failed looks among the last thirty roll back; surviving all looks promotes.
//! - Binomial: all requests so far taken for independent; exceedances of (1 + margin) times everything else's p95 among the canary's requests, held
//!   at each look against everything else's share above its p95 by a one-sided test at 5 %; likewise errors with their margin.

use std::collections::VecDeque;

use akidb_domain::sketch::PER_DOUBLING;
use serde::Serialize;

use super::counts::Counts;

/// What a usual test decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usual {
    /// The canary is good.
    Promoted,
    /// It is not.
    RolledBack,
}

/// Both tests.
#[derive(Debug, Default)]
pub(super) struct UsualTests {
    pub(super) thresholds: Option<Usual>,
    pub(super) binomial: Option<Usual>,
    failed: VecDeque<bool>,
    canary: Vec<u32>,
    rest: Vec<u32>,
    errors: [[u64; 2]; 2],
}

/// 95 % quantile of the normal distribution.
const Z: f64 = 1.645;

impl UsualTests {
    /// Takes a look.
    pub(super) fn take(&mut self, counts: &Counts, margin: f64, error_margin: f64, last: bool) {
        let [rest, control, canary] = &counts.lanes;
        let others: Vec<u32> = rest.histogram().iter().zip(control.histogram()).map(|(a, b)| a + b).collect();
        let errors = [[canary.all_errors, canary.all], [rest.all_errors + control.all_errors, rest.all + control.all]];
        self.threshold(&canary.histogram(), &others, errors, margin, error_margin, last);
        add(&mut self.canary, &canary.histogram());
        add(&mut self.rest, &others);
        for (sums, new) in self.errors.iter_mut().zip(errors) {
            sums.iter_mut().zip(new).for_each(|(sum, new)| *sum += new);
        }
        if self.binomial.is_none() {
            self.binomial = self.binomial(margin, error_margin);
        }
    }

    fn threshold(&mut self, canary: &[u32], others: &[u32], errors: [[u64; 2]; 2], margin: f64, error_margin: f64, last: bool) {
        if self.thresholds.is_some() {
            return;
        }
        let slow = quantile(canary, 0.95).zip(quantile(others, 0.95)).is_some_and(|(a, b)| a > b + higher(margin));
        let [canary, others] = errors.map(|it| it[0] as f64 / it[1].max(1) as f64);
        self.failed.push_back(slow || canary > others + error_margin);
        if self.failed.len() > 30 {
            self.failed.pop_front();
        }
        if self.failed.iter().filter(|it| **it).count() >= 3 {
            self.thresholds = Some(Usual::RolledBack);
        } else if last {
            self.thresholds = Some(Usual::Promoted);
        }
    }

    fn binomial(&self, margin: f64, error_margin: f64) -> Option<Usual> {
        let at = quantile(&self.rest, 0.95)?;
        let above =
            |histogram: &[u32], at: usize| histogram[(at + 1).min(histogram.len())..].iter().map(|it| u64::from(*it)).sum::<u64>() as f64;
        let (n, others) = (above(&self.canary, 0) + f64::from(self.canary[0]), above(&self.rest, 0) + f64::from(self.rest[0]));
        let p = above(&self.rest, at) / others;
        let latency = (above(&self.canary, at + higher(margin)) - n * p) / (n * p * (1.0 - p)).sqrt().max(1e-9);
        let [[ec, nc], [er, nr]] = self.errors.map(|it| it.map(|it| it as f64));
        let (pc, pr) = (ec / nc.max(1.0), er / nr.max(1.0));
        let spread = (pc * (1.0 - pc) / nc.max(1.0) + pr * (1.0 - pr) / nr.max(1.0)).sqrt().max(1e-9);
        let errors = (pc - pr - error_margin) / spread;
        if n < 100.0 {
            None
        } else if latency > Z || errors > Z {
            Some(Usual::RolledBack)
        } else {
            (latency < -Z && errors < -Z).then_some(Usual::Promoted)
        }
    }
}

/// Buckets that a margin is.
fn higher(margin: f64) -> usize {
    (f64::from(PER_DOUBLING) * libm::log2(1.0 + margin)).ceil() as usize
}

fn add(sums: &mut Vec<u32>, new: &[u32]) {
    sums.resize(new.len(), 0);
    sums.iter_mut().zip(new).for_each(|(sum, new)| *sum += new);
}

/// The place of the bucket that holds the quantile.
fn quantile(histogram: &[u32], q: f64) -> Option<usize> {
    let total: u64 = histogram.iter().map(|it| u64::from(*it)).sum();
    let rank = ((q * total as f64).ceil() as u64).max(1);
    let mut seen = 0;
    histogram.iter().position(|it| {
        seen += u64::from(*it);
        seen >= rank
    })
}
