//! How long the canary of an experiment may go on. Enters: renewals, the experiments that run. Leaves: yes or no, and for how long it was no.
//! Never: the wall clock; a suspended machine's leases run out. After a cold start there are none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Most experiments remembered.
const MOST: usize = 1_024;

/// Leases by experiment; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    held: Arc<Mutex<BTreeMap<String, Lease>>>,
}

#[derive(Debug, Default)]
struct Lease {
    until_ms: u64,
    /// It is asked for gaps.
    followed: bool,
    /// Gaps are told up to here, but for `lapsed_ms`.
    told_ms: u64,
    /// Gaps that a renewal ended and nobody was told of.
    lapsed_ms: u64,
}

impl Leases {
    /// Extends an experiment's lease to `ttl_ms` from now.
    pub fn renew(&self, experiment: &str, ttl_ms: u64) {
        self.renew_at(experiment, ttl_ms, boot_time_ms());
    }

    /// Whether an experiment's canary may go on.
    pub fn holds(&self, experiment: &str) -> bool {
        self.holds_at(experiment, boot_time_ms())
    }

    /// The experiments that run from now on: their gaps are counted.
    pub fn follow<'a>(&self, experiments: impl Iterator<Item = &'a str>) {
        self.follow_at(experiments, boot_time_ms());
    }

    /// How long an experiment's lease did not hold since this was last asked, or since the experiment was followed.
    pub fn take_gap(&self, experiment: &str) -> Duration {
        Duration::from_millis(self.take_gap_at(experiment, boot_time_ms()))
    }

    fn renew_at(&self, experiment: &str, ttl_ms: u64, now_ms: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, it| it.followed || it.until_ms > now_ms);
        if held.len() >= MOST && !held.contains_key(experiment) {
            return;
        }
        let lease = held.entry(experiment.to_owned()).or_default();
        lease.settle(now_ms);
        lease.until_ms = now_ms.saturating_add(ttl_ms);
    }

    fn holds_at(&self, experiment: &str, now_ms: u64) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(experiment).is_some_and(|it| it.until_ms > now_ms)
    }

    fn follow_at<'a>(&self, experiments: impl Iterator<Item = &'a str>, now_ms: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known: BTreeMap<String, Lease> = std::mem::take(&mut *held);
        for experiment in experiments.take(MOST) {
            let mut lease = known.remove(experiment).unwrap_or_default();
            if !lease.followed {
                (lease.followed, lease.told_ms, lease.lapsed_ms) = (true, now_ms, 0);
            }
            held.insert(experiment.to_owned(), lease);
        }
        // A lease may come before the snapshot that it is for.
        let early = known.into_iter().filter(|(_, it)| it.until_ms > now_ms);
        held.extend(early.map(|(experiment, it)| (experiment, Lease { until_ms: it.until_ms, ..Lease::default() })));
    }

    fn take_gap_at(&self, experiment: &str, now_ms: u64) -> u64 {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = held.get_mut(experiment).filter(|it| it.followed) else { return 0 };
        lease.settle(now_ms);
        std::mem::take(&mut lease.lapsed_ms)
    }
}

impl Lease {
    /// Notes the gap up to now.
    fn settle(&mut self, now_ms: u64) {
        self.lapsed_ms += now_ms.saturating_sub(self.until_ms.max(self.told_ms));
        self.told_ms = self.told_ms.max(now_ms);
    }
}

/// Milliseconds since the machine started, suspend included.
fn boot_time_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_runs_out_unless_it_is_renewed() {
        let leases = Leases::default();
        assert!(!leases.holds("e"));
        leases.renew_at("e", 100, 1_000);
        assert!(leases.holds_at("e", 1_099) && !leases.holds_at("e", 1_100));
        leases.renew_at("e", 100, 1_050);
        assert!(leases.holds_at("e", 1_149));
    }

    #[test]
    fn gaps_are_told_once_whenever_they_are_asked_for() {
        let leases = Leases::default();
        leases.follow_at(["e"].into_iter(), 1_000);
        assert_eq!(leases.take_gap_at("e", 1_010), 10, "no lease yet");
        leases.renew_at("e", 100, 1_030);
        assert_eq!((leases.take_gap_at("e", 1_100), leases.take_gap_at("e", 1_110)), (20, 0));
        // It runs out at 1,130, is renewed at 1,200 and runs out again at 1,210.
        leases.renew_at("e", 10, 1_200);
        assert_eq!((leases.take_gap_at("e", 1_215), leases.take_gap_at("e", 1_220)), (75, 5));
    }

    #[test]
    fn a_lease_may_come_before_its_snapshot_and_stays_over_the_next_ones() {
        let leases = Leases::default();
        leases.renew_at("e", 1_000, 500);
        leases.follow_at(["e"].into_iter(), 700);
        assert_eq!(leases.take_gap_at("e", 800), 0);
        leases.follow_at(["e", "f"].into_iter(), 900);
        assert!(leases.holds_at("e", 1_400));
        assert_eq!((leases.take_gap_at("e", 1_600), leases.take_gap_at("f", 1_600)), (100, 700));
        leases.follow_at(std::iter::empty(), 1_700);
        assert_eq!(leases.take_gap_at("e", 1_800), 0, "an experiment that is over has no gaps");
    }
}
