//! Which batch is probed, and when. Pure: it decides from what it was told and a moment it is given.
//!
//! Enters: batches that were answered, what waits, what probes cost. Leaves: a batch to probe now, or until when to wait. Never: a thread, a
//! clock, a token.
//!
//! - Of all batches of an experiment since its last probe each is as likely to be the next one, whichever its arm.
//! - A budget grows with the device's time, and again with its idle time. A probe runs when there is credit and may leave a debt, so an engine however slow is
//!   probed within the budget. Little is saved up: a quiet night must not become a burst in the morning.
//! - While more texts wait than `shed_queue_texts`, or an engine is loaded (which would be timed with it), nothing is probed.
//! - None until the baseline gave enough vectors to look for neighbours among, nor sooner after another than [`SPACING`], so that a window has room
//!   for all.

use std::time::{Duration, Instant};

use akidb_domain::snapshot::ProbeBudget;

use super::super::EngineId;

/// Least time between the beginnings of two probes: at most 32 a second.
pub const SPACING: Duration = Duration::from_micros(31_250);
/// Vectors that the baseline must have given first.
pub const ENOUGH_VECTORS: usize = 128;
/// Most credit that is saved up, ns.
const MOST_CREDIT: i64 = 50_000_000;
/// Most experiments with a budget of their own at a time.
const MOST_EXPERIMENTS: usize = 64;
/// A batch that could not be probed for so long is given up: its experiment may be over.
const MOST_AGE: Duration = Duration::from_secs(10);

/// What a probe compares. When it changes, what was kept for the next probe is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// Phase of the experiment.
    pub phase: u32,
    /// Engine of the baseline.
    pub baseline: EngineId,
    /// Engine of the canary.
    pub canary: EngineId,
}

/// A batch that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Now.
    pub now: Instant,
    /// Experiment it is of.
    pub experiment: &'a str,
    /// What would be compared.
    pub stage: Stage,
    /// What probes may cost.
    pub budget: ProbeBudget,
    /// Baseline vectors of it that went to the reservoir.
    pub vectors: usize,
    /// Drawn for this batch.
    pub draw: u64,
}

/// What else the device has to do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Texts that wait.
    pub waiting: usize,
    /// An engine is being loaded, warmed up or proven.
    pub loading: bool,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<C> {
    /// Probe this.
    Probe(C),
    /// Ask again then.
    WaitUntil(Instant),
    /// Nothing until something happens.
    Nothing,
}

/// Budgets and candidates.
#[derive(Debug)]
pub struct Policy<C> {
    accounts: Vec<Account<C>>,
    /// Idle time of the device in all.
    idle: Duration,
    last_probe: Option<Instant>,
    shed: u64,
}

#[derive(Debug)]
struct Account<C> {
    experiment: String,
    stage: Stage,
    budget: ProbeBudget,
    credit_ns: i64,
    settled: (Instant, Duration),
    vectors: usize,
    offered: Instant,
    candidate: Option<C>,
    since: Instant,
    among: u64,
    /// That the candidate had to wait for others has been counted.
    shed: bool,
}

impl<C> Default for Policy<C> {
    fn default() -> Self {
        Self { accounts: Vec::new(), idle: Duration::ZERO, last_probe: None, shed: 0 }
    }
}

impl<C> Policy<C> {
    /// The device, all of it, did nothing for so long.
    pub fn slept(&mut self, time: Duration) {
        self.idle += time;
    }

    /// A batch was answered; `make` gives what to keep of it if it is drawn.
    pub fn offer(&mut self, offer: Offer<'_>, make: impl FnOnce() -> C) {
        let idle = self.idle;
        let account = self.account(offer);
        account.settle(offer.now, idle);
        (account.budget, account.offered) = (offer.budget, offer.now);
        if account.stage != offer.stage {
            account.vectors = if account.stage.baseline == offer.stage.baseline { account.vectors } else { 0 };
            (account.stage, account.candidate, account.among) = (offer.stage, None, 0);
        }
        account.vectors = account.vectors.saturating_add(offer.vectors);
        account.among += 1;
        if offer.draw.is_multiple_of(account.among) {
            (account.candidate, account.since) = (Some(make()), offer.now);
        }
    }

