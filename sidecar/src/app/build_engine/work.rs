//! Builds, proves and writes. Enters: a checked source, profiles, the machine's facts. Leaves: the bundle and its report. Never: a manifest
//! over an engine that did not pass its gate.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akidb_domain::bundle::{BundleFile, Evaluation, FORMAT, Lineage, Manifest, SourceFile, VariantCard};
use akidb_domain::profile::{self, Profile};
use akidb_domain::reference::Reference;
use akidb_domain::vocabulary::{ExecutionProvider, FileRole, Precision, Target, TargetProvider};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::batch::embed;
use super::proof::{Asked, Proof, ROWS};
use super::source::{Source, sha256};
use super::{BuildEngine, HeldOut};
use crate::clock::Clock;
use crate::engine::device::{Facts, Gpu};
use crate::engine::onnx::compile::{Build, compile};
use crate::engine::{EngineSpec, GpuSpec, onnx};
use crate::telemetry::rfc3339;
use crate::tokenizer::{Tokenizer, TokenizerPool};

/// Engines that may be larger go beside their ONNX file: protobuf ends at 2 GB.
const EMBED_BYTES: u64 = 1_500_000_000;
/// How often a build says that it goes on.
const TICK: Duration = Duration::from_secs(10);
/// Switches TF32 off in every NVIDIA library; ONNX Runtime has no option of its own for it.
const TF32: &str = "NVIDIA_TF32_OVERRIDE";

pub(super) struct Work<'a> {
    pub(super) arguments: &'a BuildEngine,
    pub(super) source: &'a Source,
    pub(super) held_out: Option<&'a HeldOut>,
    pub(super) profiles: &'a [Profile],
    pub(super) facts: &'a Facts,
}

/// Full fp32 needs a variable that libraries read when they are loaded: the program starts itself anew with it.
pub(super) fn without_tf32(precision: Precision) -> Result<()> {
    if precision != Precision::Fp32 || std::env::var(TF32).is_ok_and(|it| it == "0") {
        return Ok(());
    }
    let error = std::process::Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(TF32, "0").exec();
    Err(error).context("the program could not start itself anew without TF32")
}

/// A folder to write to: made, or found empty.
pub(super) fn empty_folder(at: &Path) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("the output folder {} cannot be made", at.display()))?;
    let mut found = fs::read_dir(at).with_context(|| format!("the output folder {} cannot be read", at.display()))?;
    if found.next().is_some() {
        bail!("the output folder {} is not empty: name another one, or remove what is in it", at.display());
    }
    Ok(())
}

