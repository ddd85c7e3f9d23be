//! One probe at a time on a device, whichever of its workers makes it, and idle time that counts once. Pure: it decides from what it was told and a
//! moment it is given.
//!
//! Enters: batches that were answered, workers that fall asleep and wake, what waits. Leaves: a probe for the worker that asks. Never: a second
//! probe before the first is paid for, idle time while any worker runs something.

use std::time::{Duration, Instant};

use super::Candidate;
use super::policy::{Load, Next, Offer, Policy};
use crate::batcher::EngineId;

/// The device's probes.
#[derive(Debug, Default)]
pub(in crate::batcher) struct Turns {
    policy: Policy<Candidate>,
    /// Loads that go on.
    loading: usize,
    /// A worker makes a probe. What it costs is not known yet, so that another would go past the budget, and the two would time each other.
    running: bool,
    /// Workers that wait for something to do.
    asleep: usize,
    /// When the last of the workers fell asleep, until the first wakes.
    idle_since: Option<Instant>,
}

impl Turns {
    /// What a worker, which has the engines that `has` says, may probe now, or until when it should wait. `waiting` texts wait; a batcher that
    /// is `closing` probes nothing.
    pub(in crate::batcher) fn next(
        &mut self,
        now: Instant,
        waiting: usize,
        closing: bool,
        has: impl Fn(EngineId) -> bool,
    ) -> Next<Candidate> {
        if self.running {
            return Next::Nothing;
        }
        let load = Load { waiting, loading: self.loading > 0 || closing };
        let next = self.policy.next_for(now, load, |it| has(it.pair.baseline) && has(it.pair.canary));
        self.running = matches!(next, Next::Probe(_));
        next
    }

    /// A batch was answered. `vectors` of it went to the reservoir.
    pub(in crate::batcher) fn offer(&mut self, now: Instant, candidate: Candidate, vectors: usize, draw: u64) {
        let (stage, budget, lane) = (candidate.stage(), candidate.pair.budget, candidate.lane.clone());
        self.policy.offer(Offer { now, experiment: &lane.experiment, stage, budget, vectors, draw }, || candidate);
    }

    /// The probe that ran took so long.
    pub(in crate::batcher) fn finished(&mut self, experiment: &str, took: Duration) {
        self.running = false;
        self.policy.spent(experiment, took);
    }

    /// An engine is being loaded, or no longer.
    pub(in crate::batcher) fn hold(&mut self, held: bool) {
        self.loading = if held { self.loading + 1 } else { self.loading.saturating_sub(1) };
    }

    /// A worker, of so many, falls asleep.
    pub(in crate::batcher) fn sleeps(&mut self, now: Instant, workers: usize) {
        self.asleep += 1;
        if self.asleep >= workers {
            self.idle_since = Some(now);
        }
    }

    /// It wakes. The device was idle while all slept.
    pub(in crate::batcher) fn wakes(&mut self, now: Instant) {
        self.asleep -= 1;
        if let Some(since) = self.idle_since.take() {
            self.policy.slept(now.saturating_duration_since(since));
        }
    }

    /// Probes that were due and had to wait, since this was last asked.
    pub(in crate::batcher) fn take_shed(&mut self) -> u64 {
        self.policy.take_shed()
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
