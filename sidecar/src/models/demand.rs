//! A request that needs a variant which is not loaded. Enters: which one, and until when. Leaves: word that it serves, or why not. Never: a
//! wait past the request's deadline, more than [`WAITING`] requests that wait.

use std::sync::Arc;

use akidb_domain::snapshot::VariantRef;
use akidb_domain::vocabulary::canonical_model;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// Requests that may wait for loads.
pub const WAITING: usize = 1_024;

/// A request for an engine, on its way to the owner of them all.
#[derive(Debug)]
pub(crate) struct Want {
    /// Canonical name.
    pub(crate) model: String,
    pub(crate) variant: VariantRef,
    pub(crate) reply: oneshot::Sender<Result<(), String>>,
}

/// Why a variant does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// It cannot, for now; the reason names the way out.
    #[error("{0}")]
    Refused(String),
    /// There is nobody to ask.
    #[error("nothing here loads engines")]
    Nobody,
    /// Its load takes longer than the request may.
    #[error("the deadline has passed")]
    Deadline,
}

/// The handle; cheap to clone. The default one loads nothing.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    line: Option<(mpsc::Sender<Want>, Arc<Semaphore>)>,
}

impl Demand {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Want>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { line: Some((sender, Arc::new(Semaphore::new(WAITING)))) }, receiver)
    }

    /// Waits until a variant serves. One load serves all who wait for it.
    pub async fn want(&self, model: &str, variant: &VariantRef, deadline: Instant) -> Result<(), Unmet> {
        let refused = |why: &str| Err(Unmet::Refused(why.to_owned()));
        let Some((line, places)) = &self.line else { return Err(Unmet::Nobody) };
        let Ok(_place) = places.try_acquire() else { return refused("too many requests wait for engines to load") };
        let (reply, answer) = oneshot::channel();
        let want = Want { model: canonical_model(model), variant: variant.clone(), reply };
        if line.try_send(want).is_err() {
            return refused("this sidecar is shutting down");
        }
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome.map_err(Unmet::Refused),
            Ok(Err(_)) => refused("this sidecar is shutting down"),
            Err(_) => Err(Unmet::Deadline),
        }
    }
}
