//! ONNX Runtime. This file and those under it are the only ones that name `ort`: [`providers`] the GPU providers and their options, `bound`
//! engines on GPUs, [`compile`] engines built ahead.
//!
//! Enters: a graph's file and its manifest's names. Leaves: a boxed [`Engine`]. Never: a panic for a library that is missing or too old, a
//! graph that does not fit its manifest, a provider other than the one asked for.

#[cfg(feature = "tensorrt")]
mod bound;
#[cfg(feature = "tensorrt")]
pub mod compile;
#[cfg(feature = "tensorrt")]
pub(super) mod providers;
#[cfg(feature = "tensorrt")]
mod ran_on;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use akidb_domain::vocabulary::ExecutionProvider;
use ort::environment::{Environment, ThreadManager};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{RunOptions, Session};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use super::workers::{Busy, Gate, Workers};
use super::{Engine, EngineError, EngineSpec, Stop, TokenBatch};

/// ONNX Runtime knows one library and one environment a process, so this is the one global of the crate.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
static INIT: Mutex<()> = Mutex::new(());

/// The runtime's library.
#[derive(Debug)]
pub struct Runtime;

impl Runtime {
    /// Loads the library. Further calls do nothing.
    pub fn init(path: &Path) -> Result<(), EngineError> {
        let _one_at_a_time = INIT.lock().unwrap_or_else(PoisonError::into_inner);
        if ENVIRONMENT.get().is_some() {
            return Ok(());
        }
        let fail = |cause: String| EngineError::Runtime(format!("{}: {cause}", path.display()));
        // It looks for its providers beside the file that it was loaded from, which a link is not.
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let builder = ort::init_from(real).map_err(|it| fail(it.to_string()))?;
        let environment = builder.with_name("akidb").with_telemetry(false).build().map_err(|it| fail(it.to_string()))?;
        // Warnings of the runtime are about graphs it optimises well enough; errors come back as values.
        environment.set_log_level(ort::logging::LogLevel::Error);
        ENVIRONMENT.get_or_init(|| environment);
        Ok(())
    }

    /// The library's own description, with its version; empty before [`Runtime::init`].
    pub fn version() -> String {
        ENVIRONMENT.get().map_or_else(String::new, |_| ort::info().to_owned())
    }
}

/// Loads a graph and checks its inputs and outputs.
pub fn load(spec: &EngineSpec) -> Result<Box<dyn Engine>, EngineError> {
    let mut engine = Loader::new(spec)?.load()?;
    engine.unpark();
    Ok(engine)
}

/// A load in two steps: the engine's threads get the priority of who makes this, the work of loading has that of who calls
/// [`Loader::load`].
pub struct Loader {
    spec: EngineSpec,
    workers: Workers,
}

impl Loader {
    /// Starts the engine's threads, parked.
    pub fn new(spec: &EngineSpec) -> Result<Self, EngineError> {
        // The thread that runs the engine is one of them.
        let hands = if spec.provider == ExecutionProvider::Cpu { spec.threads.max(1) - 1 } else { 0 };
        let workers = Workers::start(hands).map_err(|it| EngineError::Load(format!("its threads: {it}")))?;
        Ok(Self { spec: spec.clone(), workers })
    }

    /// Loads the graph and checks its inputs and outputs. The engine is parked until [`Engine::unpark`].
    pub fn load(self) -> Result<Box<dyn Engine>, EngineError> {
        let Self { spec, workers } = self;
        if spec.provider != ExecutionProvider::Cpu {
            return on_gpu(&spec);
        }
        let gate = workers.gate();
        let environment = ENVIRONMENT.get().ok_or_else(|| EngineError::Runtime("its library is not loaded yet".into()))?;
        let builder = builder(environment, &spec)?.with_thread_manager(workers).map_err(|it| EngineError::Load(it.to_string()))?;
        let session = { builder }.commit_from_file(&spec.path).map_err(|it| EngineError::Load(it.to_string()))?;
        check_inputs(session.inputs(), &spec.graph.inputs)?;
        check_output(session.outputs(), &spec.graph.output, spec.dimension)?;
        let options = || RunOptions::new().map(Arc::new).map_err(|it| EngineError::Load(it.to_string()));
        let yielding = Yielding { options: options()?, called: Arc::default() };
        Ok(Box::new(OnnxEngine { session, spec, options: options()?, yielding, zeros: Vec::new(), spare: Vec::new(), gate }))
    }
}

