//! One artifact's engine, or the way to it. Enters: what happened. Leaves: facts for the table and the budget. Never: a decision.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::activate::{Job, Live};
use super::budget::Bytes;
use crate::backoff::Backoff;
use crate::serving::VariantState;

/// An artifact's place with the owner.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) state: VariantState,
    pub(crate) reason: String,
    pub(crate) live: Option<Arc<Live>>,
    pub(crate) job: Job,
    pub(crate) running: Option<AbortHandle>,
    pub(crate) backoff: Backoff,
    pub(crate) retry_at: Option<Instant>,
    /// A request asked for it.
    pub(crate) asked: bool,
    /// What it should take, from its files.
    estimate: Bytes,
    /// Bytes promised to the load that runs.
    pub(crate) granted: Option<Bytes>,
    /// What it took when it was last loaded.
    pub(crate) measured: Option<Bytes>,
    /// Requests that wait for it.
    pub(crate) waiting: Vec<oneshot::Sender<Result<(), String>>>,
}

impl Slot {
    pub(crate) fn new(job: Job, estimate: Bytes) -> Self {
        let total = job.artifact.bytes();
        Self {
            state: VariantState::Pulling { done: 0, total },
            reason: String::new(),
            live: None,
            job,
            running: None,
            backoff: Backoff::new(Duration::from_secs(5), Duration::from_mins(5)),
            retry_at: None,
            asked: false,
            estimate,
            granted: None,
            measured: None,
            waiting: Vec::new(),
        }
    }

    /// What it takes, or will take.
    pub(crate) fn bytes(&self) -> Bytes {
        self.measured.unwrap_or(self.estimate)
    }

    /// What counts against the budget now.
    pub(crate) fn taken(&self) -> Option<Bytes> {
        self.live.as_ref().map(|it| it.bytes()).or(self.granted)
    }

    /// Neither loaded nor on the way, for want of room.
    pub(crate) fn is_parked(&self) -> bool {
        self.running.is_none() && self.live.is_none() && self.state == VariantState::Cached
    }

    /// Answers those who wait.
    pub(crate) fn answer(&mut self, outcome: &Result<(), String>) {
        for waiting in self.waiting.drain(..) {
            // Who asked may have left.
            drop(waiting.send(outcome.clone()));
        }
    }
}
