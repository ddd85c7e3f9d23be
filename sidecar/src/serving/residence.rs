//! An engine's place in memory. Enters: requests that use it. Leaves: when that was last, and how many do now. Never: a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an engine takes, and who uses it; shared by every variant that it serves.
#[derive(Debug, Default)]
pub struct Residence {
    /// Bytes of the host's memory, of both where CPU and GPU share theirs: measured when it was loaded, never less than its files.
    pub memory_bytes: u64,
    /// Bytes of each GPU's own memory, measured likewise.
    pub gpu_memory_bytes: u64,
    last_used_ns: AtomicU64,
    requests: AtomicU64,
}

/// A request that uses the engine, until it is dropped.
#[derive(Debug)]
pub struct InUse(Arc<Residence>);

impl Residence {
    /// A new engine counts as used now.
    pub fn new(memory_bytes: u64, gpu_memory_bytes: u64, now_ns: u64) -> Self {
        Self { memory_bytes, gpu_memory_bytes, last_used_ns: now_ns.into(), requests: AtomicU64::new(0) }
    }

    /// A request begins; while it lives, the engine is not evicted.
    pub fn enter(self: &Arc<Self>, now_ns: u64) -> InUse {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.last_used_ns.fetch_max(now_ns, Ordering::AcqRel);
        InUse(self.clone())
    }

    /// Unix ns of the last request's begin.
    pub fn last_used_ns(&self) -> u64 {
        self.last_used_ns.load(Ordering::Acquire)
    }

    /// Whether a request is between its route and its answer.
    pub fn in_use(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}
