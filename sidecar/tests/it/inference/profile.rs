//! Batches beyond a shape profile, through the real batcher and the real model. The engine is the CPU's, held to recorded profiles as one on a
//! GPU is: the same cut, the same padding, and a shape outside its profile is a failure.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use akidb_domain::profile::{self, Profile, Shape};
use akidb_domain::reference::cosine;
use akidb_domain::vocabulary::{Arm, ExecutionProvider, Precision};
use akidb_domain::window::LaneId;
use akidb_sidecar::batcher::{BatchError, Batcher, BatcherConfig, EngineId, Work};
use akidb_sidecar::clock::Clock;
use akidb_sidecar::engine::buckets::Grid;
use akidb_sidecar::engine::onnx::{self, Runtime};
use akidb_sidecar::engine::{Engine, EngineError, Limits, TokenBatch};
use akidb_sidecar::metrics::Metrics;
use akidb_sidecar::telemetry::Telemetry;

use super::rig::{engine_spec, manifest};

/// What `build-engine` builds for all-MiniLM-L6-v2 unless it is told otherwise.
const USUAL: &str = "1x16:1x32:8x64,1x16:64x32:512x256";

/// The model, in shapes of its profiles only.
struct Profiled {
    model: Box<dyn Engine>,
    profiles: Vec<Profile>,
    grid: Grid,
    ran: Arc<Mutex<Vec<Shape>>>,
}

impl Engine for Profiled {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        let mut vectors = Vec::new();
        for part in self.grid.place(batch.rows, batch.tokens).map_err(|it| EngineError::Run(it.to_string()))? {
            let Profile { min, max, .. } = self.profiles[part.profile];
            if !min.within(part.shape) || !part.shape.within(max) {
                return Err(EngineError::Run(format!("{} is outside the profile", part.shape)));
            }
            let Shape { rows, tokens } = part.shape;
            let mut both = vec![0; 2 * rows * tokens];
            part.fill(&mut both, batch);
            let mask = both.split_off(rows * tokens);
            let all = self.model.run(&TokenBatch { rows, tokens, ids: both, mask })?;
            vectors.extend_from_slice(&all[..part.texts.len() * self.model.dimension()]);
            self.ran.lock().unwrap().push(part.shape);
        }
        Ok(vectors)
    }

    fn dimension(&self) -> usize {
        self.model.dimension()
    }

    fn provider(&self) -> ExecutionProvider {
        self.model.provider()
    }

    fn limits(&self) -> Option<Limits> {
        Some(self.grid.limits())
    }
}

fn model() -> Box<dyn Engine> {
    Runtime::init(&akidb_testkit::onnxruntime()).unwrap();
    onnx::load(&engine_spec(&manifest())).unwrap()
}

/// A batcher with such an engine, and the shapes that it ran.
async fn start(profiles: &str, config: BatcherConfig) -> (Batcher, EngineId, Arc<Mutex<Vec<Shape>>>) {
    let (telemetry, _observations) = Telemetry::channel(Clock::start());
    let (batcher, _threads) = Batcher::start(config, &telemetry, &Metrics::new().unwrap()).unwrap();
    let (profiles, ran) = (profile::parse(profiles).unwrap(), Arc::default());
    let (model, grid) = (model(), Grid::new(profiles.clone()));
    let engine = batcher.install(Box::new(Profiled { model, profiles, grid, ran: Arc::clone(&ran) })).await;
    (batcher, engine, ran)
}

fn work(engine: EngineId, texts: Vec<Vec<u32>>) -> Work {
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
    let (deadline, app) = (Instant::now() + Duration::from_mins(5), String::new());
    Work { lane: Arc::new(lane), engine, texts, deadline, app, trace: None, probe: None }
}

/// A text of its own of so many tokens.
fn text(number: u32, tokens: usize) -> Vec<u32> {
    let words = (0..tokens as u32 - 2).map(|it| 2_000 + (number * 17 + it) % 20_000);
    std::iter::once(101).chain(words).chain([102]).collect()
}

