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
//!   With a sticky unit a lane may have more traffic than the other for good, and `e_c - e_k` with it. That is fair to a roll-back, for the draw was;
//!   but it would prove *within* of a canary whose draw is the lighter one. There `x = 2 n_c n_k/(n_c + n_k) (e_c/n_c - e_k/n_k - margin)`, whose mean at
//!   the margin is 0 whatever the traffic is, over as many windows as give each lane four requests.
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
    /// Windows bet on.
    seen: Seen,
    /// With a sticky unit: groups of windows bet on as `within`, and the group that is being gathered.
    groups: Seen,
    group: Window,
}

/// What a scale is set from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    bets: u64,
    errors: u64,
    requests: u64,
}

/// Requests in each lane that a group of windows gathers.
const GROUP: u64 = 4;

impl Errors {
    /// Takes a window. With `fixed_draw` the lanes' shares of the traffic differ for good, and `within` is bet on rates.
    pub fn push(&mut self, window: Window, margin: f64, fixed_draw: bool) {
        let Window { canary, control } = window;
        let x = canary.errors as f64 - control.errors as f64 - margin * (canary.requests + control.requests) as f64 / 2.0;
        let gain = self.seen.gain(x, margin);
        self.worse.push(gain);
        if fixed_draw {
            self.gather(window, margin);
        } else {
            self.within.push(-gain);
        }
        self.seen.add(window);
        self.canary.add(canary);
        self.control.add(control);
    }

    fn gather(&mut self, window: Window, margin: f64) {
        self.group.canary.add(window.canary);
        self.group.control.add(window.control);
        let Window { canary, control } = self.group;
        if canary.requests.min(control.requests) < GROUP {
            return;
        }
        let (n, m) = (canary.requests as f64, control.requests as f64);
        let x = 2.0 * n * m / (n + m) * (canary.errors as f64 / n - control.errors as f64 / m - margin);
        self.within.push(-self.groups.gain(x, margin));
        self.groups.add(self.group);
        self.group = Window::default();
    }

    /// Error rates of canary and control.
    pub fn rates(&self) -> [Option<f64>; 2] {
        [self.canary, self.control].map(|it| (it.requests > 0).then(|| it.errors as f64 / it.requests as f64))
    }
}

impl Seen {
    fn gain(&self, x: f64, margin: f64) -> f64 {
        if self.bets == 0 {
            return 0.0;
        }
        let bets = self.bets as f64;
        let allowed = margin * self.requests as f64 / 2.0 / bets;
        let deviation = (self.errors as f64 / bets + allowed).sqrt();
        (x / (allowed + 3.0 * deviation + 1.0)).clamp(-1.0, 1.0)
    }

    fn add(&mut self, window: Window) {
        self.bets += 1;
        self.errors += window.canary.errors + window.control.errors;
        self.requests += window.canary.requests + window.control.requests;
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