impl Work<'_> {
    pub(super) fn run(&self) -> Result<Value> {
        let started = Instant::now();
        let engines = self.engines()?;
        let output = &self.arguments.output;
        let (_, tokenizer) = self.source.file(FileRole::Tokenizer)?;
        fs::copy(tokenizer, output.join("tokenizer.json")).context("the tokenizer cannot be copied")?;
        let (listed, parent) = self.source.file(FileRole::Reference)?;
        let reference = Reference::parse(&fs::read(parent)?, self.source.manifest.model.dimension)?;
        let proof = self.prove(&reference, &listed.sha256)?;
        let own = Reference { texts: reference.texts, vectors: proof.vectors.clone() };
        fs::write(output.join("reference.json"), serde_json::to_vec(&own)?)?;
        let (evaluation, missed) = proof.evaluation(self.arguments.precision, self.source.manifest.model.seeded, tool());
        let manifest = self.manifest(evaluation)?;
        let report = self.report(&manifest, &engines, &proof, started.elapsed());
        fs::write(output.join("build-report.json"), serde_json::to_vec_pretty(&report)?)?;
        if let Some(why) = missed {
            bail!("the engine was built, but {why}; no manifest was written");
        }
        // Last: whoever finds it finds all that it lists.
        fs::write(output.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
        Ok(report)
    }

    /// One engine a profile; `(profile, file, seconds)`.
    fn engines(&self) -> Result<Vec<(Profile, String, f64)>> {
        let mut built = Vec::new();
        for (index, profile) in self.profiles.iter().enumerate() {
            let widest = index + 1 == self.profiles.len();
            let file = if widest { "model.onnx".to_owned() } else { format!("model.profile{index}.onnx") };
            let label = format!("engine {} of {} ({}, profile {profile})", index + 1, self.profiles.len(), self.arguments.precision);
            let order = self.build(*profile, &file)?;
            let from = Instant::now();
            with_progress(&label, || compile(&order)).with_context(|| label.clone())?;
            built.push((*profile, file, from.elapsed().as_secs_f64()));
        }
        Ok(built)
    }

    fn build(&self, profile: Profile, file: &str) -> Result<Build> {
        let (_, source) = self.source.file(FileRole::Engine)?;
        let weights: u64 = self.source.manifest.bytes();
        let timing_cache = self.arguments.timing_cache.clone();
        if let Some(folder) = &timing_cache {
            fs::create_dir_all(folder).with_context(|| format!("the timing cache's folder {} cannot be made", folder.display()))?;
        }
        Ok(Build {
            source,
            graph: self.source.manifest.graph.clone(),
            precision: self.arguments.precision,
            profile,
            output: fs::canonicalize(&self.arguments.output)?.join(file),
            timing_cache,
            device: self.arguments.device,
            level: self.arguments.optimization_level,
            embed: weights < EMBED_BYTES,
        })
    }

    /// Loads the engine as a sidecar does and runs the reference texts one by one, the held-out ones in batches, and some in every batch.
    fn prove(&self, reference: &Reference, listed: &str) -> Result<Proof> {
        let tokenizer = self.source.file(FileRole::Tokenizer)?.1;
        let texts = self.encode(&tokenizer, &reference.texts)?;
        let mut asked = Asked { reference: (texts, reference.vectors.clone()), held_out: None, dataset: listed.to_owned() };
        if let Some(HeldOut { texts, fp32 }) = self.held_out {
            let ids = self.encode(&tokenizer, &texts.texts)?;
            let provider = self.facts.refusal(ExecutionProvider::Cuda).map_or(ExecutionProvider::Cuda, |_| ExecutionProvider::Cpu);
            eprintln!("fp32 vectors of {} held-out texts on `{provider}`", ids.len());
            let expected = embed(&mut *onnx::load(&self.parent(fp32, provider)?)?, &ids, ROWS)?;
            asked = Asked { held_out: Some((ids, expected)), dataset: texts.digest.clone(), ..asked };
        }
        let proven = asked.held_out.as_ref().map_or(reference.texts.len(), |it| it.0.len());
        let from = Instant::now();
        let mut engine = onnx::load(&self.engine())?;
        let load = from.elapsed();
        eprintln!("proving it on {proven} texts");
        Proof::take(&mut *engine, &asked, self.profiles, load)
    }

    /// The new engine.
    fn engine(&self) -> EngineSpec {
        let (manifest, output) = (&self.source.manifest, &self.arguments.output);
        let narrow = (0..self.profiles.len() - 1).map(|it| output.join(format!("model.profile{it}.onnx"))).collect();
        let gpu = GpuSpec { profiles: self.profiles.to_vec(), narrow, ..self.gpu_spec() };
        EngineSpec {
            path: output.join("model.onnx"),
            graph: manifest.graph.clone(),
            dimension: manifest.model.dimension as usize,
            provider: ExecutionProvider::TensorRt,
            threads: 1,
            gpu,
        }
    }

    /// What it is measured against: full fp32, without TF32.
    fn parent(&self, fp32: &Source, provider: ExecutionProvider) -> Result<EngineSpec> {
        let (_, path) = fp32.file(FileRole::Engine)?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (graph, dimension) = (fp32.manifest.graph.clone(), fp32.manifest.model.dimension as usize);
        Ok(EngineSpec { path, graph, dimension, provider, threads, gpu: self.gpu_spec() })
    }

    fn gpu_spec(&self) -> GpuSpec {
        let max_tokens = self.source.manifest.model.max_tokens as usize;
        GpuSpec { devices: vec![self.arguments.device], contexts: 1, tf32: false, max_tokens, ..GpuSpec::default() }
    }

    fn encode(&self, tokenizer: &Path, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        let tokenizer = Tokenizer::load(tokenizer, self.source.manifest.model.max_tokens, &TokenizerPool::start(1)?)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let encoded = runtime.block_on(tokenizer.encode(texts.to_vec(), true))?;
        Ok(encoded.into_iter().map(|it| it.ids).collect())
    }

    fn manifest(&self, evaluation: Evaluation) -> Result<Manifest> {
        let (parent, arguments) = (&self.source.manifest, self.arguments);
        let (engine, _) = self.source.file(FileRole::Engine)?;
        let gpu = self.gpu()?;
        let recipe = format!(
            "TensorRT {} through {} on {} (compute capability {}), {}, optimization level {}, from {}@{}",
            self.facts.tensorrt.as_deref().unwrap_or_default(),
            self.facts.onnxruntime,
            gpu.name,
            gpu.compute_capability,
            arguments.precision,
            arguments.optimization_level,
            parent.model.name,
            parent.variant.name
        );
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            model: parent.model.clone(),
            variant: VariantCard {
                name: arguments.variant.clone().unwrap_or_else(|| format!("tensorrt-{}", arguments.precision)),
                precision: arguments.precision,
            },
            target: Target {
                provider: TargetProvider::TensorRt,
                compute_capability: Some(gpu.compute_capability.clone()),
                tensorrt_version: self.facts.tensorrt.clone(),
                shape_profile: Some(profile::join(self.profiles)),
            },
            graph: parent.graph.clone(),
            files: files(&arguments.output)?,
            lineage: Lineage {
                parent_digest: Some(parent.digest()),
                calibration_digest: parent.lineage.calibration_digest.clone(),
                recipe,
                source_files: vec![SourceFile { path: engine.path.clone(), sha256: engine.sha256.clone() }],
            },
            evaluation: Some(evaluation),
            created_at: Some(rfc3339(Clock::start().boot_unix_ns())),
        };
        Manifest::parse(&serde_json::to_vec(&manifest)?).context("the new manifest")
    }

    fn gpu(&self) -> Result<&Gpu> {
        self.facts.first(&[self.arguments.device]).context("the GPU is not there any more")
    }

    fn report(&self, manifest: &Manifest, engines: &[(Profile, String, f64)], proof: &Proof, took: Duration) -> Value {
        let bytes = |file: &str| manifest.files.iter().find(|it| it.path == file).map_or(0, |it| it.bytes);
        let engine = |(profile, file, seconds): &(Profile, String, f64)| json!({"profile": profile.to_string(), "file": file, "bytes": bytes(file), "seconds": seconds});
        let gpu = self.facts.first(&[self.arguments.device]);
        json!({
            "seconds": took.as_secs_f64(),
            "engines": engines.iter().map(engine).collect::<Vec<_>>(),
            "bytes": manifest.bytes(),
            "precision": manifest.variant.precision,
            "parent": manifest.lineage.parent_digest,
            "artifact": manifest.digest(),
            "gpu": gpu.map(|it| &it.name),
            "compute_capability": gpu.map(|it| &it.compute_capability),
            "driver": self.facts.driver,
            "cuda_driver": self.facts.cuda_driver,
            "tensorrt": self.facts.tensorrt,
            "onnxruntime": self.facts.onnxruntime,
            "timing_cache": self.arguments.timing_cache,
            "optimization_level": self.arguments.optimization_level,
            "load_seconds": proof.load.as_secs_f64(),
            "n": proof.agreement.texts,
            "mean_cosine": proof.agreement.mean_cosine,
            "min_cosine": proof.agreement.min_cosine,
            "recall_at_10": proof.agreement.recall_at_10,
            "batch_invariance": proof.invariance.cosine,
            "invariance": {"cosine": proof.invariance.cosine, "texts": proof.invariance.texts, "between": proof.invariance.between},
            "gate": manifest.evaluation.as_ref().map(|it| &it.gate),
            "tool": tool(),
        })
    }
}