/// The model's own vectors, texts of one length together, nothing padded.
fn alone(texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let mut model = model();
    let mut vectors = vec![Vec::new(); texts.len()];
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|it| texts[*it].len());
    for group in order.chunk_by(|a, b| texts[*a].len() == texts[*b].len()).flat_map(|it| it.chunks(64)) {
        let (rows, tokens) = (group.len(), texts[group[0]].len());
        let ids = group.iter().flat_map(|it| &texts[*it]).map(|it| i64::from(*it)).collect();
        let got = model.run(&TokenBatch { rows, tokens, ids, mask: vec![1; rows * tokens] }).unwrap();
        for (text, vector) in group.iter().zip(got.chunks_exact(model.dimension())) {
            vectors[*text] = vector.to_vec();
        }
    }
    vectors
}

/// All texts of one request come back, each at its place.
async fn check(profiles: &str, config: BatcherConfig, texts: &[Vec<u32>], expected: &[Vec<f32>]) -> Vec<Shape> {
    let (batcher, engine, ran) = start(profiles, config).await;
    let got = batcher.submit(work(engine, texts.to_vec())).await.unwrap().vectors;
    assert_eq!(got.len(), texts.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let alike = cosine(got, expected);
        assert!(alike >= 0.9999, "{profiles}: text {at} of {} tokens: {alike}", texts[at].len());
    }
    batcher.shutdown(Instant::now() + Duration::from_secs(5)).await;
    ran.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn tensorrt_provider_test_a_request_beyond_the_profile_is_answered_whole_and_in_order() {
    // Most are shorter than the shortest length of the profile.
    let texts: Vec<_> = (0..1_100).map(|it| text(it, if it % 50 == 0 { 30 } else { 3 })).collect();
    let ran = check(USUAL, BatcherConfig::default(), &texts, &alone(&texts)).await;
    assert!(ran.iter().map(|it| it.rows).max() == Some(512) && ran.len() <= 6, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tensorrt_provider_test_unusual_profiles_answer_every_length_in_order() {
    let lengths = [3, 100, 16, 17, 64, 65, 3, 31, 99, 5, 4];
    let texts: Vec<_> = (0..22).map(|it| text(it, lengths[it as usize % lengths.len()])).collect();
    let expected = alone(&texts);
    for profiles in [
        // No batch below four texts, none of 22.
        "4x32:8x64:16x100",
        // Many short texts, or a few long ones; neither profile holds what the other does.
        "16x16:16x32:32x64,1x16:2x64:4x256",
        "1x16:2x64:4x256,16x16:16x32:32x64",
    ] {
        check(profiles, BatcherConfig::default(), &texts, &expected).await;
        // Nothing is batched but what came together.
        check(profiles, BatcherConfig { enabled: false, ..BatcherConfig::default() }, &texts, &expected).await;
        // Sizes that are pinned to more than the profile holds.
        let pinned = BatcherConfig {
            max_batch_size: 4_096,
            learn_size: false,
            max_batch_tokens: 1 << 20,
            learn_budget: false,
            ..BatcherConfig::default()
        };
        check(profiles, pinned, &texts, &expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensorrt_provider_test_a_text_beyond_the_profile_fails_alone_and_says_which() {
    let (batcher, engine, _) = start(USUAL, BatcherConfig::default()).await;
    // The tokenizer would have cut it, and an engine with such a profile is not loaded for a model with longer texts.
    let (long, good) = (work(engine, vec![text(1, 300)]), work(engine, vec![text(2, 250), text(3, 256)]));
    let (long, good) = tokio::join!(batcher.submit(long), batcher.submit(good));
    assert!(
        matches!(&long, Err(BatchError::Engine(why)) if why.contains("a text of 300 tokens is outside the engine's shape profile 1x16")),
        "{long:?}"
    );
    assert_eq!(good.unwrap().vectors.len(), 2);
    batcher.shutdown(Instant::now() + Duration::from_secs(5)).await;
}
