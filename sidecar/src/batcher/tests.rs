//! The batcher with an engine whose speed the test decides.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};

use super::*;
use crate::clock::Clock;
use crate::engine::Stop;

/// An id that the engine cannot stand.
const POISON: u32 = 666;

/// An id of a text whose shape the engine records.
const RECORDED: u32 = 777;

/// Answers each text with its first id, when the test lets it.
struct Stub {
    go: Receiver<Result<(), String>>,
    batches: Arc<Mutex<Vec<TokenBatch>>>,
    /// Memory that came back.
    spare: Mutex<Option<Vec<f32>>>,
    /// A shape is to be recorded, and how many were.
    due: AtomicBool,
    shapes: usize,
    /// A batch waits for the test.
    inside: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
}

impl Stub {
    fn new(go: Receiver<Result<(), String>>, batches: Arc<Mutex<Vec<TokenBatch>>>) -> Self {
        Self {
            go,
            batches,
            spare: Mutex::default(),
            due: AtomicBool::default(),
            shapes: 0,
            inside: Arc::default(),
            stopped: Arc::default(),
            interrupted: Arc::default(),
        }
    }
}

/// What [`Stub::wait`] says of an interrupted batch.
const INTERRUPTED: &str = "interrupted";

impl Stub {
    fn wait(&self, yields: bool) -> Result<(), String> {
        loop {
            if yields && self.interrupted.swap(false, Ordering::Relaxed) {
                return Err(INTERRUPTED.into());
            }
            match self.go.recv_timeout(Duration::from_millis(5)) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if self.stopped.load(Ordering::Relaxed) => return Err("stopped".into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn answer(&self, batch: &TokenBatch, yields: bool) -> Result<Vec<f32>, EngineError> {
        self.inside.store(true, Ordering::SeqCst);
        self.batches.lock().unwrap().push(batch.clone());
        let result = self.outcome(batch, yields);
        self.inside.store(false, Ordering::SeqCst);
        match result {
            Err(EngineError::Run(cause)) if cause == "panic" => panic!("as told"),
            other => other,
        }
    }

    fn outcome(&self, batch: &TokenBatch, yields: bool) -> Result<Vec<f32>, EngineError> {
        if batch.ids.contains(&i64::from(POISON)) {
            return Err(EngineError::Run("poison".into()));
        }
        match self.wait(yields) {
            Err(cause) if cause == INTERRUPTED => Err(EngineError::Interrupted),
            Err(cause) => Err(EngineError::Run(cause)),
            Ok(()) => {
                let mut vectors = self.spare.lock().unwrap().take().unwrap_or_default();
                vectors.clear();
                vectors.extend(batch.ids.chunks(batch.tokens).map(|it| it[0] as f32));
                self.due.store(batch.ids.contains(&i64::from(RECORDED)), Ordering::SeqCst);
                Ok(vectors)
            }
        }
    }
}

impl Engine for Stub {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        self.answer(batch, false)
    }

    fn run_yielding(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        self.answer(batch, true)
    }

    fn interrupt(&self) -> Option<Stop> {
        let interrupted = self.interrupted.clone();
        Some(Arc::new(move || interrupted.store(true, Ordering::Relaxed)))
    }

    fn dimension(&self) -> usize {
        1
    }

    fn provider(&self) -> ExecutionProvider {
        ExecutionProvider::Cpu
    }

    fn settle(&mut self) -> bool {
        let due = self.due.swap(false, Ordering::SeqCst);
        self.shapes += usize::from(due);
        due
    }

    fn recorded(&self) -> usize {
        self.shapes
    }

    fn reuse(&mut self, vectors: Vec<f32>) {
        *self.spare.lock().unwrap() = Some(vectors);
    }

    fn stop(&self) -> Option<Stop> {
        let stopped = self.stopped.clone();
        Some(Arc::new(move || stopped.store(true, Ordering::Relaxed)))
    }
}

struct Rig {
    batcher: Batcher,
    engine: EngineId,
    go: Sender<Result<(), String>>,
    batches: Arc<Mutex<Vec<TokenBatch>>>,
    inside: Arc<AtomicBool>,
    metrics: Metrics,
    observations: tokio::sync::mpsc::Receiver<crate::telemetry::Observation>,
}

impl Rig {
    async fn start(config: BatcherConfig) -> Self {
        let (telemetry, observations) = Telemetry::channel(Clock::start());
        let metrics = Metrics::new().unwrap();
        let (batcher, _thread) = Batcher::start(config, &telemetry, &metrics).unwrap();
        let (go, receiver) = channel();
        let ran = Arc::new(Mutex::new(Vec::new()));
        let stub = Stub::new(receiver, ran.clone());
        let inside = stub.inside.clone();
        let engine = batcher.install(Box::new(stub)).await;
        Self { batcher, engine, go, batches: ran, inside, metrics, observations }
    }

    fn work(&self, texts: &[&[u32]], timeout: Duration) -> Work {
        let lane = LaneId {
            model: "m".into(),
            version: "1".into(),
            variant: "fp32".into(),
            precision: Precision::Fp32,
            arm: Arm::Baseline,
            experiment: String::new(),
            phase: 0,
            digest: "d".into(),
            provider: ExecutionProvider::Cpu,
            fallback: false,
        };
        let texts = texts.iter().map(|it| it.to_vec()).collect();
        Work {
            lane: Arc::new(lane),
            engine: self.engine,
            texts,
            deadline: Instant::now() + timeout,
            app: String::new(),
            trace: None,
            probe: None,
        }
    }

    /// Submits in the background and waits until the engine has it, or the queue while the engine has something else.
    async fn submit(&self, texts: &[&[u32]]) -> tokio::task::JoinHandle<Result<Embedded, BatchError>> {
        let (busy, ran, depth) = (self.inside.load(Ordering::SeqCst), self.ran(), self.depth());
        let (batcher, work) = (self.batcher.clone(), self.work(texts, Duration::from_secs(300)));
        let task = tokio::spawn(async move { batcher.submit(work).await });
        until(|| self.ran() > ran || (busy && self.depth() > depth)).await;
        task
    }

    /// Texts that wait.
    fn depth(&self) -> i64 {
        self.metrics.lane("m", "fp32").queue_depth.get()
    }

    fn ran(&self) -> usize {
        self.batches.lock().unwrap().len()
    }
}

/// Waits until something holds, for as long as a busy machine may need.
async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.expect("it holds within two minutes");
}

#[tokio::test]
async fn texts_come_back_in_order_and_padding_is_masked() {
    let rig = Rig::start(BatcherConfig { max_batch_tokens: 4, ..BatcherConfig::default() }).await;
    let first = rig.submit(&[&[7, 1], &[8, 1, 2, 3], &[9, 1]]).await;
    for _ in 0..3 {
        rig.go.send(Ok(())).unwrap();
    }
    let done = first.await.unwrap().unwrap();
    assert_eq!(done.vectors, [[7.0], [8.0], [9.0]]);
    assert!(done.engine_share_ns > 0 && done.engine_share_ns <= done.engine.as_nanos() as u64);
    assert!(rig.batches.lock().unwrap().iter().all(|it| it.mask.iter().zip(&it.ids).all(|(m, id)| (*m == 1) == (*id != 0))));
}

#[tokio::test]
async fn tensorrt_provider_test_a_shape_is_recorded_after_the_answer_and_counted() {
    let mut rig = Rig::start(BatcherConfig::default()).await;
    for id in [7, RECORDED, 8, RECORDED] {
        let answer = rig.submit(&[&[id]]).await;
        rig.go.send(Ok(())).unwrap();
        assert_eq!(answer.await.unwrap().unwrap().vectors, [[id as f32]]);
    }
    let metrics = rig.metrics.clone();
    until(|| metrics.lane("m", "fp32").cuda_graphs.get() == 2).await;
    let batch = TokenBatch { rows: 1, tokens: 1, ids: vec![i64::from(RECORDED)], mask: vec![1] };
    rig.go.send(Ok(())).unwrap();
    rig.batcher.run_overhead(rig.engine, batch, "warmup", "m", "fp32").await.unwrap();
    until(|| metrics.lane("m", "fp32").cuda_graphs.get() == 3).await;
    let mut causes = Vec::new();
    while causes.len() < 4 {
        if let crate::telemetry::Observation::Overhead { cause, from, to, .. } = rig.observations.recv().await.unwrap() {
            assert!(from <= to);
            causes.push(cause);
        }
    }
    assert_eq!(causes, ["recording", "recording", "warmup", "recording"]);
}

#[tokio::test]
async fn tensorrt_provider_test_a_number_of_workers_that_cannot_be_is_refused_by_name() {
    let (telemetry, _observations) = Telemetry::channel(Clock::start());
    for workers in [0, MAX_WORKERS + 1] {
        let config = BatcherConfig { workers, ..BatcherConfig::default() };
        let error = Batcher::start(config, &telemetry, &Metrics::new().unwrap()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{workers} threads for batches; 1 to 128 can be")) && error.contains("`runtime.contexts`"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_deadline_does_not_wait_for_the_engine() {
    let rig = Rig::start(BatcherConfig::default()).await;
    // The engine answers nobody.
    let got = tokio::time::timeout(Duration::from_secs(120), rig.batcher.submit(rig.work(&[&[1]], Duration::from_millis(50)))).await;
    assert_eq!(got, Ok(Err(BatchError::Deadline)));
}

#[tokio::test]
async fn work_of_a_client_that_left_is_dropped() {
    let rig = Rig::start(BatcherConfig::default()).await;
    let busy = rig.submit(&[&[1]]).await;
    let gone = rig.submit(&[&[2]]).await;
    gone.abort();
    drop(gone.await);
    let stays = rig.submit(&[&[3]]).await;
    rig.go.send(Ok(())).unwrap();
    rig.go.send(Ok(())).unwrap();
    assert_eq!(busy.await.unwrap().unwrap().vectors, [[1.0]]);
    assert_eq!(stays.await.unwrap().unwrap().vectors, [[3.0]]);
    assert!(rig.batches.lock().unwrap().iter().all(|it| !it.ids.contains(&2)));
}

#[tokio::test]
async fn what_waited_behind_a_batch_runs_together() {
    let rig = Rig::start(BatcherConfig::default()).await;
    let mut tasks = vec![rig.submit(&[&[1, 1]]).await];
    for _ in 0..10 {
        tasks.push(rig.submit(&[&[2, 2]]).await);
    }
    rig.go.send(Ok(())).unwrap();
    rig.go.send(Ok(())).unwrap();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(rig.batches.lock().unwrap().iter().map(|it| it.rows).collect::<Vec<_>>(), [1, 10]);
}

#[tokio::test]
async fn a_failed_or_panicking_batch_fails_its_requests_only() {
    let rig = Rig::start(BatcherConfig::default()).await;
    for cause in ["out of memory", "panic"] {
        let fails = rig.submit(&[&[1]]).await;
        rig.go.send(Err(cause.into())).unwrap();
        assert!(matches!(fails.await.unwrap(), Err(BatchError::Engine(_))));
    }
    let works = rig.submit(&[&[1]]).await;
    rig.go.send(Ok(())).unwrap();
    assert!(works.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_full_queue_says_so_and_a_timed_out_request_gives_its_place_back() {
    let rig = Rig::start(BatcherConfig { max_queued_texts: 2, ..BatcherConfig::default() }).await;
    let _busy = rig.submit(&[&[1]]).await;
    let waits = rig.submit(&[&[2], &[2]]).await;
    let refused = rig.batcher.submit(rig.work(&[&[3]], Duration::from_secs(1))).await;
    assert!(matches!(refused, Err(BatchError::QueueFull { .. })), "{refused:?}");
    waits.abort();
    drop(waits.await);
    let room = rig.batcher.submit(rig.work(&[&[3]], Duration::from_millis(50))).await;
    assert_eq!(room, Err(BatchError::Deadline), "it was let in");
}

#[tokio::test]
async fn an_engine_leaves_after_its_work() {
    let rig = Rig::start(BatcherConfig::default()).await;
    let busy = rig.submit(&[&[1]]).await;
    let (batcher, engine) = (rig.batcher.clone(), rig.engine);
    let removed = tokio::spawn(async move { batcher.remove(engine).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!removed.is_finished());
    rig.go.send(Ok(())).unwrap();
    assert!(busy.await.unwrap().is_ok());
    removed.await.unwrap();
    assert_eq!(rig.batcher.submit(rig.work(&[&[1]], Duration::from_secs(1))).await, Err(BatchError::Gone));
}

#[tokio::test]
async fn a_shutdown_finishes_what_waits_and_takes_no_more() {
    let rig = Rig::start(BatcherConfig::default()).await;
    let busy = rig.submit(&[&[1]]).await;
    let waits = rig.submit(&[&[2]]).await;
    let batcher = rig.batcher.clone();
    let stopped = tokio::spawn(async move { batcher.shutdown(Instant::now() + Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(rig.batcher.submit(rig.work(&[&[1]], Duration::from_secs(1))).await, Err(BatchError::Closed));
    rig.go.send(Ok(())).unwrap();
    rig.go.send(Ok(())).unwrap();
    assert!(busy.await.unwrap().is_ok() && waits.await.unwrap().is_ok());
    stopped.await.unwrap();
    assert_eq!(rig.ran(), 2);
}

#[tokio::test]
async fn overhead_runs_when_nothing_waits() {
    let rig = Rig::start(BatcherConfig::default()).await;
    rig.go.send(Ok(())).unwrap();
    let batch = TokenBatch { rows: 1, tokens: 2, ids: vec![5, 6], mask: vec![1, 1] };
    assert_eq!(rig.batcher.run_overhead(rig.engine, batch, "warmup", "m", "fp32").await.unwrap().0, [5.0]);
}

#[tokio::test]
async fn overhead_makes_room_for_a_request() {
    let rig = Rig::start(BatcherConfig::default()).await;
    let (batcher, engine) = (rig.batcher.clone(), rig.engine);
    let batch = TokenBatch { rows: 1, tokens: 2, ids: vec![5, 6], mask: vec![1, 1] };
    let overhead = tokio::spawn(async move { batcher.run_overhead(engine, batch, "warmup", "m", "fp32").await });
    until(|| rig.ran() == 1).await;
    let request = rig.submit(&[&[7]]).await;
    assert!(matches!(overhead.await.unwrap(), Err(EngineError::Interrupted)));
    rig.go.send(Ok(())).unwrap();
    assert_eq!(request.await.unwrap().unwrap().vectors, [[7.0]]);
}

#[tokio::test]
async fn a_bad_text_does_not_fail_its_batch_mates() {
    let mut rig = Rig::start(BatcherConfig { max_batch_tokens: 4_096, ..BatcherConfig::default() }).await;
    let mut tasks = vec![rig.submit(&[&[1, 1]]).await];
    for id in 2..40 {
        tasks.push(rig.submit(&[&[if id == 17 { POISON } else { id }, 1]]).await);
    }
    // From here on the engine runs freely.
    rig.go = channel().0;
    let mut failed = Vec::new();
    for (id, task) in (1..).zip(tasks) {
        match task.await.unwrap() {
            Ok(done) => assert_eq!(done.vectors, [[id as f32]]),
            Err(error) => failed.push((id, error)),
        }
    }
    assert!(matches!(failed.as_slice(), [(17, BatchError::Engine(_))]), "{failed:?}");
    assert!(rig.ran() <= 14, "{} runs", rig.ran());
}

#[tokio::test]
async fn an_engine_that_always_fails_is_not_tried_for_ever() {
    let rig = Rig::start(BatcherConfig { max_batch_tokens: 4_096, ..BatcherConfig::default() }).await;
    let busy = rig.submit(&[&[1]]).await;
    let many = vec![[POISON].as_slice(); 64];
    let fails = rig.submit(&many).await;
    rig.go.send(Ok(())).unwrap();
    assert!(busy.await.unwrap().is_ok());
    assert!(matches!(fails.await.unwrap(), Err(BatchError::Engine(_))));
    assert!(rig.ran() <= 26, "{} runs", rig.ran());
}

#[tokio::test]
async fn a_batch_past_the_deadline_of_a_shutdown_is_stopped() {
    let rig = Rig::start(BatcherConfig::default()).await;
    let busy = rig.submit(&[&[1], &[2]]).await;
    rig.batcher.shutdown(Instant::now() + Duration::from_millis(50)).await;
    // Nobody lets the engine go: it ends because it was stopped.
    tokio::time::timeout(Duration::from_secs(120), rig.batcher.queue.ended().wait_for(|it| *it)).await.unwrap().unwrap();
    assert!(busy.await.unwrap().is_err());
    assert!(rig.ran() <= 2, "a stopped batch is not tried again");
}

#[tokio::test]
async fn a_budget_is_learnt_unless_it_is_pinned() {
    for learn_budget in [true, false] {
        let mut rig = Rig::start(BatcherConfig { max_batch_tokens: 77, learn_budget, ..BatcherConfig::default() }).await;
        rig.go = channel().0;
        let budget = rig.batcher.learn_budget(rig.engine, family(1_000), 256).await;
        assert_eq!((budget != 77, rig.ran() > 0), (learn_budget, learn_budget), "{budget}");
    }
}

#[tokio::test]
async fn the_next_engine_of_a_variant_takes_its_budget_over() {
    let mut rig = Rig::start(BatcherConfig::default()).await;
    rig.go = channel().0;
    let budget = rig.batcher.learn_budget(rig.engine, family(1_000), 256).await;
    let (_go, receiver) = channel();
    let ran = Arc::new(Mutex::new(Vec::new()));
    // It would never answer a batch.
    let stub = Stub::new(receiver, ran.clone());
    let next = rig.batcher.install(Box::new(stub)).await;
    assert_eq!(rig.batcher.learn_budget(next, family(1_090), 256).await, budget);
    assert!(ran.lock().unwrap().is_empty());
    // Twice as large: another graph under the same name. This one runs freely.
    let stub = Stub::new(channel().1, ran.clone());
    let larger = rig.batcher.install(Box::new(stub)).await;
    rig.batcher.learn_budget(larger, family(2_000), 256).await;
    assert!(!ran.lock().unwrap().is_empty());
}

fn family(bytes: u64) -> Family<'static> {
    Family { model: "m", variant: "fp32", bytes }
}

#[tokio::test]
async fn a_probe_runs_both_engines_on_an_answered_batch_once_no_engine_is_loaded() {
    let mut rig = Rig::start(BatcherConfig::default()).await;
    let (ran, (go, receiver)) = (Arc::new(Mutex::new(Vec::new())), channel());
    let canary = rig.batcher.install(Box::new(Stub::new(receiver, ran.clone()))).await;
    // Its engine never waits for the test.
    drop(go);
    let budget = akidb_domain::snapshot::ProbeBudget { device_ppm: 1_000_000, idle_ppm: 0, shed_queue_texts: 8 };
    let pair = Arc::new(Pair { baseline: rig.engine, canary, canary_variant: "new".into(), budget });
    let held = rig.batcher.hold_probes();
    for id in 1..=150 {
        rig.go.send(Ok(())).unwrap();
        let mut work = rig.work(&[&[id, RECORDED]], Duration::from_secs(300));
        work.lane = Arc::new(LaneId { experiment: "e".into(), phase: 1, ..LaneId::clone(&work.lane) });
        work.probe = Some(pair.clone());
        assert_eq!(rig.batcher.submit(work).await.unwrap().vectors, [[id as f32]]);
        // The judge's thread, of a low priority, must come to take the vectors.
        until(|| rig.batcher.judge.waiting() == 0).await;
    }
    assert_eq!((rig.ran(), ran.lock().unwrap().len()), (150, 0), "an engine is being loaded");
    // The baseline's runs of a probe: one or two, as the draw goes.
    for _ in 0..2 {
        rig.go.send(Ok(())).unwrap();
    }
    drop(held);
    let (mut device, mut result) = (None, None);
    while result.is_none() {
        match tokio::time::timeout(Duration::from_secs(120), rig.observations.recv()).await.unwrap().unwrap() {
            crate::telemetry::Observation::Overhead { cause: "probe", experiment, variant, from, to, .. } => {
                device = Some((experiment, variant, to - from));
            }
            crate::telemetry::Observation::Probe { result: it, .. } => result = Some(it),
            _ => {}
        }
    }
    let (result, (experiment, variant, took)) = (result.unwrap(), device.unwrap());
    assert_eq!((experiment.as_str(), variant.as_str()), ("e", "new"));
    assert_eq!((result.experiment.as_str(), result.phase, result.texts, result.tokens), ("e", 1, 1, 2));
    assert!(took.as_nanos() as u64 >= result.canary_ns + result.baseline_ns);
    let (baseline, canary) = (rig.batches.lock().unwrap().clone(), ran.lock().unwrap().clone());
    let expected = if result.canary_first { (2, 1) } else { (1, 2) };
    assert_eq!((baseline.len() - 150, canary.len()), expected, "the second one runs before, untimed");
    assert!(baseline[150..].iter().chain(&canary).all(|it| *it == canary[0]), "the same tensors");
    assert!(baseline[..150].contains(&canary[0]), "those of a request");
    let metrics = rig.metrics.clone();
    until(|| metrics.lane("m", "new").cuda_graphs.get() == 1).await;
}

/// An engine with contexts that run at the same time: each batch waits until `together` of them are inside.
struct Wide {
    inside: Arc<(Mutex<usize>, std::sync::Condvar)>,
    together: usize,
    others: Vec<Box<dyn Engine>>,
    dropped: Arc<std::sync::atomic::AtomicUsize>,
}

impl Drop for Wide {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Engine for Wide {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        let (inside, changed) = &*self.inside;
        let mut count = inside.lock().unwrap();
        *count += 1;
        changed.notify_all();
        let (count, late) = changed.wait_timeout_while(count, Duration::from_secs(120), |it| *it < self.together).unwrap();
        drop(count);
        if late.timed_out() {
            Err(EngineError::Run("alone".into()))
        } else {
            Ok(batch.ids.iter().step_by(batch.tokens).map(|it| *it as f32).collect())
        }
    }

    fn dimension(&self) -> usize {
        1
    }

    fn provider(&self) -> ExecutionProvider {
        ExecutionProvider::TensorRt
    }

    fn limits(&self) -> Option<crate::engine::Limits> {
        Some(crate::engine::Limits { max_rows: 2, max_tokens: 32, lengths: vec![16].into() })
    }

    fn contexts(&mut self) -> Vec<Box<dyn Engine>> {
        std::mem::take(&mut self.others)
    }

    fn device_time(&self) -> Option<Duration> {
        Some(Duration::from_nanos(300))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensorrt_provider_test_contexts_run_at_the_same_time_and_leave_together() {
    let (telemetry, mut observations) = Telemetry::channel(Clock::start());
    let config = BatcherConfig { workers: 2, ..BatcherConfig::default() };
    let (batcher, threads) = Batcher::start(config, &telemetry, &Metrics::new().unwrap()).unwrap();
    assert_eq!(threads.len(), 2);
    let (inside, dropped) = (Arc::default(), Arc::default());
    let wide = |others| Wide { inside: Arc::clone(&inside), together: 2, others, dropped: Arc::clone(&dropped) };
    // One context more than there are executors.
    let engine = batcher.install(Box::new(wide(vec![Box::new(wide(Vec::new())), Box::new(wide(Vec::new()))]))).await;
    let (_go, receiver) = channel();
    let stub = Stub::new(receiver, Arc::default());
    let lone = batcher.install(Box::new(stub)).await;
    let rig = Rig {
        batcher: batcher.clone(),
        engine,
        go: channel().0,
        batches: Arc::default(),
        inside: Arc::default(),
        metrics: Metrics::new().unwrap(),
        observations: Telemetry::channel(Clock::start()).1,
    };
    let (work, other) = (rig.work(&[&[7], &[8]], Duration::from_secs(300)), rig.work(&[&[9], &[10]], Duration::from_secs(300)));
    let (first, second) = tokio::join!(batcher.submit(work), batcher.submit(other));
    assert_eq!((first.as_ref().unwrap().vectors.len(), second.unwrap().vectors.len()), (2, 2));
    // What the device says counts, not what the host waited.
    assert_eq!(first.unwrap().engine, Duration::from_nanos(300));
    batcher.remove(engine).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
    batcher.remove(lone).await;
    batcher.shutdown(Instant::now() + Duration::from_secs(5)).await;
    let mut workers = std::collections::BTreeSet::new();
    while let Ok(observation) = observations.try_recv() {
        if let crate::telemetry::Observation::BatchFinished(done) = observation {
            workers.insert(done.worker);
            assert_eq!(done.to - done.from, Duration::from_nanos(300));
        }
    }
    assert_eq!(workers.len(), 2);
}

/// Takes 40 ms for any batch, on any of its contexts.
struct Slow(Vec<Box<dyn Engine>>);

impl Engine for Slow {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        std::thread::sleep(Duration::from_millis(40));
        Ok(vec![1.0; batch.rows])
    }

    fn dimension(&self) -> usize {
        1
    }

    fn provider(&self) -> ExecutionProvider {
        ExecutionProvider::TensorRt
    }

    fn limits(&self) -> Option<crate::engine::Limits> {
        Some(crate::engine::Limits { max_rows: 1, max_tokens: 16, lengths: vec![16].into() })
    }

    fn contexts(&mut self) -> Vec<Box<dyn Engine>> {
        std::mem::take(&mut self.0)
    }
}

/// Device time that eight requests are charged for, four at a time on so many devices, over the time that passed.
async fn charged(devices: usize) -> f64 {
    let config = BatcherConfig { workers: 4, devices, ..BatcherConfig::default() };
    let mut rig = Rig::start(config).await;
    let others = (0..3).map(|_| Box::new(Slow(Vec::new())) as Box<dyn Engine>).collect();
    rig.engine = rig.batcher.install(Box::new(Slow(others))).await;
    let from = Instant::now();
    let mut asked = tokio::task::JoinSet::new();
    for id in 0..8 {
        let (batcher, work) = (rig.batcher.clone(), rig.work(&[&[id]], Duration::from_secs(20)));
        asked.spawn(async move { batcher.submit(work).await.unwrap() });
    }
    let shares: u64 = asked.join_all().await.into_iter().map(|it| it.engine_share_ns).sum();
    let passed = from.elapsed();
    rig.batcher.shutdown(Instant::now() + Duration::from_secs(5)).await;
    shares as f64 / passed.as_nanos() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_share_a_device_are_charged_its_time_once() {
    let (one, two) = (charged(1).await, charged(2).await);
    assert!(one > 0.3 && one <= 1.0, "{one}");
    assert!(two > one && two <= 2.0, "{two}");
}

#[tokio::test]
async fn tensorrt_provider_test_a_lost_device_is_told_and_its_batch_is_not_tried_again() {
    struct Lost(Arc<std::sync::atomic::AtomicUsize>);
    impl Engine for Lost {
        fn run(&mut self, _: &TokenBatch) -> Result<Vec<f32>, EngineError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Err(EngineError::DeviceLost("CUDA failure 700: an illegal memory access was encountered".into()))
        }
        fn dimension(&self) -> usize {
            1
        }
        fn provider(&self) -> ExecutionProvider {
            ExecutionProvider::TensorRt
        }
    }
    let mut rig = Rig::start(BatcherConfig::default()).await;
    let runs = Arc::default();
    assert_eq!(rig.batcher.fault(), None);
    rig.engine = rig.batcher.install(Box::new(Lost(Arc::clone(&runs)))).await;
    let got = rig.batcher.submit(rig.work(&[&[1], &[2], &[3]], Duration::from_secs(300))).await;
    assert!(matches!(&got, Err(BatchError::Engine(why)) if why.contains("the GPU is lost")), "{got:?}");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(rig.batcher.fault().is_some_and(|it| it.contains("illegal memory access")));
}

/// A context of an engine that tells its own time; it stays inside a run while it is held.
struct Context {
    name: (&'static str, usize),
    took: Duration,
    held: Arc<AtomicBool>,
    ran: Arc<Mutex<Vec<(&'static str, usize)>>>,
    others: Vec<Box<dyn Engine>>,
}

impl Engine for Context {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        self.ran.lock().unwrap().push(self.name);
        while self.held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(batch.ids.chunks(batch.tokens).map(|it| it[0] as f32).collect())
    }

    fn dimension(&self) -> usize {
        1
    }

    fn provider(&self) -> ExecutionProvider {
        ExecutionProvider::TensorRt
    }

    fn contexts(&mut self) -> Vec<Box<dyn Engine>> {
        std::mem::take(&mut self.others)
    }

    fn device_time(&self) -> Option<Duration> {
        Some(self.took)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensorrt_provider_test_a_probe_is_one_workers_while_another_answers() {
    let (ran, held) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(true)));
    let context = |name, context, nanos, held: &Arc<AtomicBool>, others| {
        let (took, held, ran) = (Duration::from_nanos(nanos), held.clone(), ran.clone());
        Box::new(Context { name: (name, context), took, held, ran, others })
    };
    let mut rig = Rig::start(BatcherConfig { workers: 2, ..BatcherConfig::default() }).await;
    let free = Arc::default();
    rig.engine = rig.batcher.install(context("baseline", 0, 100, &free, vec![context("baseline", 1, 100, &free, Vec::new())])).await;
    let canary = rig.batcher.install(context("canary", 0, 200, &held, vec![context("canary", 1, 200, &held, Vec::new())])).await;
    let budget = akidb_domain::snapshot::ProbeBudget { device_ppm: 1_000_000, idle_ppm: 0, shed_queue_texts: 8 };
    let pair = Arc::new(Pair { baseline: rig.engine, canary, canary_variant: "new".into(), budget });
    let ask = async |id: u32| {
        let mut work = rig.work(&[&[id, id]], Duration::from_secs(300));
        work.lane = Arc::new(LaneId { experiment: "e".into(), phase: 1, ..LaneId::clone(&work.lane) });
        work.probe = Some(pair.clone());
        rig.batcher.submit(work).await.unwrap()
    };
    let not_yet = rig.batcher.hold_probes();
    for id in 1..=150 {
        ask(id).await;
        until(|| rig.batcher.judge.waiting() == 0).await;
    }
    ran.lock().unwrap().clear();
    drop(not_yet);
    let at = async || {
        let found = ran.lock().unwrap().iter().find(|it| it.0 == "canary").copied();
        if found.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        found
    };
    let probing = loop {
        if let Some((_, worker)) = tokio::time::timeout(Duration::from_secs(120), at()).await.unwrap() {
            break worker;
        }
    };
    let before = ran.lock().unwrap().clone();
    for id in 151..=170 {
        assert_eq!(ask(id).await.engine, Duration::from_nanos(100));
        // There is credit for more probes, but one goes on.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(before.iter().all(|it| it.1 == probing), "contexts of one worker: {before:?}");
    assert_eq!(ran.lock().unwrap()[before.len()..], [("baseline", 1 - probing); 20]);
    held.store(false, Ordering::Relaxed);

    let (mut device, mut result) = (None, None);
    while result.is_none() {
        match tokio::time::timeout(Duration::from_secs(120), rig.observations.recv()).await.unwrap().unwrap() {
            // One or more: credit was left for a second, too.
            crate::telemetry::Observation::Overhead { cause: "probe", from, to, .. } => drop(device.get_or_insert(to - from)),
            crate::telemetry::Observation::Probe { result: it, .. } => result = Some(it),
            _ => {}
        }
    }
    let result = result.unwrap();
    assert_eq!((result.canary_ns, result.baseline_ns), (200, 100), "the device's own time, not what the canary was held");
    let canary_second = before[0].0 == "canary";
    assert_eq!(device.unwrap().as_nanos(), if canary_second { 500 } else { 400 }, "all three runs of the first");
}