impl ThreadManager for Workers {
    type Thread = Busy;

    fn create(&self, work: impl FnOnce() + Send + 'static) -> ort::Result<Busy> {
        self.take(Box::new(work)).map_err(|it| ort::Error::new(it.to_string()))
    }

    fn join(thread: Busy) -> ort::Result<()> {
        thread.join().map_err(|it| ort::Error::new(it.to_string()))
    }
}

fn builder(environment: &Environment, spec: &EngineSpec) -> Result<SessionBuilder, EngineError> {
    let fail = |it: ort::Error<SessionBuilder>| EngineError::Load(it.to_string());
    let builder = Session::builder(environment).map_err(|it| EngineError::Load(it.to_string()))?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::Level3).map_err(fail)?;
    let builder = builder.with_intra_threads(spec.threads.max(1)).map_err(fail)?;
    let builder = builder.with_inter_threads(1).map_err(fail)?;
    // A thread that spins for its next batch takes the core from the threads that answer, and from the application next door.
    let builder = builder.with_intra_op_spinning(false).map_err(fail)?;
    // Shapes differ from batch to batch: a pattern learnt from one is memory kept for nothing.
    builder.with_memory_pattern(false).map_err(fail)
}

#[cfg(feature = "tensorrt")]
fn on_gpu(spec: &EngineSpec) -> Result<Box<dyn Engine>, EngineError> {
    bound::load(spec)
}

#[cfg(not(feature = "tensorrt"))]
fn on_gpu(spec: &EngineSpec) -> Result<Box<dyn Engine>, EngineError> {
    let cause = "this build has only the `cpu` provider: build it with `--features tensorrt`".into();
    Err(EngineError::Provider { provider: spec.provider, cause })
}

fn check_inputs(found: &[Outlet], expected: &[String]) -> Result<(), EngineError> {
    let mut names: Vec<&str> = found.iter().map(Outlet::name).collect();
    let mut wanted: Vec<&str> = expected.iter().map(String::as_str).collect();
    names.sort_unstable();
    wanted.sort_unstable();
    if names != wanted {
        return Err(EngineError::Signature(format!("inputs: expected {}, found {}", wanted.join(", "), names.join(", "))));
    }
    if let Some(unknown) = wanted.iter().find(|it| Feed::of(it).is_none()) {
        return Err(EngineError::Signature(format!("input `{unknown}`: expected only input_ids, attention_mask and token_type_ids")));
    }
    if !wanted.contains(&"input_ids") || !wanted.contains(&"attention_mask") {
        return Err(EngineError::Signature(format!(
            "inputs: expected input_ids and attention_mask among them, found {}",
            wanted.join(", ")
        )));
    }
    match found.iter().find(|it| !is_tensor(it.dtype(), TensorElementType::Int64, 2)) {
        Some(bad) => Err(EngineError::Signature(format!("input `{}`: expected int64 [batch, tokens], found {}", bad.name(), bad.dtype()))),
        None => Ok(()),
    }
}

fn check_output(found: &[Outlet], expected: &str, dimension: usize) -> Result<(), EngineError> {
    let Some(output) = found.iter().find(|it| it.name() == expected) else {
        let names: Vec<&str> = found.iter().map(Outlet::name).collect();
        return Err(EngineError::Signature(format!("output: expected `{expected}`, found {}", names.join(", "))));
    };
    // A dimension that the graph leaves open is -1; each batch is checked again.
    let last = output.dtype().tensor_shape().and_then(|it| it.last().copied()).unwrap_or(0);
    if is_tensor(output.dtype(), TensorElementType::Float32, 2) && (last == -1 || last == dimension as i64) {
        return Ok(());
    }
    Err(EngineError::Signature(format!("output `{expected}`: expected float32 [batch, {dimension}], found {}", output.dtype())))
}

fn is_tensor(found: &ValueType, element: TensorElementType, rank: usize) -> bool {
    matches!(found, ValueType::Tensor { ty, shape, .. } if *ty == element && shape.len() == rank)
}

