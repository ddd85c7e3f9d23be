//! One artifact's way to serving: pull, verify, load, warm up, prove. Enters: an artifact. Leaves: a [`Live`] engine, or one sentence
//! that names the artifact and the cause. Never: an engine whose answers were not compared with its reference vectors.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use akidb_domain::profile;
use akidb_domain::reference::{Reference, ReferenceError, parity_gate};
use akidb_domain::snapshot::{ServedArtifact, ServedModel};
use akidb_domain::vocabulary::{ExecutionProvider, FileRole, Precision, TargetProvider};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::budget::Bytes;
use super::marker::Markers;
use super::memory::{Memory, Reading};
use super::owner::RoomAsk;
use super::plan::Machine;
use super::proof::{Proof, Proven};
use crate::artifacts::{ArtifactError, Artifacts, View};
use crate::batcher::{Batcher, EngineId, Family};
use crate::clock::Clock;
use crate::engine::{Engine, EngineError, EngineSpec, GpuSpec, TokenBatch};
use crate::metrics::Metrics;
use crate::serving::{Residence, VariantState};
use crate::telemetry::{Observation, Telemetry};
use crate::tokenizer::{Tokenizer, TokenizerPool};

/// What every activation needs; cheap to clone.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Files.
    pub artifacts: Artifacts,
    /// The device.
    pub batcher: Batcher,
    /// Threads for tokenizers.
    pub tokenizers: TokenizerPool,
    /// Metrics.
    pub metrics: Metrics,
    /// Where the device time of loads is told.
    pub telemetry: Telemetry,
    /// Time.
    pub clock: Clock,
    /// Where activation markers and the last good artifacts are noted.
    pub state: PathBuf,
    /// Threads of an operator.
    pub threads: usize,
    /// What this machine runs engines on.
    pub machine: Machine,
    /// How engines use its GPUs.
    pub gpu: GpuSpec,
    /// The memory that engines share.
    pub memory: Memory,
    /// Longest that a load, its warm-up and its proof may take.
    pub load_timeout: Duration,
}

/// A loaded, proven engine.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) tokenizer: Tokenizer,
    /// What runs it.
    pub(crate) provider: ExecutionProvider,
    pub(crate) engine: EngineId,
    pub(crate) loaded_at_ns: u64,
    pub(crate) residence: Arc<Residence>,
    /// Keeps the files in the cache.
    _files: View,
}

impl Live {
    /// What it takes.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes { host: self.residence.memory_bytes, gpu: self.residence.gpu_memory_bytes }
    }
}

/// An artifact to bring up.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) artifact: ServedArtifact,
    pub(crate) card: ServedModel,
    pub(crate) variant: String,
    pub(crate) precision: Precision,
    pub(crate) provider: ExecutionProvider,
}

/// What goes on beside a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    /// There is something else to serve, so one death is enough.
    pub(crate) spared: bool,
    /// Some engine serves already: the load makes room for it.
    pub(crate) beside: bool,
}

/// Why an artifact does not serve. Each message names it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActivationError {
    #[error(transparent)]
    Files(#[from] ArtifactError),
    #[error("artifact {artifact}: {cause}")]
    Load { artifact: String, cause: String },
    #[error("artifact {artifact}: {cause}")]
    Memory { artifact: String, cause: EngineError },
    #[error("artifact {artifact}: it was not loaded and proven within {limit:?} (`embedding.models.load_timeout_ms`)")]
    Slow { artifact: String, limit: Duration },
    #[error("artifact {artifact}: its answers differ from its reference vectors: least cosine {got:.6}, at least {gate} is needed")]
    Parity { artifact: String, got: f64, gate: f64 },
    #[error("artifact {artifact} is not loaded: {cause}")]
    NoRoom { artifact: String, cause: String },
    #[error("artifact {artifact} is quarantined: the process did not survive its last {}; remove {marker} to try it again", loads(*.final_one))]
    Quarantined { artifact: String, marker: String, final_one: bool },
}

impl ActivationError {
    /// Whether another try may go better after so many: what came from the store or the disk may, and a GPU's memory may be free again; an
    /// engine's answer does not change.
    pub(crate) fn is_worth_another_try(&self, failures: u32) -> bool {
        matches!(self, Self::Files(_)) || matches!(self, Self::Memory { .. } if failures < MEMORY_TRIES)
    }
}

fn loads(two: bool) -> &'static str {
    if two { "2 loads" } else { "load, and something else can serve meanwhile" }
}

/// Loads that find no room on the GPU before one is given up: over some minutes.
const MEMORY_TRIES: u32 = 6;
/// At most this many artifacts are pulled at a time.
const PULLS: usize = 3;

/// Takes turns: few pulls, one load; and memory is asked for before it is taken.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    pulls: Arc<Semaphore>,
    loads: Arc<Semaphore>,
    rooms: mpsc::Sender<RoomAsk>,
}

impl Turns {
    pub(crate) fn new(rooms: mpsc::Sender<RoomAsk>) -> Self {
        Self { pulls: Arc::new(Semaphore::new(PULLS)), loads: Arc::new(Semaphore::new(1)), rooms }
    }

