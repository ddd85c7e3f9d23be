//! From a bundle to an engine in this process.
//!
//! Enters: a [`Found`] bundle. Leaves: a loaded [`Contestant`] with its batches, or why it cannot run here. Never: an engine whose files are
//! not those of its manifest.

use std::path::{Path, PathBuf};

use akidb_domain::bundle::Manifest;
use akidb_domain::vocabulary::{ExecutionProvider, FileRole, Precision, TargetProvider};
use akidb_sidecar::artifacts::cache::sha256_of;
use akidb_sidecar::engine::onnx::{self, Runtime};
use akidb_sidecar::engine::{Engine, EngineError, EngineSpec, GpuSpec, TokenBatch};
use akidb_sidecar::tokenizer::{Tokenizer, TokenizerPool};

use super::places::Found;
use super::raw;
use super::texts::{Mix, texts};

/// Most different batches of a shape; runs go through them in turn.
const BATCHES: usize = 8;

/// Loads the runtime's library: `AKIDB_ONNXRUNTIME`, else what `make setup` made.
pub(crate) fn start_runtime(root: &Path) -> Result<PathBuf, String> {
    let library = std::env::var_os("AKIDB_ONNXRUNTIME").map_or_else(|| root.join("build/onnxruntime/libonnxruntime.so"), PathBuf::from);
    if !library.is_file() {
        return Err(format!("{} is missing: run `make setup`, or set AKIDB_ONNXRUNTIME to ONNX Runtime's library", library.display()));
    }
    Runtime::init(&library).map_err(|it| it.to_string())?;
    Ok(library)
}

/// What has to run an artifact.
pub(crate) fn provider(manifest: &Manifest) -> ExecutionProvider {
    match manifest.target.provider {
        TargetProvider::TensorRt => ExecutionProvider::TensorRt,
        TargetProvider::Cuda => ExecutionProvider::Cuda,
        // An E4M3 QDQ graph is what a TensorRT engine is built from; a CPU can only emulate it.
        TargetProvider::Portable if manifest.variant.precision == Precision::Fp8 => ExecutionProvider::TensorRt,
        TargetProvider::Portable | TargetProvider::Cpu => ExecutionProvider::Cpu,
    }
}

/// Bytes of the engine and of weights kept outside it.
pub(crate) fn engine_bytes(manifest: &Manifest) -> u64 {
    let engine = |role| matches!(role, FileRole::Engine | FileRole::EngineData);
    manifest.files.iter().filter(|it| engine(it.role)).map(|it| it.bytes).sum()
}

/// An engine that takes part.
pub(crate) struct Contestant {
    pub(crate) manifest: Manifest,
    pub(crate) engine: Box<dyn Engine>,
    ids: Ids,
}

impl Contestant {
    /// Loads a bundle on `threads` threads.
    pub(crate) fn load(found: &Found, threads: usize) -> Result<Self, String> {
        let manifest = found.manifest.clone();
        let provider = provider(&manifest);
        let name = format!("{}@{}", manifest.model.name, manifest.variant.name);
        let engine = manifest.file(FileRole::Engine).ok_or("the manifest lists no engine")?;
        let spec = EngineSpec {
            path: found.folder.join(&engine.path),
            graph: manifest.graph.clone(),
            dimension: manifest.model.dimension as usize,
            provider,
            threads,
            gpu: GpuSpec::default(),
        };
        if provider == ExecutionProvider::Cpu {
            check_files(found)?;
        }
        let engine = onnx::load(&spec).map_err(|it| match it {
            EngineError::Provider { cause, .. } if manifest.target.provider == TargetProvider::Portable => {
                format!("QDQ graph for TensorRT to build an engine from; this machine serves cpu only ({cause})")
            }
            EngineError::Provider { provider, cause } => format!("an engine for {provider}; this machine serves cpu only ({cause})"),
            other => format!("{name}: {other}"),
        })?;
        let ids = Ids::new(found)?;
        Ok(Self { manifest, engine, ids })
    }

    /// Batches of `rows` texts of exactly `tokens` tokens each.
    pub(crate) fn batches(&self, rows: usize, tokens: usize) -> Result<Vec<TokenBatch>, String> {
        let limit = self.manifest.model.max_tokens as usize;
        if !(2..=limit).contains(&tokens) {
            return Err(format!("{} takes 2 to {limit} tokens a text, not {tokens}", self.manifest.model.name));
        }
        let count = (256 / rows).clamp(1, BATCHES);
        let ids = self.ids.of(rows * count, tokens)?;
        Ok(raw::batches(&ids, rows * tokens, rows))
    }
}

/// A published figure names a digest, so the files must have it.
fn check_files(found: &Found) -> Result<(), String> {
    for file in &found.manifest.files {
        let path = found.folder.join(&file.path);
        let seen = sha256_of(&path).map_err(|it| format!("{}: {it}", path.display()))?;
        if seen != file.sha256 {
            return Err(format!("{} has sha256 {seen}, its manifest says {}: build it again", path.display(), file.sha256));
        }
    }
    Ok(())
}

/// Token ids of everyday texts.
struct Ids {
    tokenizer: Tokenizer,
    runtime: tokio::runtime::Runtime,
}

impl Ids {
    fn new(found: &Found) -> Result<Self, String> {
        let file = found.manifest.file(FileRole::Tokenizer).ok_or("the manifest lists no tokenizer")?;
        let pool = TokenizerPool::start(1).map_err(|it| it.to_string())?;
        let tokenizer = Tokenizer::load(&found.folder.join(&file.path), found.manifest.model.max_tokens, &pool);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|it| it.to_string())?;
        Ok(Self { tokenizer: tokenizer.map_err(|it| it.to_string())?, runtime })
    }

    /// `count` texts, each cut to `tokens` with its last special token kept.
    fn of(&self, count: usize, tokens: usize) -> Result<Vec<Vec<u32>>, String> {
        let texts = texts(Mix::Uniform(tokens as u64), count);
        let encoded = self.runtime.block_on(self.tokenizer.encode(texts, true)).map_err(|it| it.to_string())?;
        let cut = |mut ids: Vec<u32>| {
            let last = ids.last().copied().filter(|_| ids.len() >= tokens)?;
            ids.truncate(tokens - 1);
            ids.push(last);
            Some(ids)
        };
        let ids: Option<Vec<Vec<u32>>> = encoded.into_iter().map(|it| cut(it.ids)).collect();
        ids.ok_or_else(|| format!("the tokenizer gives fewer than {tokens} tokens for {tokens} words"))
    }
}
