//! Engines built ahead: an ONNX graph in, an `EPContext` file with a TensorRT engine out.
//!
//! Enters: a graph, a precision, a profile. Leaves: the file, or why TensorRT did not make it. Never: a file that is half written under its
//! final name; a build on the path of a request.

use std::path::{Path, PathBuf};

use akidb_domain::bundle::Graph;
use akidb_domain::vocabulary::{ExecutionProvider, Precision};

use super::providers::{Options, builder, truth};
use crate::engine::{EngineError, fault};
use akidb_domain::profile::{Profile, Shape};

/// What to build.
#[derive(Debug, Clone)]
pub struct Build {
    /// The ONNX graph.
    pub source: PathBuf,
    /// Its inputs.
    pub graph: Graph,
    /// Number format of the engine's heavy layers.
    pub precision: Precision,
    /// Shapes it is for.
    pub profile: Profile,
    /// Where the `EPContext` file goes.
    pub output: PathBuf,
    /// Folder of TensorRT's timing cache.
    pub timing_cache: Option<PathBuf>,
    /// Which GPU.
    pub device: u32,
    /// How hard TensorRT searches, 0 to 5.
    pub level: u8,
    /// Whether the engine is inside the ONNX file, or beside it.
    pub embed: bool,
}

/// Builds one engine; minutes of work.
pub fn compile(build: &Build) -> Result<(), EngineError> {
    let mut builder = builder(ExecutionProvider::TensorRt, &options(build))?;
    let session = builder.commit_from_file(&build.source).map_err(|it| fault::of_load(it.to_string()))?;
    drop(session);
    if build.output.is_file() {
        return Ok(());
    }
    let at = build.output.display();
    Err(EngineError::Load(format!("TensorRT built an engine, but ONNX Runtime wrote no EPContext file to {at}: see its messages above")))
}

fn options(build: &Build) -> Options {
    let text = |it: &Path| it.display().to_string();
    let precision = build.precision;
    let mut options = vec![
        ("device_id", build.device.to_string()),
        ("trt_dump_ep_context_model", truth(true)),
        ("trt_ep_context_file_path", text(&build.output)),
        ("trt_ep_context_embed_mode", u8::from(build.embed).to_string()),
        ("trt_fp16_enable", truth(matches!(precision, Precision::Fp16 | Precision::Int8 | Precision::Fp8))),
        ("trt_int8_enable", truth(precision == Precision::Int8)),
        ("trt_builder_optimization_level", build.level.to_string()),
        ("trt_profile_min_shapes", shapes(&build.graph, build.profile.min)),
        ("trt_profile_opt_shapes", shapes(&build.graph, build.profile.opt)),
        ("trt_profile_max_shapes", shapes(&build.graph, build.profile.max)),
    ];
    if let Some(folder) = &build.timing_cache {
        options.push(("trt_timing_cache_enable", truth(true)));
        options.push(("trt_timing_cache_path", text(folder)));
    }
    options
}

/// `input_ids:1x16,attention_mask:1x16`
fn shapes(graph: &Graph, shape: Shape) -> String {
    graph.inputs.iter().map(|it| format!("{it}:{shape}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(precision: Precision, key: &str, expected: &str) {
        let graph = Graph { inputs: vec!["input_ids".into(), "attention_mask".into()], output: "sentence_embedding".into() };
        let (source, output) = ("model.onnx".into(), "out/model.onnx".into());
        let profile = "1x16:32x64:512x256".parse().unwrap();
        let build = Build { source, graph, precision, profile, output, timing_cache: None, device: 1, level: 3, embed: true };
        let options = options(&build);
        let found = options.iter().find(|it| it.0 == key).map(|it| it.1.as_str());
        assert_eq!(found, (!expected.is_empty()).then_some(expected), "{key}");
    }

    #[test]
    fn options_are_spelt_as_onnx_runtime_reads_them() {
        check(Precision::Fp16, "trt_fp16_enable", "True");
        check(Precision::Fp32, "trt_fp16_enable", "False");
        check(Precision::Int8, "trt_int8_enable", "True");
        check(Precision::Fp8, "trt_int8_enable", "False");
        check(Precision::Fp16, "trt_profile_max_shapes", "input_ids:512x256,attention_mask:512x256");
        check(Precision::Fp16, "trt_ep_context_embed_mode", "1");
        check(Precision::Fp16, "trt_timing_cache_path", "");
    }
}