    /// Waits for memory within the budget, or for word that there is none.
    async fn room(&self, digest: &str) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        // An error means that the owner has ended, and its tasks with it.
        drop(self.rooms.send(RoomAsk { digest: digest.to_owned(), reply }).await);
        answer.await.unwrap_or_else(|_| Err("the sidecar is shutting down".to_owned()))
    }
}

impl Job {
    /// Brings the artifact up. `tell` gets its state as it changes.
    pub(crate) async fn run(
        &self,
        parts: &Parts,
        turns: &Turns,
        around: Surroundings,
        tell: &(dyn Fn(VariantState) + Send + Sync),
    ) -> Result<Live, ActivationError> {
        let markers = Markers::open(&parts.state).map_err(|e| self.load_error(format!("activation markers: {e}")))?;
        let final_one = markers.quarantined(&self.artifact.digest);
        if final_one || (around.spared && markers.suspected(&self.artifact.digest)) {
            let marker = parts.state.join("activations").join(&self.artifact.digest).display().to_string();
            return Err(ActivationError::Quarantined { artifact: self.name(), marker, final_one });
        }
        // The semaphores are never closed; were they, going on without a turn would still be right.
        let turn = turns.pulls.acquire().await;
        let progress = |done, total| tell(VariantState::Pulling { done, total });
        let files = parts.artifacts.pull(&self.artifact, &self.short_name(), &progress).await?;
        drop(turn);
        tell(VariantState::Cached);
        turns.room(&self.artifact.digest).await.map_err(|cause| ActivationError::NoRoom { artifact: self.name(), cause })?;
        let _turn = turns.loads.acquire().await;
        let _unprobed = parts.batcher.hold_probes();
        tell(VariantState::Loading);
        let mark = Mark::begin(markers, &self.artifact.digest).map_err(|e| self.load_error(format!("activation marker: {e}")))?;
        let before = self.memory(parts).await;
        let until = Instant::now() + parts.load_timeout;
        let proven = timeout_at(until, self.prove(parts, &files.folder, around.beside)).await;
        let (engine, tokenizer) = proven.map_err(|_| ActivationError::Slow { artifact: self.name(), limit: parts.load_timeout })??;
        let engine = parts.batcher.install(engine).await;
        let family = Family { model: &self.card.name, variant: &self.variant, bytes: self.artifact.bytes() };
        let budget = parts.batcher.learn_budget(engine, family, self.card.max_tokens as usize).await;
        tracing::info!(artifact = self.name(), max_batch_tokens = budget, "proven");
        drop(mark);
        let (memory, after) = (&parts.memory, self.memory(parts).await);
        let Bytes { host, gpu } = memory.footprint(memory.estimate(&self.artifact, self.provider), self.provider, &before, &after);
        let residence = Arc::new(Residence::new(host, gpu, parts.clock.now_ns()));
        Ok(Live { tokenizer, provider: self.provider, engine, loaded_at_ns: parts.clock.now_ns(), residence, _files: files })
    }

    /// What is in use now; on a thread that may block.
    async fn memory(&self, parts: &Parts) -> Reading {
        let (memory, provider) = (parts.memory.clone(), self.provider);
        // A reading that panicked says nothing, and the estimate holds.
        tokio::task::spawn_blocking(move || memory.read(provider)).await.unwrap_or_default()
    }

    /// Loads the engine, runs its reference texts and compares.
    async fn prove(&self, parts: &Parts, folder: &Path, beside: bool) -> Result<(Box<dyn Engine>, Tokenizer), ActivationError> {
        let (job, pool, folder) = (self.clone(), parts.tokenizers.clone(), folder.to_owned());
        let read = tokio::task::spawn_blocking(move || job.read(&pool, &folder));
        let (path, tokenizer, reference) = read.await.map_err(|e| self.load_error(e))??;
        let encoded = tokenizer.encode(reference.texts.clone(), true).await.map_err(|e| self.load_error(e))?;
        let ids: Vec<Vec<u32>> = encoded.into_iter().map(|it| it.ids).collect();
        let spec = EngineSpec {
            gpu: self.on_gpu(&parts.gpu, &path)?,
            path,
            graph: self.artifact.graph.clone(),
            dimension: self.card.dimension as usize,
            provider: self.provider,
            threads: parts.threads,
        };
        let (telemetry, metrics) = (parts.telemetry.clone(), parts.metrics.clone());
        let (model, variant) = (self.card.name.clone(), self.variant.clone());
        let tell = move |cause, device| {
            metrics.overhead(cause, device);
            telemetry.observe(Observation::Beside { cause, model: model.clone(), variant: variant.clone(), device });
        };
        let proof = Proof { spec, batches: batches(&ids), texts: ids.len(), beside, tell: Arc::new(tell) };
        let Proven { engine, vectors } = proof.run().await.map_err(|e| match e {
            EngineError::OutOfMemory(_) => ActivationError::Memory { artifact: self.name(), cause: e },
            other => self.load_error(other),
        })?;
        let (got, gate) = (
            reference.min_cosine(&vectors),
            parity_gate(self.precision, self.provider, made_for(self.artifact.target.provider) == self.provider),
        );
        if got >= gate { Ok((engine, tokenizer)) } else { Err(ActivationError::Parity { artifact: self.name(), got, gate }) }
    }

