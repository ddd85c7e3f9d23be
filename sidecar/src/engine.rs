//! One loaded graph: token ids in, vectors out.
//!
//! Enters: a rectangular batch. Leaves: one vector a row. Never: a queue, a model's name, a second caller; the executor's thread owns
//! every engine. `engine/onnx.rs` and the files under it are the only ones that name `ort`.
//!
//! Rooms, in reading order:
//! - [`buckets`]: how batches are padded and split to the shapes that an engine was built for; pure
//! - [`device`]: what GPUs, drivers and libraries this machine has
//! - [`fault`]: what a GPU's error means; pure
//! - [`onnx`]: ONNX Runtime, on the CPU and on GPUs
//! - `library`: libraries that are looked for at run time
//! - `cuda`: streams, pinned memory and events of the CUDA driver
//! - `nvml`: what the driver measures of a GPU
//! - `workers`: threads inside an operator on the CPU

pub mod buckets;
#[cfg(feature = "tensorrt")]
mod cuda;
pub mod device;
pub mod fault;
#[cfg(feature = "tensorrt")]
mod library;
#[cfg(feature = "tensorrt")]
pub mod nvml;
pub mod onnx;
mod workers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use akidb_domain::bundle::Graph;
use akidb_domain::vocabulary::ExecutionProvider;

/// A rectangular batch, row-major; `ids` and `mask` have `rows * tokens` elements, `mask` is 1 for a token and 0 for padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Texts.
    pub rows: usize,
    /// Tokens a row, padding included.
    pub tokens: usize,
    /// Token ids.
    pub ids: Vec<i64>,
    /// Attention mask.
    pub mask: Vec<i64>,
}

/// Stops an engine from any thread.
pub type Stop = Arc<dyn Fn() + Send + Sync>;

/// What runs batches.
pub trait Engine: Send {
    /// Embeds a batch: `rows * dimension` floats, row-major.
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError>;

    /// As [`Engine::run`], but given up with [`EngineError::Interrupted`] soon after [`Engine::interrupt`]'s closure was called.
    fn run_yielding(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        self.run(batch)
    }

    /// Ends the batch that [`Engine::run_yielding`] runs, or the next one if none does; none if that cannot be done.
    fn interrupt(&self) -> Option<Stop> {
        None
    }

    /// Length of an embedding.
    fn dimension(&self) -> usize;

    /// What really runs it.
    fn provider(&self) -> ExecutionProvider;

    /// Lets it use all its threads. One that was loaded parked runs on its caller's thread alone until then.
    fn unpark(&mut self) {}

    /// Ends the batch that runs, and every later one, with an error; none if that cannot be done.
    fn stop(&self) -> Option<Stop> {
        None
    }

    /// The batches that suit it; none: any.
    fn limits(&self) -> Option<Limits> {
        None
    }

    /// Hands over what can run beside it: further contexts of the same engine, each for a thread of its own.
    fn contexts(&mut self) -> Vec<Box<dyn Engine>> {
        Vec::new()
    }

    /// Does what can wait until a batch has been answered; whether there was anything.
    fn settle(&mut self) -> bool {
        false
    }

    /// Shapes that were recorded, to be put on the device by one call.
    fn recorded(&self) -> usize {
        0
    }

    /// Takes back the memory of vectors that have been answered, for those of a later batch.
    fn reuse(&mut self, vectors: Vec<f32>) {
        drop(vectors);
    }

    /// How long the device worked on the last batch, where the device itself can say so.
    fn device_time(&self) -> Option<Duration> {
        None
    }
}

/// The batches that suit an engine with a shape profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most texts in a batch.
    pub max_rows: usize,
    /// Most tokens in a batch, padding included.
    pub max_tokens: usize,
    /// Lengths that texts are padded to, rising.
    pub lengths: Arc<[usize]>,
}

impl Limits {
    /// The length that a text of so many tokens is padded to.
    pub fn padded(&self, tokens: usize) -> usize {
        self.lengths.iter().copied().find(|it| *it >= tokens).unwrap_or(tokens)
    }
}

