//! How long the canary of an experiment may go on. Enters: renewals. Leaves: yes or no. Never: the wall clock; a suspended machine's
//! leases run out. After a cold start there are none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

/// Most experiments remembered.
const MOST: usize = 1_024;

/// Leases by experiment; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    until_ms: Arc<Mutex<BTreeMap<String, u64>>>,
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

    fn renew_at(&self, experiment: &str, ttl_ms: u64, now_ms: u64) {
        let mut until = self.until_ms.lock().unwrap_or_else(PoisonError::into_inner);
        until.retain(|_, it| *it > now_ms);
        if until.len() < MOST || until.contains_key(experiment) {
            until.insert(experiment.to_owned(), now_ms.saturating_add(ttl_ms));
        }
    }

    fn holds_at(&self, experiment: &str, now_ms: u64) -> bool {
        let until = self.until_ms.lock().unwrap_or_else(PoisonError::into_inner);
        until.get(experiment).is_some_and(|it| *it > now_ms)
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
}
