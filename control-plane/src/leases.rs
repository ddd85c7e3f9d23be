//! Leases of experiments: the decider renews, streams pass them on. Enters: renewals of a decider that is alive. Leaves: what is left of each.
//! Never: a renewal by anyone else; without one every sidecar goes back to the baseline by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The newest renewal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renewal {
    at: Option<Instant>,
    ttl: Duration,
    experiments: BTreeSet<String>,
}

/// The decider's end.
#[derive(Debug)]
pub(crate) struct Renewer {
    ttl: Duration,
    newest: watch::Sender<Arc<Renewal>>,
}

/// A stream's end; cheap to clone.
pub(crate) type Renewals = watch::Receiver<Arc<Renewal>>;

/// Both ends, for leases that last so long.
pub(crate) fn channel(ttl: Duration) -> (Renewer, Renewals) {
    let (newest, renewals) = watch::channel(Arc::new(Renewal::default()));
    (Renewer { ttl, newest }, renewals)
}

impl Renewer {
    /// Between two renewals: one that is lost on its way is no harm.
    pub(crate) fn every(&self) -> Duration {
        self.ttl / 6
    }

    /// Renews the leases of these experiments, and of no other.
    pub(crate) fn renew(&self, experiments: BTreeSet<String>) {
        self.newest.send_replace(Arc::new(Renewal { at: Some(Instant::now()), ttl: self.ttl, experiments }));
    }
}

impl Renewal {
    /// What is left of an experiment's lease, ms; `None`: nothing.
    pub(crate) fn left_ms(&self, experiment: &str) -> Option<u64> {
        let left = self.ttl.checked_sub(self.at?.elapsed())?;
        self.experiments.contains(experiment).then_some(left.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_of_the_experiments_renewed_last() {
        let (renewer, renewals) = channel(Duration::from_secs(60));
        assert_eq!(renewals.borrow().left_ms("a"), None);
        renewer.renew(BTreeSet::from(["a".to_owned()]));
        let left = renewals.borrow().left_ms("a").unwrap();
        assert!((50_000..=60_000).contains(&left), "{left}");
        assert_eq!(renewals.borrow().left_ms("b"), None);
        renewer.renew(BTreeSet::new());
        assert_eq!(renewals.borrow().left_ms("a"), None);
    }

    #[test]
    fn a_lease_that_is_not_renewed_runs_out() {
        let (renewer, renewals) = channel(Duration::ZERO);
        renewer.renew(BTreeSet::from(["a".to_owned()]));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(renewals.borrow().left_ms("a"), None);
    }
}