/// A batch's vectors by `run`, checked: the right count, all finite, and a panic is an error.
pub fn checked(
    engine: &mut dyn Engine,
    batch: &TokenBatch,
    run: impl FnOnce(&mut dyn Engine, &TokenBatch) -> Result<Vec<f32>, EngineError>,
) -> Result<Vec<f32>, EngineError> {
    let dimension = engine.dimension();
    let result = catch_unwind(AssertUnwindSafe(|| run(engine, batch)));
    let vectors = result.unwrap_or_else(|_| Err(EngineError::Run("it panicked".into())))?;
    if vectors.len() != batch.rows * dimension {
        return Err(EngineError::Run(format!("{} numbers for {} texts of {dimension}", vectors.len(), batch.rows)));
    }
    // Without a way out in the middle of a part, so that the processor looks at several numbers at a time.
    let finite = |part: &[f32]| part.iter().fold(true, |all, it| all & it.is_finite());
    if !vectors.chunks(1_024).all(finite) {
        return Err(EngineError::Run("a vector holds a number that is not finite".into()));
    }
    Ok(vectors)
}

/// [`Engine::settle`]; a panic did nothing.
pub fn settled(engine: &mut dyn Engine) -> bool {
    catch_unwind(AssertUnwindSafe(|| engine.settle())).unwrap_or_default()
}

/// What to load.
#[derive(Debug, Clone)]
pub struct EngineSpec {
    /// The ONNX file.
    pub path: PathBuf,
    /// Input and output names, from the manifest.
    pub graph: Graph,
    /// Length of an embedding, from the manifest.
    pub dimension: usize,
    /// What to run it on.
    pub provider: ExecutionProvider,
    /// Threads inside an operator.
    pub threads: usize,
    /// How to use GPUs; ignored by the `cpu` provider.
    pub gpu: GpuSpec,
}

/// How an engine uses GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuSpec {
    /// Which GPUs; empty: the first.
    pub devices: Vec<u32>,
    /// Execution contexts a GPU; 0 counts as 1.
    pub contexts: usize,
    /// Padded shapes that run as CUDA graphs from the first time on, where a profile has them.
    pub cuda_graphs: Vec<akidb_domain::profile::Shape>,
    /// Most shapes of a context that become CUDA graphs because they run often.
    pub cuda_graph_limit: usize,
    /// Whether the `cuda` provider may use TF32 for fp32 graphs.
    pub tf32: bool,
    /// Profiles of an engine that was built ahead, narrow first; empty for a plain graph.
    pub profiles: Vec<akidb_domain::profile::Profile>,
    /// Files of all profiles but the last, in their order.
    pub narrow: Vec<PathBuf>,
    /// Most tokens of a text.
    pub max_tokens: usize,
}

/// Why an engine cannot be loaded or run. The caller adds the artifact's name.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The runtime's library is missing, too old or broken.
    #[error("ONNX Runtime cannot be used: {0}")]
    Runtime(String),
    /// The provider is not there.
    #[error("execution provider `{provider}` cannot serve here: {cause}")]
    Provider {
        /// Which.
        provider: ExecutionProvider,
        /// Why.
        cause: String,
    },
    /// The file is not an ONNX graph that the runtime accepts.
    #[error("the engine cannot be loaded: {0}")]
    Load(String),
    /// Inputs or outputs are not those of the manifest.
    #[error("the graph does not fit its manifest: {0}")]
    Signature(String),
    /// A batch failed.
    #[error("the engine failed on a batch: {0}")]
    Run(String),
    /// A batch made room for requests.
    #[error("the batch was interrupted")]
    Interrupted,
    /// The GPU has no memory left for this batch or engine; a smaller one may do.
    #[error("GPU memory is out: {0}")]
    OutOfMemory(String),
    /// The GPU does not answer any more, or its context is broken; nothing runs on it until the process starts anew.
    #[error("the GPU is lost: {0}")]
    DeviceLost(String),
}
