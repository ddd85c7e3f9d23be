//! Whom work wakes, on the real queue with workers that only take steps: what a step holds is never run.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};

use super::requests::Incoming;
use super::steps::Wakes;
use super::*;
use crate::batcher::Work;
use crate::engine::{Engine, EngineError, Limits, TokenBatch};

/// Contexts of an engine of two texts a batch. Nobody runs them.
struct Contexts(usize);

impl Engine for Contexts {
    fn run(&mut self, _: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        unreachable!("a step is taken, not run")
    }

    fn dimension(&self) -> usize {
        1
    }

    fn provider(&self) -> ExecutionProvider {
        ExecutionProvider::TensorRt
    }

    fn limits(&self) -> Option<Limits> {
        Some(Limits { max_rows: 2, max_tokens: 32, lengths: vec![16].into() })
    }

    fn contexts(&mut self) -> Vec<Box<dyn Engine>> {
        (1..self.0).map(|_| -> Box<dyn Engine> { Box::new(Self(1)) }).collect()
    }
}

/// A queue whose workers have an engine with so many contexts.
fn queue(workers: usize, contexts: usize) -> (Arc<Queue>, EngineId) {
    let queue = Arc::new(Queue::new(BatcherConfig::default(), workers, Metrics::new().unwrap()));
    let engine = queue.install(Box::new(Contexts(contexts))).0;
    for worker in 0..contexts.min(workers) {
        assert!(matches!(queue.next_step(worker), Step::Install(_)));
    }
    (queue, engine)
}

/// So many texts in a lane of their own.
fn work(engine: EngineId, lane: &str, texts: usize) -> Work {
    let lane = LaneId {
        model: "m".into(),
        version: "1".into(),
        variant: lane.into(),
        precision: Precision::Fp32,
        arm: Arm::Baseline,
        experiment: String::new(),
        phase: 0,
        digest: "d".into(),
        provider: ExecutionProvider::TensorRt,
        fallback: false,
    };
    let (deadline, app) = (Instant::now() + Duration::from_mins(1), String::new());
    Work { lane: Arc::new(lane), engine, texts: vec![vec![1, 2]; texts], deadline, app, trace: None, probe: None }
}

/// Takes a request in as [`Queue::push`] does, while the caller has the lock: whoever was woken cannot look meanwhile.
fn enter(queue: &Queue, state: &mut State, work: Work) -> Wakes {
    let metrics = queue.metrics.lane(&work.lane.model, &work.lane.variant);
    let now = Instant::now();
    state.enter(Incoming::new(work, metrics, oneshot::channel().0, now), now).unwrap().1
}

/// Workers that tell of one step each; returns when all sleep.
fn asleep(queue: &Arc<Queue>, workers: usize) -> Receiver<(usize, usize)> {
    let (tell, told) = channel();
    for worker in 0..workers {
        let (queue, tell) = (queue.clone(), tell.clone());
        std::thread::spawn(move || {
            let Step::Batch(batch) = queue.next_step(worker) else { return };
            tell.send((worker, batch.texts.len())).unwrap();
        });
    }
    while queue.lock().idle.count_ones() as usize != workers {
        std::thread::yield_now();
    }
    told
}

/// Texts of each batch that is taken, least first, though no worker ever finishes one.
fn taken(told: &Receiver<(usize, usize)>, count: usize) -> Vec<usize> {
    let took = |_| told.recv_timeout(Duration::from_secs(10)).expect("a worker sleeps beside work that it could run").1;
    let mut texts: Vec<usize> = (0..count).map(took).collect();
    texts.sort_unstable();
    texts
}

#[test]
fn a_second_lane_is_not_left_to_the_worker_that_was_woken_for_the_first() {
    let (queue, engine) = queue(2, 2);
    let told = asleep(&queue, 2);
    let mut state = queue.lock();
    assert_eq!(enter(&queue, &mut state, work(engine, "a", 1)), Wakes::One);
    // The one that was woken will see it.
    assert_eq!(enter(&queue, &mut state, work(engine, "b", 2)), Wakes::Nobody);
    drop(state);
    queue.wake(Wakes::One);
    assert_eq!(taken(&told, 2), [1, 2]);
}

#[test]
fn what_one_batch_does_not_hold_of_a_request_is_for_whoever_sleeps() {
    let (queue, engine) = queue(3, 3);
    let told = asleep(&queue, 3);
    let (_ticket, _answer) = queue.push(work(engine, "a", 5), Instant::now()).unwrap();
    assert_eq!(taken(&told, 3), [1, 2, 2]);
}

#[test]
fn workers_that_have_different_engines_are_told_of_what_is_left_too() {
    let (queue, engine) = queue(3, 2);
    let told = asleep(&queue, 3);
    let (_ticket, _answer) = queue.push(work(engine, "a", 4), Instant::now()).unwrap();
    assert_eq!(taken(&told, 2), [2, 2]);
}

/// What a worker's step leaves, with the bits of those that sleep meanwhile.
fn left(queue: &Queue, worker: usize, idle: u128, watching: u128) -> (usize, Wakes) {
    let (mut state, now) = (queue.lock(), Instant::now());
    (state.idle, state.watching) = (idle, watching);
    let (Some(Step::Batch(batch)), _) = state.next_step(worker, now) else { panic!("no batch") };
    (batch.texts.len(), state.left(now))
}

#[test]
fn a_lone_request_wakes_one_worker_and_no_more() {
    let (queue, engine) = queue(2, 2);
    let mut state = queue.lock();
    state.idle = 0b11;
    assert_eq!(enter(&queue, &mut state, work(engine, "a", 2)), Wakes::One);
    drop(state);
    assert_eq!(left(&queue, 0, 0b10, 0), (2, Wakes::Nobody));
}

#[test]
fn a_lone_worker_wakes_nobody_whatever_it_leaves() {
    let (queue, engine) = queue(1, 1);
    let mut state = queue.lock();
    for lane in ["a", "b", "c"] {
        enter(&queue, &mut state, work(engine, lane, 5));
    }
    drop(state);
    for _ in 0..9 {
        assert_eq!(left(&queue, 0, 0, 0).1, Wakes::Nobody);
    }
    assert_eq!(queue.lock().policy.waiting(), 0);
}

#[test]
fn a_worker_that_sleeps_without_the_engine_is_left_alone() {
    let (queue, engine) = queue(2, 1);
    let mut state = queue.lock();
    enter(&queue, &mut state, work(engine, "a", 4));
    drop(state);
    assert_eq!(left(&queue, 0, 0b10, 0), (2, Wakes::Nobody));
}

#[test]
fn a_window_that_nobody_watches_wakes_one_to_watch_it() {
    let config = BatcherConfig { adaptive: false, max_wait: Duration::from_secs(10), ..BatcherConfig::default() };
    for (watching, expected) in [(0b00, Wakes::One), (0b10, Wakes::Nobody)] {
        let queue = Arc::new(Queue::new(config.clone(), 2, Metrics::new().unwrap()));
        let engine = queue.install(Box::new(Contexts(2))).0;
        assert!((0..2).all(|it| matches!(queue.next_step(it), Step::Install(_))));
        let mut state = queue.lock();
        enter(&queue, &mut state, work(engine, "a", 2));
        for lane in ["b", "c"] {
            enter(&queue, &mut state, work(engine, lane, 1));
        }
        drop(state);
        assert_eq!(left(&queue, 0, 0b10 & !watching, watching), (2, expected));
    }
}
