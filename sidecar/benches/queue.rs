//! How many texts a second the queue passes to one device and to two, and to executors that take no time.
//!
//! Enters: `--rounds N`. Leaves: texts a second of the three, and how near two devices come to twice one. Never: an engine; a batch takes its
//! device for as long as an H200 took for one (about 1 ms for 512 short texts), and nobody computes meanwhile.
//!
//! Requests are as large as those of `gpu_bench.py two-gpu`: what is measured is what they cost beside tokenizer, HTTP and engine. The sides
//! take turns. `cargo bench -p akidb-sidecar --bench queue`

#[path = "throughput/figures.rs"]
mod figures;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};
use akidb_domain::window::LaneId;
use akidb_sidecar::batcher::{Batcher, BatcherConfig, Work};
use akidb_sidecar::clock::Clock;
use akidb_sidecar::engine::{Engine, EngineError, Limits, TokenBatch};
use akidb_sidecar::metrics::Metrics;
use akidb_sidecar::telemetry::Telemetry;
use figures::median;

/// Texts of a request, their tokens, and requests at once.
const TEXTS: usize = 256;
const TOKENS: usize = 20;
const CLIENTS: usize = 64;
/// Contexts a device.
const CONTEXTS: usize = 2;
/// What a batch takes its device for: a fixed part, and one a text.
const FIXED: Duration = Duration::from_micros(100);
const A_TEXT: Duration = Duration::from_nanos(1_800);
const DIMENSION: usize = 384;
const WINDOW: Duration = Duration::from_millis(1_000);

/// One context. The next ones are of the devices in turn.
struct Sleeper {
    /// None: a batch takes no time.
    device: Option<Arc<Mutex<()>>>,
    spare: Vec<f32>,
    others: Vec<Box<dyn Engine>>,
}

impl Engine for Sleeper {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        if let Some(device) = &self.device {
            let _alone = device.lock().unwrap_or_else(PoisonError::into_inner);
            std::thread::sleep(FIXED + A_TEXT * batch.rows as u32);
        }
        let mut vectors = std::mem::take(&mut self.spare);
        vectors.clear();
        vectors.resize(batch.rows * DIMENSION, 0.5);
        Ok(vectors)
    }

    fn dimension(&self) -> usize {
        DIMENSION
    }

    fn provider(&self) -> ExecutionProvider {
        ExecutionProvider::Cpu
    }

    fn limits(&self) -> Option<Limits> {
        Some(Limits { max_rows: 512, max_tokens: 512 * 256, lengths: Arc::from([16, 24, 32, 64, 128, 256]) })
    }

    fn contexts(&mut self) -> Vec<Box<dyn Engine>> {
        std::mem::take(&mut self.others)
    }

    fn reuse(&mut self, vectors: Vec<f32>) {
        self.spare = vectors;
    }
}

fn engine(devices: usize, takes_time: bool) -> Box<dyn Engine> {
    let devices: Vec<Option<Arc<Mutex<()>>>> = (0..devices).map(|_| takes_time.then(Arc::default)).collect();
    let context = |device: &Option<Arc<Mutex<()>>>| Sleeper { device: device.clone(), spare: Vec::new(), others: Vec::new() };
    let mut all = (0..CONTEXTS).flat_map(|_| devices.iter().map(context));
    let first = all.next();
    let others = all.map(|it| Box::new(it) as Box<dyn Engine>).collect();
    Box::new(first.map_or_else(|| unreachable!("there is a device"), |it| Sleeper { others, ..it }))
}

/// Texts a second.
async fn measure(devices: usize, takes_time: bool) -> f64 {
    let config = BatcherConfig {
        workers: CONTEXTS * devices,
        devices,
        max_queued_texts: usize::MAX,
        max_queued: Duration::from_secs(60),
        ..BatcherConfig::default()
    };
    let (telemetry, mut observations) = Telemetry::channel(Clock::start());
    let drain = tokio::spawn(async move { while observations.recv().await.is_some() {} });
    let started = Metrics::new()
        .map_err(|it| it.to_string())
        .and_then(|metrics| Batcher::start(config, &telemetry, &metrics).map_err(|it| it.to_string()));
    let (batcher, _threads) = started.unwrap_or_else(|why| panic!("{why}"));
    let engine = batcher.install(engine(devices, takes_time)).await;
    let lane = Arc::new(LaneId {
        model: "m".into(),
        version: String::new(),
        variant: "v".into(),
        precision: Precision::Fp16,
        arm: Arm::Baseline,
        experiment: String::new(),
        phase: 0,
        digest: String::new(),
        provider: ExecutionProvider::Cpu,
        fallback: false,
    });
    let (texts, ends) = (Arc::new(AtomicU64::new(0)), Instant::now() + WINDOW);
    let client = || {
        let (batcher, lane, texts) = (batcher.clone(), lane.clone(), texts.clone());
        tokio::spawn(async move {
            while Instant::now() < ends {
                let work = Work {
                    lane: lane.clone(),
                    engine,
                    texts: vec![vec![7; TOKENS]; TEXTS],
                    deadline: Instant::now() + Duration::from_secs(30),
                    app: String::new(),
                    trace: None,
                    probe: None,
                };
                match batcher.submit(work).await {
                    Ok(done) => texts.fetch_add(done.vectors.len() as u64, Ordering::Relaxed),
                    Err(error) => panic!("{error}"),
                };
            }
        })
    };
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS).map(|_| client()).collect();
    for each in clients {
        each.await.unwrap_or_else(|error| panic!("{error}"));
    }
    let rate = texts.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    batcher.shutdown(Instant::now() + Duration::from_secs(5)).await;
    drop((batcher, telemetry));
    drain.abort();
    rate
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` builds benches too, and passes `--test` when it runs them.
    if arguments.iter().any(|it| it == "--test") {
        return ExitCode::SUCCESS;
    }
    let rounds = figures::rounds(&arguments, 5);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut one, mut two, mut queue): (Vec<f64>, Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        one.push(runtime.block_on(measure(1, true)));
        two.push(runtime.block_on(measure(2, true)));
        queue.push(runtime.block_on(measure(2, false)));
    }
    let (one, two, queue) = (median(&one), median(&two), median(&queue));
    println!("the queue alone {queue:.0} texts/s");
    println!("one device {one:.0} texts/s, two {two:.0}: {:.2} times ({rounds} rounds, {CONTEXTS} contexts a device)", two / one);
    ExitCode::SUCCESS
}