fn tool() -> String {
    format!("akidb-sidecar build-engine {}", env!("CARGO_PKG_VERSION"))
}

/// What lies in the folder, each with its role.
fn files(folder: &Path) -> Result<Vec<BundleFile>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.map(|it| it.map(|it| it.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let role = match name.as_str() {
            "model.onnx" => FileRole::Engine,
            "tokenizer.json" => FileRole::Tokenizer,
            "reference.json" => FileRole::Reference,
            _ if path.extension().is_some_and(|it| it == "onnx" || it == "engine") => FileRole::EngineData,
            _ => continue,
        };
        files.push(BundleFile { path: name, role, bytes: fs::metadata(&path)?.len(), sha256: sha256(&path)? });
    }
    Ok(files)
}

/// Runs `work` here and says meanwhile that it goes on.
fn with_progress<T>(label: &str, work: impl FnOnce() -> T) -> T {
    let from = Instant::now();
    let (done, waits) = std::sync::mpsc::channel::<()>();
    eprintln!("{label}: building");
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            while waits.recv_timeout(TICK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{label}: building, {} s", from.elapsed().as_secs());
            }
        });
        let result = work();
        drop(done);
        result
    });
    eprintln!("{label}: built in {:.1} s", from.elapsed().as_secs_f64());
    result
}
