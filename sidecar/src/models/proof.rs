//! An engine loaded and proven on a thread of its own, beside the requests that other engines serve.
//!
//! Enters: what to load, batches of its reference texts. Leaves: the engine and its vectors. Never: a moment of the device's executor; while
//! others serve, more than a low priority and one thread.

use std::sync::{Arc, OnceLock};
use std::thread::Builder;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;

use crate::engine::onnx::Loader;
use crate::engine::{Engine, EngineError, EngineSpec, Stop, TokenBatch, checked};

/// Added to the niceness of the loading thread: on busy cores it gets about a tenth of one.
const NICE: i32 = 10;
/// Batches that warm the engine up before the proof.
const WARM_UP: usize = 2;

/// What to load and how.
pub(super) struct Proof {
    pub(super) spec: EngineSpec,
    /// Texts by their places, and their tokens.
    pub(super) batches: Vec<(Vec<usize>, TokenBatch)>,
    pub(super) texts: usize,
    /// Something serves meanwhile: the load makes room for it.
    pub(super) beside: bool,
    /// Gets each step's cause, and how long the whole device would have taken for it.
    pub(super) tell: Arc<dyn Fn(&'static str, Duration) + Send + Sync>,
}

/// A loaded engine and its answers.
pub(super) struct Proven {
    pub(super) engine: Box<dyn Engine>,
    /// One a text, in their order.
    pub(super) vectors: Vec<Vec<f32>>,
}

/// Ends the engine's work if the one who waits for it leaves.
struct StopOnDrop(Option<Arc<OnceLock<Stop>>>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(stop) = self.0.as_ref().and_then(|it| it.get()) {
            stop();
        }
    }
}

impl Proof {
    /// Loads and runs all batches. Dropping the future stops the engine.
    pub(super) async fn run(self) -> Result<Proven, EngineError> {
        let stop = Arc::new(OnceLock::new());
        // Its threads are started here, at this thread's priority; the load itself runs on the other.
        let loader = Loader::new(&self.spec)?;
        let (done, proven) = oneshot::channel();
        let slot = stop.clone();
        let work = move || {
            let result = self.work(loader, &slot, &|| done.is_closed());
            // Who asked may have left.
            drop(done.send(result));
        };
        Builder::new().name("load".into()).spawn(work).map_err(|it| EngineError::Load(format!("its thread: {it}")))?;
        let mut guard = StopOnDrop(Some(stop));
        let result = proven.await.unwrap_or_else(|_| Err(EngineError::Load("the load panicked".into())));
        guard.0 = None;
        result
    }

    /// `left`: whoever waited is gone. A session that was being made then could not be stopped; nothing is run on it.
    fn work(&self, loader: Loader, stop: &OnceLock<Stop>, left: &dyn Fn() -> bool) -> Result<Proven, EngineError> {
        if self.beside {
            lower_priority();
        }
        let mut engine = self.timed("load", || loader.load())?;
        if let Some(it) = engine.stop() {
            stop.get_or_init(|| it);
        }
        if !self.beside {
            engine.unpark();
        }
        let mut run = |cause, batch| {
            if left() {
                return Err(EngineError::Interrupted);
            }
            self.timed(cause, || checked(&mut *engine, batch, |it, batch| it.run(batch)))
        };
        for (_, batch) in self.batches.iter().take(WARM_UP) {
            run("warmup", batch)?;
        }
        let mut vectors = vec![Vec::new(); self.texts];
        for (texts, batch) in &self.batches {
            let got = run("parity", batch)?;
            for (text, vector) in texts.iter().zip(got.chunks(self.spec.dimension.max(1))) {
                vectors[*text] = vector.to_vec();
            }
        }
        engine.unpark();
        Ok(Proven { engine, vectors })
    }

    /// Beside others, one thread's own time counts, as its part of the device; else the device was all its.
    fn timed<T>(&self, cause: &'static str, work: impl FnOnce() -> T) -> T {
        let (wall, own) = (Instant::now(), own_time());
        let result = work();
        let part = (own_time().saturating_sub(own)) / self.spec.threads.max(1) as u32;
        (self.tell)(cause, if self.beside { part } else { wall.elapsed() });
        result
    }
}

/// Processor time of this thread.
fn own_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// Of this thread alone: Linux keeps a niceness for each.
fn lower_priority() {
    let set = rustix::process::nice(NICE);
    if let Err(error) = set {
        tracing::warn!(%error, "the priority of a load could not be lowered");
    }
}
