//! The real engine by itself: parked and not, interrupted and whole.

use std::time::{Duration, Instant};

use akidb_domain::reference::cosine;
use akidb_sidecar::engine::onnx::{self, Loader};
use akidb_sidecar::engine::{Engine, EngineError, EngineSpec, TokenBatch};

use super::rig::engine_spec;
use super::shared;

fn batch(rows: usize, tokens: usize) -> TokenBatch {
    TokenBatch { rows, tokens, ids: (0..rows * tokens).map(|it| 1_000 + it as i64 % 900).collect(), mask: vec![1; rows * tokens] }
}

/// Two threads on any machine: one of them is parked.
fn spec() -> EngineSpec {
    EngineSpec { threads: 2, ..engine_spec(&shared().manifest) }
}

#[test]
fn a_parked_engine_answers_the_same_on_one_thread_and_can_be_dropped() {
    let batch = batch(4, 32);
    let whole = onnx::load(&spec()).unwrap().run(&batch).unwrap();
    let mut parked = Loader::new(&spec()).unwrap().load().unwrap();
    assert!(cosine(&parked.run(&batch).unwrap(), &whole) >= 0.9999);
    parked.unpark();
    assert!(cosine(&parked.run(&batch).unwrap(), &whole) >= 0.9999);
    // Its thread waits still; the drop must not wait for it.
    drop(Loader::new(&spec()).unwrap().load().unwrap());
    drop(Loader::new(&spec()).unwrap());
}

#[test]
fn a_batch_is_interrupted_soon_and_the_next_one_is_whole() {
    let mut engine = onnx::load(&spec()).unwrap();
    let long = batch(64, 256);
    // How soon is a matter of who gets a core: the soonest of some tries counts, by the time of a whole batch right after it.
    let soonest = (0..5).map(|_| interrupted(&mut *engine, &long)).fold(f64::INFINITY, f64::min);
    assert!(soonest < 0.5, "ended {soonest:.2} of a whole batch's time after the interrupt");
    // Batches of requests do not yield.
    engine.interrupt().unwrap()();
    assert!(engine.run(&batch(1, 8)).is_ok());
}

/// Interrupts a batch; from then to its end, by the time of a whole one. An interrupt that came too late counts for nothing.
fn interrupted(engine: &mut dyn Engine, long: &TokenBatch) -> f64 {
    let interrupt = engine.interrupt().unwrap();
    let (result, took) = std::thread::scope(|it| {
        let interrupted = it.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            let at = Instant::now();
            interrupt();
            at
        });
        let (result, ended) = (engine.run_yielding(long), Instant::now());
        (result, ended.saturating_duration_since(interrupted.join().unwrap()))
    });
    if result.is_ok() {
        // It is the next batch's.
        drop(engine.run_yielding(long));
        return f64::INFINITY;
    }
    assert!(matches!(result, Err(EngineError::Interrupted)), "{result:?}");
    let from = Instant::now();
    assert_eq!(engine.run_yielding(long).unwrap().len(), 64 * 384);
    took.as_secs_f64() / from.elapsed().as_secs_f64()
}