/// What an input is fed with.
#[derive(Clone, Copy)]
enum Feed {
    Ids,
    Mask,
    Zeros,
}

impl Feed {
    fn of(input: &str) -> Option<Self> {
        match input {
            "input_ids" => Some(Self::Ids),
            "attention_mask" => Some(Self::Mask),
            "token_type_ids" => Some(Self::Zeros),
            _ => None,
        }
    }
}

struct OnnxEngine {
    session: Session,
    spec: EngineSpec,
    /// Shared with whoever stops it.
    options: Arc<RunOptions>,
    yielding: Yielding,
    zeros: Vec<i64>,
    /// Memory for the next batch's vectors.
    spare: Vec<f32>,
    /// Before its threads.
    gate: Gate,
}

/// What batches that may be interrupted run with.
struct Yielding {
    options: Arc<RunOptions>,
    /// Whether `options` are terminated.
    called: Arc<Mutex<bool>>,
}

impl OnnxEngine {
    fn run_with(&mut self, batch: &TokenBatch, options: &RunOptions) -> Result<Vec<f32>, EngineError> {
        let (elements, shape) = (batch.rows * batch.tokens, [batch.rows, batch.tokens]);
        if elements == 0 || batch.ids.len() != elements || batch.mask.len() != elements {
            let (ids, mask) = (batch.ids.len(), batch.mask.len());
            return Err(EngineError::Run(format!(
                "a batch of {} x {} tokens with {ids} ids and {mask} mask values",
                batch.rows, batch.tokens
            )));
        }
        self.zeros.resize(elements, 0);
        let fail = |it: ort::Error| EngineError::Run(it.to_string());
        let mut inputs = Vec::with_capacity(self.spec.graph.inputs.len());
        for name in &self.spec.graph.inputs {
            let values = match Feed::of(name) {
                Some(Feed::Ids) => &batch.ids,
                Some(Feed::Mask) => &batch.mask,
                Some(Feed::Zeros) | None => &self.zeros,
            };
            inputs.push((name.as_str(), TensorRef::from_array_view((shape, values.as_slice())).map_err(fail)?));
        }
        let outputs = self.session.run_with_options(inputs, options).map_err(fail)?;
        let output = outputs.get(&self.spec.graph.output).ok_or_else(|| EngineError::Run("the output is missing".into()))?;
        let (shape, vectors) = output.try_extract_tensor::<f32>().map_err(fail)?;
        if vectors.len() != batch.rows * self.spec.dimension {
            let expected = format!("[{}, {}]", batch.rows, self.spec.dimension);
            return Err(EngineError::Run(format!("expected an output of {expected}, found {shape:?}")));
        }
        let mut own = std::mem::take(&mut self.spare);
        own.clear();
        own.extend_from_slice(vectors);
        Ok(own)
    }
}

impl Engine for OnnxEngine {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        let options = self.options.clone();
        self.run_with(batch, &options)
    }

    fn run_yielding(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        let options = self.yielding.options.clone();
        let result = self.run_with(batch, &options);
        let mut called = self.yielding.called.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut *called) {
            return result;
        }
        options.unterminate().map_err(|it| EngineError::Run(it.to_string()))?;
        result.map_err(|_| EngineError::Interrupted)
    }

    fn interrupt(&self) -> Option<Stop> {
        let (options, called) = (self.yielding.options.clone(), self.yielding.called.clone());
        Some(Arc::new(move || {
            let mut called = called.lock().unwrap_or_else(PoisonError::into_inner);
            *called = true;
            if let Err(error) = options.terminate() {
                tracing::warn!(%error, "a batch could not be interrupted");
            }
        }))
    }

    fn dimension(&self) -> usize {
        self.spec.dimension
    }

    fn provider(&self) -> ExecutionProvider {
        self.spec.provider
    }

    fn unpark(&mut self) {
        self.gate.open();
    }

    fn reuse(&mut self, vectors: Vec<f32>) {
        self.spare = vectors;
    }

    fn stop(&self) -> Option<Stop> {
        let options = self.options.clone();
        Some(Arc::new(move || {
            if let Err(error) = options.terminate() {
                tracing::warn!(%error, "an engine could not be stopped");
            }
        }))
    }
}
