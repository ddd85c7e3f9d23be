//! The inference half with the real model behind real HTTP, without a configuration or a control plane. The benchmark uses it too.
#![allow(dead_code, reason = "each binary uses a part of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use akidb_domain::bundle::Manifest;
use akidb_domain::snapshot::{SnapshotVersion, TrafficSplit, VariantRef};
use akidb_domain::vocabulary::ExecutionProvider;
use akidb_sidecar::batcher::{Batcher, BatcherConfig, EngineId};
use akidb_sidecar::clock::Clock;
use akidb_sidecar::config::Traces;
use akidb_sidecar::engine::onnx::{self, Runtime};
use akidb_sidecar::engine::{Engine, EngineError, EngineSpec, GpuSpec, TokenBatch};
use akidb_sidecar::http::{self, AppState, Limits, Listener, Readiness};
use akidb_sidecar::lease::Leases;
use akidb_sidecar::metrics::Metrics;
use akidb_sidecar::models::Demand;
use akidb_sidecar::serving::{Loaded, Model, Serving, Table, Variant, VariantState};
use akidb_sidecar::telemetry::{Observation, Telemetry};
use akidb_sidecar::tokenizer::{Tokenizer, TokenizerPool};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

pub(crate) struct Rig {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) state: AppState,
    pub(crate) manifest: Manifest,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) observations: std::sync::Mutex<Receiver<Observation>>,
    pub(crate) stop: CancellationToken,
    engine: EngineId,
    folder: tempfile::TempDir,
}

/// What to run the model with: as many threads as there are cores.
pub(crate) fn engine_spec(manifest: &Manifest) -> EngineSpec {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (graph, dimension) = (manifest.graph.clone(), manifest.model.dimension as usize);
    EngineSpec {
        path: akidb_testkit::bundle().join("model.onnx"),
        graph,
        dimension,
        provider: ExecutionProvider::Cpu,
        threads,
        gpu: GpuSpec::default(),
    }
}

pub(crate) fn manifest() -> Manifest {
    let json = std::fs::read(akidb_testkit::bundle().join("manifest.json")).expect("a manifest");
    Manifest::parse(&json).expect("a valid manifest")
}

impl Rig {
    pub(crate) fn start(config: BatcherConfig) -> Self {
        Self::start_with(config, Limits::default())
    }

    pub(crate) fn start_with(config: BatcherConfig, limits: Limits) -> Self {
        Self::start_traced(config, limits, &Traces { otlp_endpoint: None, sample_ratio: 0.0 })
    }

