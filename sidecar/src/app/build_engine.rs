//! The commands `build-engine` and `devices`: a TensorRT engine for this machine's GPU, made from a bundle, proven and written as a bundle.
//!
//! Enters: a bundle's folder, a precision, shape profiles. Leaves: a bundle with a manifest, reference vectors and a build report, catalogued
//! where that was asked for; or one sentence that names what is missing. Never: a manifest before everything that it lists is there and
//! proven.

use std::path::PathBuf;

use akidb_domain::profile::{self, Profile};
use akidb_domain::vocabulary::Precision;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::engine::device::{self, Facts};
use crate::engine::onnx::Runtime;

/// ONNX Runtime's library.
#[derive(Debug, Clone, Args)]
pub struct Library {
    /// ONNX Runtime's library, of `onnxruntime-gpu`; default `ORT_DYLIB_PATH`, else `libonnxruntime.so` where the loader finds it.
    #[arg(long, env = "AKIDB_ONNXRUNTIME")]
    onnxruntime: Option<PathBuf>,
}

/// What to build.
#[derive(Debug, Clone, Args)]
pub struct BuildEngine {
    /// The folder of the bundle to build from: its fp32 graph for fp32, tf32 and fp16, a QDQ graph for int8 and fp8.
    #[arg(long)]
    pub(super) bundle: PathBuf,
    /// fp32, tf32, fp16, int8 or fp8.
    #[arg(long)]
    pub(super) precision: Precision,
    /// Where the new bundle goes; a folder that is not there yet, or is empty.
    #[arg(long)]
    pub(super) output: PathBuf,
    /// Shapes `min:opt:max`, each `BATCHxTOKENS`, the widest last; default `1x16:64x32:512x<limit>`, and for fp32, tf32 and fp16 a small one
    /// before it.
    #[arg(long, num_args = 1..)]
    pub(super) profile: Vec<Profile>,
    /// Folder of TensorRT's timing cache, which makes the next build faster.
    #[arg(long)]
    pub(super) timing_cache: Option<PathBuf>,
    /// Which GPU.
    #[arg(long, default_value_t = 0)]
    pub(super) device: u32,
    /// How hard TensorRT searches for the fastest kernels.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=5))]
    pub(super) optimization_level: u8,
    /// The variant's name; default `tensorrt-<precision>`.
    #[arg(long)]
    pub(super) variant: Option<String>,
    /// Held-out texts that prove the engine against fp32, with recall@10: one a line, or JSON as `make_corpus.py` writes it; without them only
    /// the bundle's reference texts do.
    #[arg(long, value_name = "FILE")]
    pub(super) test_dataset: Option<PathBuf>,
    /// How many of them.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(32..=100_000))]
    pub(super) evaluate: u32,
    /// The fp32 bundle's folder, to measure against; default the bundle itself, or its parent beside it.
    #[arg(long, value_name = "FOLDER")]
    pub(super) fp32: Option<PathBuf>,
    /// Catalogue it by the program `akidb`, with the control plane of `AKIDB_SERVER`: files are uploaded, or with `in-place` read by the server.
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "upload")]
    pub(super) register: Option<Register>,
    #[command(flatten)]
    library: Library,
}

/// How a control plane gets the files of what is catalogued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Register {
    /// They are sent to it.
    Upload,
    /// It reads the folder itself, at the same path.
    InPlace,
}

/// What to show.
#[derive(Debug, Clone, Args)]
pub struct Devices {
    #[command(flatten)]
    library: Library,
}

/// Shows the machine's facts as JSON.
pub fn devices(arguments: &Devices) -> Result<()> {
    complain();
    let facts = facts(&arguments.library, 0)?;
    let usable: Vec<String> = facts.usable().iter().map(ToString::to_string).collect();
    let shown = serde_json::json!({"usable": usable, "facts": facts});
    println!("{}", serde_json::to_string_pretty(&shown)?);
    Ok(())
}

/// ONNX Runtime's and TensorRT's own complaints go to where progress goes.
fn complain() {
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).without_time();
    // Somebody else has started logging: then that is where they go.
    drop(lines.try_init());
}

fn facts(library: &Library, device: u32) -> Result<Facts> {
    let elsewhere = || std::env::var_os("ORT_DYLIB_PATH").filter(|it| !it.is_empty()).map(PathBuf::from);
    let path = library.onnxruntime.clone().or_else(elsewhere).unwrap_or_else(|| "libonnxruntime.so".into());
    Runtime::init(&path).context("set `--onnxruntime` (`AKIDB_ONNXRUNTIME`) to its library")?;
    Ok(device::detect(&path, &[device]))
}