    /// What to do now.
    pub fn next(&mut self, now: Instant, load: Load) -> Next<C> {
        self.next_for(now, load, |_| true)
    }

    /// As [`Policy::next`], for one that can make only the probes that `can` says.
    pub fn next_for(&mut self, now: Instant, load: Load, can: impl Fn(&C) -> bool) -> Next<C> {
        let spaced = self.last_probe.map_or(now, |it| it + SPACING);
        let mut wake: Option<Instant> = None;
        for account in &mut self.accounts {
            account.settle(now, self.idle);
            if account.candidate.as_ref().is_some_and(|it| !can(it)) {
                continue;
            }
            let Some(due) = account.due(now).map(|it| it.max(spaced)) else { continue };
            if load.loading || load.waiting > account.budget.shed_queue_texts as usize {
                if due <= now && !std::mem::replace(&mut account.shed, true) {
                    self.shed += 1;
                }
                continue;
            }
            if due > now {
                wake = Some(wake.map_or(due, |it| it.min(due)));
            } else if let Some(candidate) = account.candidate.take() {
                (account.among, account.shed, self.last_probe) = (0, false, Some(now));
                return Next::Probe(candidate);
            }
        }
        wake.map_or(Next::Nothing, Next::WaitUntil)
    }

    /// A probe of an experiment took so long.
    pub fn spent(&mut self, experiment: &str, cost: Duration) {
        if let Some(account) = self.accounts.iter_mut().find(|it| it.experiment == experiment) {
            account.credit_ns -= cost.as_nanos() as i64;
        }
    }

    /// Probes that were due and had to wait, since this was last asked.
    pub fn take_shed(&mut self) -> u64 {
        std::mem::take(&mut self.shed)
    }

    fn account(&mut self, offer: Offer<'_>) -> &mut Account<C> {
        let at = self.accounts.iter().position(|it| it.experiment == offer.experiment).unwrap_or_else(|| {
            if self.accounts.len() >= MOST_EXPERIMENTS {
                let oldest = self.accounts.iter().enumerate().min_by_key(|(_, it)| it.offered).map_or(0, |it| it.0);
                self.accounts.swap_remove(oldest);
            }
            self.accounts.push(Account::new(offer, self.idle));
            self.accounts.len() - 1
        });
        &mut self.accounts[at]
    }
}

impl<C> Account<C> {
    fn new(offer: Offer<'_>, idle: Duration) -> Self {
        Self {
            experiment: offer.experiment.to_owned(),
            stage: offer.stage,
            budget: offer.budget,
            credit_ns: 0,
            settled: (offer.now, idle),
            vectors: 0,
            offered: offer.now,
            candidate: None,
            since: offer.now,
            among: 0,
            shed: false,
        }
    }

    /// Credit for the time since the last call.
    fn settle(&mut self, now: Instant, idle: Duration) {
        let part = |time: Duration, ppm: u32| (time.as_nanos() * u128::from(ppm) / 1_000_000) as i64;
        let elapsed = now.saturating_duration_since(self.settled.0);
        // Below that a nanosecond's part is lost to rounding, again and again.
        if elapsed < Duration::from_micros(100) {
            return;
        }
        let slept = idle.saturating_sub(self.settled.1);
        self.credit_ns = MOST_CREDIT.min(self.credit_ns + part(elapsed, self.budget.device_ppm) + part(slept, self.budget.idle_ppm));
        self.settled = (now, idle);
    }

    /// When there is credit for the candidate, if the device stays idle; none: there is no candidate, or not soon enough.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        if self.candidate.is_some() && now.saturating_duration_since(self.since) > MOST_AGE {
            (self.candidate, self.among, self.shed) = (None, 0, false);
        }
        self.candidate.as_ref().filter(|_| self.vectors >= ENOUGH_VECTORS)?;
        if self.credit_ns > 0 {
            return Some(now);
        }
        let rate = u64::from(self.budget.device_ppm) + u64::from(self.budget.idle_ppm);
        let wait = (self.credit_ns.unsigned_abs() + 1).saturating_mul(1_000_000).checked_div(rate)?;
        // A settlement may be put off for a tenth of a millisecond.
        let due = now + Duration::from_nanos(wait) + Duration::from_micros(200);
        (due <= self.since + MOST_AGE).then_some(due)
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
