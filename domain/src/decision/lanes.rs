//! What users see: latency and errors of the canary's lane against a lane of the same size, and an absolute objective.
//!
//! Enters: looks in order. Leaves: ln E. Never: requests counted as if they were independent: a look (for errors, a window
//! of it) gives one number, whatever happened in it.
//!
//! A look's difference `x = canary's count - control's count` is bet on as `g = clip(x / s, -1, 1)` with a scale `s` known before
//! ([`super::bets`]). Arms that behave alike make `x` symmetric whatever the load, the batches and the queue do, and `g` is increasing in
//! `x`, so its mean is at most 0 when the canary is within its margin.
//!
//! - Latency counts requests above a threshold fixed before the look: per token-length bucket, about the control lane's past p95. The canary's
//!   threshold is the margin higher.
//! - Errors: `x = e_c - e_k - margin (n_c + n_k) / 2`, a telemetry window at a time: a bet on a sum of many requests can win no more than one on
//!   few, so short windows decide with fewer requests. Latency takes whole looks, because what waits at a window's end is late in the next. The
//!   scale covers three standard deviations at the margin, because a cut there would favour the null that is to be refuted: several errors at
//!   once must count for what they are.
//! - The objective: `x = n_above - allowed n`, of the canary alone.

use serde::{Deserialize, Serialize};

use super::bets::Bets;
use super::config::Slo;
use super::look::{Answers, Lane, Window};
use super::verdict::Threshold;
use crate::sketch::{END_INDEX, MIN_INDEX, PER_DOUBLING, lower_bound};

/// Weight of a new look in the running level of the control lane's quantile.
const LEVEL_GAIN: f64 = 0.3;

/// Running levels of the control lane's quantile, one a token-length bucket, in sketch bucket indices. They outlive a stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Levels(Vec<Option<f64>>);

impl Levels {
    /// What the next look is counted against; nothing before the first one.
    pub fn thresholds(&self, margin: f64) -> Vec<Option<Threshold>> {
        let higher = libm::ceil(f64::from(PER_DOUBLING) * libm::log2(1.0 + margin)) as i32;
        let at = |level: f64| {
            let control = (libm::ceil(level) as i32).clamp(MIN_INDEX, END_INDEX);
            Threshold { control, canary: (control + higher).min(END_INDEX) }
        };
        self.0.iter().map(|level| level.map(at)).collect()
    }

    /// Learns from a look that has been counted.
    pub fn learn(&mut self, control: &Lane, quantile: f64) {
        self.0.resize(control.latency.len(), None);
        for (level, sketch) in self.0.iter_mut().zip(&control.latency) {
            if let Some(seen) = sketch.boundary(quantile).map(f64::from) {
                *level = Some(level.map_or(seen, |old| old + LEVEL_GAIN * (seen - old)));
            }
        }
    }
}

/// Bets on exceedances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Against "within the margin".
    pub worse: Bets,
    /// The mirror image, for a burn-in.
    pub better: Bets,
    /// Exceedances of the canary.
    pub canary: u64,
    /// Exceedances of the control lane.
    pub control: u64,
    /// Looks counted.
    pub looks: u64,
    squares: f64,
    control_squares: f64,
}

impl Latency {
    /// Takes a look. `counts` are exceedances of canary and control.
    pub fn push(&mut self, counts: [u64; 2]) {
        let x = counts[0] as f64 - counts[1] as f64;
        if self.looks > 0 {
            let looks = self.looks as f64;
            let spread = 2.0 * (self.squares / looks).max((self.canary + self.control) as f64 / looks).sqrt();
            // A canary that is always late must not widen its own scale.
            let typical = (2.0 * self.control_squares / looks).sqrt();
            let gain = (x / spread.min(typical).max(1.0)).clamp(-1.0, 1.0);
            self.worse.push(gain);
            self.better.push(-gain);
        }
        self.looks += 1;
        self.squares += x * x;
        self.control_squares += counts[1] as f64 * counts[1] as f64;
        self.canary += counts[0];
        self.control += counts[1];
    }
}

/// Exceedances of a lane: what lies above its thresholds and what failed, or the units that did so for the first time.
pub fn exceedances(lane: &Lane, thresholds: &[Option<Threshold>], of: impl Fn(&Threshold) -> i32) -> u64 {
    let counted = lane.latency.iter().zip(thresholds).filter_map(|(sketch, at)| Some(sketch.count_above(of(at.as_ref()?))));
    lane.first_exceedances.unwrap_or_else(|| counted.sum::<u64>() + lane.failures)
}

/// Bets on errors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// Against "within the margin".
    pub worse: Bets,
    /// Against "not within the margin"; in a burn-in the mirror image of `worse`.
    pub within: Bets,
    /// Of the canary.
    pub canary: Answers,
    /// Of the control lane.
    pub control: Answers,
    /// Windows counted.
    pub windows: u64,
}

impl Errors {
    /// Takes a window.
    pub fn push(&mut self, window: Window, margin: f64) {
        let Window { canary, control } = window;
        let allowed = |n: u64| margin * n as f64 / 2.0;
        let x = canary.errors as f64 - control.errors as f64 - allowed(canary.requests + control.requests);
        if self.windows > 0 {
            let windows = self.windows as f64;
            let allowed = allowed(self.canary.requests + self.control.requests) / windows;
            let deviation = ((self.canary.errors + self.control.errors) as f64 / windows + allowed).sqrt();
            let gain = (x / (allowed + 3.0 * deviation + 1.0)).clamp(-1.0, 1.0);
            self.worse.push(gain);
            self.within.push(-gain);
        }
        self.windows += 1;
        for (sums, lane) in [(&mut self.canary, canary), (&mut self.control, control)] {
            sums.errors += lane.errors;
            sums.requests += lane.requests;
        }
    }

    /// Error rates of canary and control.
    pub fn rates(&self) -> [Option<f64>; 2] {
        [self.canary, self.control].map(|it| (it.requests > 0).then(|| it.errors as f64 / it.requests as f64))
    }
}

/// Bets on an absolute objective.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// Against "the objective holds".
    pub worse: Bets,
    /// Requests past the objective.
    pub above: u64,
    /// Requests.
    pub requests: u64,
    looks: u64,
}

impl Objective {
    /// Takes the canary's lane.
    pub fn push(&mut self, lane: &Lane, slo: Slo) {
        let at = bucket_at_or_above(slo.latency_ms);
        let above = lane.latency.iter().map(|it| it.count_above(at)).sum::<u64>() + lane.failures;
        let requests = lane.latency.iter().map(crate::sketch::Sketch::count).sum::<u64>() + lane.failures;
        let x = above as f64 - slo.allowed * requests as f64;
        if self.looks > 0 {
            let allowed = slo.allowed * self.requests as f64 / self.looks as f64;
            // Room for everything below what is allowed, so that only a bad look is cut.
            self.worse.push((x / (1.5 * allowed).max(3.0 * allowed.sqrt()).max(1.0)).clamp(-1.0, 1.0));
        }
        self.looks += 1;
        self.above += above;
        self.requests += requests;
    }
}

fn bucket_at_or_above(latency_ms: f64) -> i32 {
    (MIN_INDEX..END_INDEX).find(|it| lower_bound(*it) as f64 >= latency_ms * 1e6).unwrap_or(END_INDEX)
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
