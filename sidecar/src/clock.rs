//! Time that only runs forward: the wall clock at boot plus monotonic time since.
//!
//! Enters: nothing after boot. Leaves: Unix nanoseconds. Never: a step when somebody sets the machine's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A boot's clock; cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    boot: Instant,
    boot_unix_ns: u64,
}

impl Clock {
    /// Starts now. The one place that reads the wall clock.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { boot: Instant::now(), boot_unix_ns: since_epoch.as_nanos() as u64 }
    }

    /// Unix ns at boot.
    pub fn boot_unix_ns(self) -> u64 {
        self.boot_unix_ns
    }

    /// Unix ns of a moment after boot.
    pub fn unix_ns(self, at: Instant) -> u64 {
        self.boot_unix_ns + at.saturating_duration_since(self.boot).as_nanos() as u64
    }

    /// Unix ns now.
    pub fn now_ns(self) -> u64 {
        self.unix_ns(Instant::now())
    }
}
