//! Engines replaced through the catalog's aliases while applications ask.
//!
//! `AKIDB_SWAPS=100 cargo test --release -p akidb-testkit --test it swaps -- --nocapture` prints the figures for the record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use akidb_testkit::{System, twin};
use serde_json::{Value, json};

const MODEL: &str = "all-MiniLM-L6-v2";
/// Swaps in the suite; more with `AKIDB_SWAPS`.
const SWAPS: usize = 6;
/// How long one may take: a load gives way to requests, and to whatever else the machine does.
const SWAP: Duration = Duration::from_secs(300);
/// A p99 from fewer requests would be one of them.
const BEFORE: usize = 1_000;

/// Clients that keep every latency and every answer that is no 200.
struct Measured {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Vec<f64>, usize)>>,
}

impl Measured {
    fn start(system: &System, clients: usize, most: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..clients).map(|_| {
            let (stop, client) = (stop.clone(), system.client());
            std::thread::spawn(move || {
                let (mut took, mut failed) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) && took.len() < most {
                    let started = Instant::now();
                    let (status, _) =
                        client.embed(&json!({"text": "a sentence that is embedded while engines come and go", "timeout_ms": 55_000}));
                    failed += usize::from(status != 200);
                    took.push(started.elapsed().as_secs_f64() * 1e3);
                    std::thread::sleep(Duration::from_millis(8));
                }
                (took, failed)
            })
        });
        Self { stop: stop.clone(), threads: threads.collect() }
    }

    fn finish(self) -> (Vec<f64>, usize) {
        let (mut all, mut failures) = (Vec::new(), 0);
        for thread in self.threads {
            let (took, failed) = thread.join().expect("a client");
            all.extend(took);
            failures += failed;
        }
        all.sort_by(f64::total_cmp);
        (all, failures)
    }
}

fn p99(sorted: &[f64]) -> f64 {
    sorted[sorted.len() * 99 / 100]
}

#[test]
fn no_request_fails_while_an_alias_moves_between_two_versions() {
    let swaps = std::env::var("AKIDB_SWAPS").map_or(SWAPS, |it| it.parse().expect("AKIDB_SWAPS is a number"));
    let system = System::ready(None);
    let folder = system.path("twin");
    twin(&folder, "fp32");
    system.akidb(&["models", "import", &folder.display().to_string(), "--version", "2"]);

    let (before, failed_before) = Measured::start(&system, 2, BEFORE / 2).finish();
    let clients = Measured::start(&system, 2, usize::MAX);
    for n in 0..swaps {
        let version = if n % 2 == 0 { "2" } else { "1" };
        for alias in ["default", "stable"] {
            system.akidb(&["aliases", "set", MODEL, alias, "fp32", "--version", version]);
        }
        system.until(SWAP, |it| {
            let models = it.get("/api/v1/models").1;
            let variants = models["models"][0]["variants"].as_array().expect("variants");
            let here = |it: &&Value| it["version"] == version && it["state"] == "ready";
            // The one before is gone, so the next swap is a load again.
            if variants.len() == 1 && variants.iter().any(|it| here(&it)) { Ok(()) } else { Err(format!("swap {n}: {models}")) }
        });
    }
    clients.stop.store(true, Ordering::Relaxed);
    let (during, failed) = clients.finish();
    println!(
        "{swaps} swaps: {} requests, {failed} failed; p99 {:.1} ms before ({} requests), {:.1} ms during: {:.2} x",
        during.len(),
        p99(&before),
        before.len(),
        p99(&during),
        p99(&during) / p99(&before)
    );
    assert_eq!((failed_before, failed), (0, 0));
    assert!(during.len() > swaps, "{} requests", during.len());
}
