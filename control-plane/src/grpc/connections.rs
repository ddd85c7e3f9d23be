//! Who is connected now. Enters: streams that open and close. Leaves: whether a sidecar has one. Never: two streams of one sidecar; the
//! newer ends the older.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Most streams at a time.
const MOST: usize = 20_000;

/// The streams that are open; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    open: Arc<Mutex<HashMap<String, CancellationToken>>>,
    metrics: Arc<Metrics>,
}

/// An open stream; closes its entry when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    id: String,
    /// Cancelled when a newer stream of the same sidecar opens.
    pub(crate) replaced: CancellationToken,
    of: Connections,
}

impl Connections {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { open: Arc::default(), metrics }
    }

    /// Enters a stream; `None` when there are too many.
    pub(crate) fn open(&self, id: &str, stop: &CancellationToken) -> Option<Connection> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST && !open.contains_key(id) {
            return None;
        }
        let replaced = stop.child_token();
        if let Some(older) = open.insert(id.to_owned(), replaced.clone()) {
            older.cancel();
        }
        self.metrics.sidecars_connected.set(open.len() as i64);
        Some(Connection { id: id.to_owned(), replaced, of: self.clone() })
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn is_open(&self, id: &str) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Under the lock: `open` cancels a stream that it replaces, and that one has no entry of its own any more.
        let mut open = self.of.open.lock().unwrap_or_else(PoisonError::into_inner);
        if self.replaced.is_cancelled() {
            return;
        }
        open.remove(&self.id);
        self.of.metrics.sidecars_connected.set(open.len() as i64);
    }
}