impl BuildEngine {
    /// The shapes to build for, the widest last.
    fn profiles(&self, max_tokens: u32) -> Result<Vec<Profile>> {
        let profiles = match &self.profile[..] {
            [] => default_profiles(self.precision, max_tokens as usize),
            given => given.to_vec(),
        };
        // As it will be written and read again.
        let profiles = profile::parse(&profile::join(&profiles))?;
        match profiles.last() {
            Some(widest) if widest.max.tokens < max_tokens as usize => bail!(
                "the last profile {widest} ends at {} tokens, the model's texts at {max_tokens}: give one that reaches that, the widest last",
                widest.max.tokens
            ),
            _ => Ok(profiles),
        }
    }
}

/// A small one for lone texts, and a wide one. Two INT8 or FP8 engines of one graph round further apart than one does with itself, so that a
/// text's vector would follow more from its batch: those have the wide one alone.
fn default_profiles(precision: Precision, max_tokens: usize) -> Vec<Profile> {
    let shape = |rows, tokens: usize| profile::Shape { rows, tokens: tokens.min(max_tokens) };
    let small = Profile { min: shape(1, 16), opt: shape(1, 32), max: shape(8, 64) };
    let wide = Profile { min: shape(1, 16), opt: shape(64, 32), max: shape(512, max_tokens) };
    let one = max_tokens <= 64 || matches!(precision, Precision::Int8 | Precision::Fp8);
    if one { vec![wide] } else { vec![small, wide] }
}

/// What held-out texts an engine is proven on.
#[derive(Debug)]
#[cfg_attr(not(feature = "tensorrt"), expect(dead_code, reason = "a build without GPU providers only sees that they are there"))]
struct HeldOut {
    texts: texts::Texts,
    fp32: source::Source,
}

impl HeldOut {
    /// Read before hours of work, so that what is missing is said then.
    fn read(arguments: &BuildEngine, source: &source::Source) -> Result<Option<Self>> {
        let Some(file) = &arguments.test_dataset else { return Ok(None) };
        let texts = texts::Texts::read(file, arguments.evaluate as usize)?;
        Ok(Some(Self { texts, fp32: source.fp32(arguments.fp32.as_deref())? }))
    }
}

/// Builds an engine.
#[cfg(not(feature = "tensorrt"))]
pub fn run(arguments: &BuildEngine) -> Result<()> {
    let source = source::Source::read(&arguments.bundle)?;
    source.check(arguments.precision)?;
    arguments.profiles(source.manifest.model.max_tokens)?;
    HeldOut::read(arguments, &source)?;
    bail!("this build has no GPU providers: build the sidecar with `--features tensorrt`")
}

/// Builds an engine.
#[cfg(feature = "tensorrt")]
pub fn run(arguments: &BuildEngine) -> Result<()> {
    use akidb_domain::vocabulary::ExecutionProvider;

    complain();
    let source = source::Source::read(&arguments.bundle)?;
    source.check(arguments.precision)?;
    let profiles = arguments.profiles(source.manifest.model.max_tokens)?;
    let held_out = HeldOut::read(arguments, &source)?;
    let facts = facts(&arguments.library, arguments.device)?;
    if let Some(why) = facts.refusal(ExecutionProvider::TensorRt) {
        bail!("TensorRT cannot build here: {why}");
    }
    work::without_tf32(arguments.precision)?;
    if arguments.register.is_some() {
        register::check(&source)?;
    }
    work::empty_folder(&arguments.output)?;
    let work = work::Work { arguments, source: &source, held_out: held_out.as_ref(), profiles: &profiles, facts: &facts };
    println!("{}", serde_json::to_string_pretty(&work.run()?)?);
    register::run(&arguments.output, arguments.register)
}

#[cfg(any(feature = "tensorrt", test))]
mod batch;
#[cfg(any(feature = "tensorrt", test))]
mod invariance;
#[cfg(any(feature = "tensorrt", test))]
mod proof;
#[cfg(any(feature = "tensorrt", test))]
mod register;
mod source;
mod texts;
#[cfg(feature = "tensorrt")]
mod work;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensorrt_provider_test_default_profiles_reach_the_models_limit() {
        let check =
            |precision, limit, expected: &str| assert_eq!(profile::join(&default_profiles(precision, limit)), expected, "{precision}");
        check(Precision::Fp16, 256, "1x16:1x32:8x64,1x16:64x32:512x256");
        check(Precision::Fp32, 64, "1x16:64x32:512x64");
        check(Precision::Tf32, 16, "1x16:64x16:512x16");
        check(Precision::Int8, 256, "1x16:64x32:512x256");
        check(Precision::Fp8, 256, "1x16:64x32:512x256");
    }
}