    pub(crate) fn start_traced(config: BatcherConfig, limits: Limits, traces: &Traces) -> Self {
        Runtime::init(&akidb_testkit::onnxruntime()).expect("ONNX Runtime");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let (manifest, clock) = (manifest(), Clock::start());
        let (telemetry, observations) = Telemetry::channel(clock);
        let metrics = Metrics::new().expect("metrics");
        let (batcher, _thread) = Batcher::start(config, &telemetry, &metrics).expect("an executor");
        let engine = onnx::load(&engine_spec(&manifest)).expect("an engine");
        let engine = runtime.block_on(batcher.install(engine));
        let pool = TokenizerPool::start(1).expect("threads");
        let file = akidb_testkit::bundle().join("tokenizer.json");
        let tokenizer = Tokenizer::load(&file, manifest.model.max_tokens, &pool).expect("a tokenizer");
        let (readiness, text_log) = (Readiness::default(), http::TextLog::default());
        let traces = {
            let _inside = runtime.enter();
            akidb_sidecar::traces::Traces::start(traces, clock).expect("an exporter")
        };
        let state = AppState {
            serving: Table::default(),
            demand: Demand::default(),
            batcher,
            telemetry,
            metrics,
            clock,
            limits,
            readiness,
            traces,
            text_log,
            leases: Leases::default(),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let (stop, socket) = (CancellationToken::new(), folder.path().join("api.sock"));
        let address = runtime.block_on(listen(&state, &stop, &socket));
        let observations = std::sync::Mutex::new(observations);
        let rig = Self { runtime, address, socket, state, manifest, tokenizer, observations, stop, engine, folder };
        rig.publish(vec![rig.variant("fp32", engine)], None);
        rig
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A variant of the real model, whatever its engine.
    pub(crate) fn variant(&self, name: &str, engine: EngineId) -> Variant {
        let (card, digest) = (&self.manifest.model, self.manifest.digest());
        let loaded = Loaded {
            model: card.name.clone(),
            version: "1".into(),
            variant: name.into(),
            precision: self.manifest.variant.precision,
            digest: digest.clone(),
            provider: ExecutionProvider::Cpu,
            fallback: false,
            dimension: card.dimension,
            max_tokens: card.max_tokens,
            pooling: card.pooling,
            normalized: card.normalized,
            embedding_space: card.embedding_space.clone(),
            prompts: BTreeMap::from([("query".to_owned(), "query: ".to_owned())]),
            tokenizer: self.tokenizer.clone(),
            engine,
            loaded_at_ns: self.state.clock.now_ns(),
            residence: Arc::default(),
            lane: OnceLock::new(),
        };
        let (precision, loaded) = (loaded.precision, Some(Arc::new(loaded)));
        Variant {
            version: "1".into(),
            name: name.into(),
            precision,
            digest,
            state: VariantState::Ready,
            reason: String::new(),
            lent: false,
            loaded,
        }
    }

    /// A variant with an engine of the test's own.
    pub(crate) fn fake(&self, name: &str, run: impl FnMut(&TokenBatch) -> Result<Vec<f32>, EngineError> + Send + 'static) -> Variant {
        let engine = Box::new(Fake { run: Box::new(run), dimension: self.manifest.model.dimension as usize });
        self.variant(name, self.runtime.block_on(self.state.batcher.install(engine)))
    }

    /// A variant whose engine stays inside each batch until the test lets it go: no test of it depends on how fast the machine is.
    pub(crate) fn held(&self, name: &str) -> (Variant, Held) {
        let ((begun, batches), (holds, go), dimension) = (channel(), channel::<()>(), self.manifest.model.dimension as usize);
        let variant = self.fake(name, move |batch| {
            // The test may have heard enough.
            begun.send(batch.rows).ok();
            // Nothing is ever sent: an error means that it is let go.
            go.recv().ok();
            Ok(vec![0.05; batch.rows * dimension])
        });
        (variant, Held { batches, _holds: holds })
    }

    /// The real variant.
    pub(crate) fn real(&self) -> Variant {
        self.variant("fp32", self.engine)
    }

    /// Replaces the table; the first variant is the default.
    pub(crate) fn publish(&self, variants: Vec<Variant>, split: Option<TrafficSplit>) {
        let card = &self.manifest.model;
        for variant in &variants {
            self.state.metrics.lane(&card.name, &variant.name);
        }
        let default = VariantRef { version: "1".into(), variant: variants[0].name.clone() };
        let model = Model {
            name: card.name.clone(),
            dimension: card.dimension,
            max_tokens: card.max_tokens,
            embedding_space: card.embedding_space.clone(),
            seeded: card.seeded,
            aliases: BTreeMap::from([("stable".to_owned(), default.clone())]),
            default,
            variants,
        };
        if let Some(split) = &split {
            self.state.leases.renew(&split.experiment, 3_600_000);
        }
        let name = akidb_domain::vocabulary::canonical_model(&card.name);
        let serving = Serving {
            snapshot: SnapshotVersion::default(),
            models: BTreeMap::from([(name.clone(), model)]),
            splits: split.into_iter().map(|it| (name.clone(), it)).collect(),
            default_model: Some(name),
            problems: Vec::new(),
        };
        self.state.serving.store(Arc::new(serving));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn listen(state: &AppState, stop: &CancellationToken, socket: &std::path::Path) -> SocketAddr {
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = tcp.local_addr().expect("its address");
    let unix = tokio::net::UnixListener::bind(socket).expect("a socket");
    let router = http::api_router(state.clone());
    tokio::spawn(http::serve(Listener::Tcp(tcp), router.clone(), stop.clone(), Duration::from_secs(10)));
    tokio::spawn(http::serve(Listener::Unix(unix), router, stop.clone(), Duration::from_secs(10)));
    address
}

/// A held engine; dropped, it lets go for good.
pub(crate) struct Held {
    batches: std::sync::mpsc::Receiver<usize>,
    _holds: std::sync::mpsc::Sender<()>,
}

impl Held {
    /// Waits until the next batch is inside; answers its texts.
    pub(crate) fn inside(&self) -> usize {
        self.batches.recv_timeout(Duration::from_secs(120)).expect("a batch within two minutes")
    }

    /// Lets go; the texts of batches that come from then on.
    pub(crate) fn let_go(self) -> std::sync::mpsc::Receiver<usize> {
        self.batches
    }
}

type Run = Box<dyn FnMut(&TokenBatch) -> Result<Vec<f32>, EngineError> + Send>;

struct Fake {
    run: Run,
    dimension: usize,
}

impl Engine for Fake {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        (self.run)(batch)
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    fn provider(&self) -> ExecutionProvider {
        ExecutionProvider::Cpu
    }
}