    /// The engine's file, the tokenizer and the reference vectors; on a thread that may block.
    fn read(&self, pool: &TokenizerPool, folder: &Path) -> Result<(PathBuf, Tokenizer, Reference), ActivationError> {
        let path = |role: FileRole| {
            let file = self.artifact.files.iter().find(|it| it.file.role == role);
            file.map(|it| folder.join(&it.file.path)).ok_or_else(|| self.load_error(format!("it has no {role} file")))
        };
        let tokenizer = Tokenizer::load(&path(FileRole::Tokenizer)?, self.card.max_tokens, pool).map_err(|e| self.load_error(e))?;
        let reference = std::fs::read(path(FileRole::Reference)?).map_err(|e| self.load_error(format!("reference.json: {e}")))?;
        let reference = Reference::parse(&reference, self.card.dimension).map_err(|e: ReferenceError| self.load_error(e))?;
        Ok((path(FileRole::Engine)?, tokenizer, reference))
    }

    /// How its engine uses GPUs: the profiles that it was built for, and their files beside the main one.
    fn on_gpu(&self, gpu: &GpuSpec, main: &Path) -> Result<GpuSpec, ActivationError> {
        let text = self.artifact.target.shape_profile.as_deref();
        let profiles =
            text.map_or_else(|| Ok(Vec::new()), profile::parse).map_err(|e| self.load_error(format!("`target.shape_profile`: {e}")))?;
        let narrow = (1..profiles.len()).map(|it| main.with_file_name(profile_file(main, it - 1))).collect();
        Ok(GpuSpec { profiles, narrow, max_tokens: self.card.max_tokens as usize, ..gpu.clone() })
    }

    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.short_name(), self.artifact.digest.get(..12).unwrap_or_default())
    }

    fn short_name(&self) -> String {
        format!("`{}@{}`", self.card.name, self.variant)
    }

    fn load_error(&self, cause: impl std::fmt::Display) -> ActivationError {
        ActivationError::Load { artifact: self.name(), cause: format!("{cause}") }
    }
}

/// The provider that an artifact's reference vectors were made on.
fn made_for(target: TargetProvider) -> ExecutionProvider {
    match target {
        TargetProvider::Portable | TargetProvider::Cpu => ExecutionProvider::Cpu,
        TargetProvider::Cuda => ExecutionProvider::Cuda,
        TargetProvider::TensorRt => ExecutionProvider::TensorRt,
    }
}

/// `model.onnx` has `model.profile0.onnx`, ... beside it.
fn profile_file(main: &Path, profile: usize) -> String {
    let stem = main.file_stem().unwrap_or_default().to_string_lossy();
    format!("{stem}.profile{profile}.onnx")
}

/// An activation marker; cleared when dropped: only a process that died leaves it behind.
struct Mark {
    markers: Markers,
    digest: String,
}

impl Mark {
    fn begin(markers: Markers, digest: &str) -> std::io::Result<Self> {
        markers.begin(digest)?;
        Ok(Self { markers, digest: digest.to_owned() })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.markers.clear(&self.digest);
    }
}

/// Texts of similar length together, at most this many tokens a batch.
const BATCH_TOKENS: usize = 128;

/// Rectangular batches of texts, shortest first, each with the places of its texts.
fn batches(ids: &[Vec<u32>]) -> Vec<(Vec<usize>, TokenBatch)> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|i| ids[*i].len());
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match groups.last_mut() {
            Some(group) if (group.len() + 1) * ids[i].len() <= BATCH_TOKENS => group.push(i),
            _ => groups.push(vec![i]),
        }
    }
    groups.into_iter().map(|group| (group.clone(), batch(&group, ids))).collect()
}

fn batch(group: &[usize], ids: &[Vec<u32>]) -> TokenBatch {
    let tokens = group.iter().map(|i| ids[*i].len()).max().unwrap_or(0).max(1);
    let mut batch = TokenBatch { rows: group.len(), tokens, ..TokenBatch::default() };
    for i in group {
        let row = &ids[*i];
        batch.ids.extend(row.iter().map(|id| i64::from(*id)).chain(std::iter::repeat_n(0, tokens - row.len())));
        batch.mask.extend(std::iter::repeat_n(1, row.len()).chain(std::iter::repeat_n(0, tokens - row.len())));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_in_one_batch_within_the_token_budget() {
        let ids: Vec<Vec<u32>> = (1..=40).map(|n| vec![7; n * 5]).collect();
        let batches = batches(&ids);
        let mut seen: Vec<usize> = batches.iter().flat_map(|it| it.0.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
        for (texts, batch) in batches {
            // A text longer than the budget runs alone.
            assert!(batch.rows == 1 || batch.rows * batch.tokens <= BATCH_TOKENS);
            assert!(batch.rows == texts.len() && batch.ids.len() == batch.rows * batch.tokens);
            assert_eq!(batch.mask.iter().sum::<i64>(), texts.iter().map(|i| ids[*i].len() as i64).sum::<i64>());
        }
    }
}
