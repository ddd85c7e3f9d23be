//! The whole system as processes: what a user would see.

mod counting;
mod money;
mod rollouts;
mod survival;
mod swaps;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use akidb_testkit::System;
use serde_json::json;

/// Clients that send until told to stop; every answer must be a 200.
struct Clients {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(system: &System, n: usize) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..n).map(|i| {
            let (stop, sent, client) = (stop.clone(), sent.clone(), system.client());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let (status, body) = client.embed(&json!({"text": format!("request of client {i}"), "timeout_ms": 55_000}));
                    assert_eq!(status, 200, "{body}");
                    sent.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(15));
                }
            })
        });
        let threads = threads.collect();
        Self { stop, sent, threads }
    }

    /// Stops them and says how many requests they sent in all.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client that saw only 200");
        }
        self.sent.load(Ordering::Relaxed)
    }
}

/// Requests in the fleet's ledger.
fn counted(system: &System) -> u64 {
    let costs = system.akidb(&["costs", "--group-by", "model"]);
    let rows = costs["costs"].as_array().expect("rows");
    rows.iter().map(|row| row["requests"].as_u64().expect("a count")).sum()
}

/// Waits until the ledger shows exactly `n`, then a little longer to see that it stays there. A sidecar that found no control plane for long
/// comes back within half a minute.
fn until_counted(system: &System, n: u64) {
    system.until(std::time::Duration::from_secs(180), |it| match counted(it) {
        got if got >= n => Ok(()),
        got => Err(format!("{got} of {n} requests counted")),
    });
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert_eq!(counted(system), n);
}
