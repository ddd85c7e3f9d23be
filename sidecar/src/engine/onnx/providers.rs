//! The providers `tensorrt` and `cuda` of ONNX Runtime: their options, exactly spelt, and whether they can be had here.
//!
//! Enters: what is wanted. Leaves: a session builder that has the provider, or which library is missing. Never: a session that falls to
//! another provider by itself.

use std::path::Path;

use akidb_domain::vocabulary::ExecutionProvider;
use ort::ep::{ArbitrarilyConfigurableExecutionProvider, CUDA, ExecutionProviderDispatch, TensorRT};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::{ENVIRONMENT, EngineError};
use crate::engine::{fault, library};

/// Libraries that the provider of CUDA 13 links.
const CUDA_LIBRARIES: &[&str] =
    &["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcufft.so.12", "libnvrtc.so.13", "libcudnn.so.9"];
/// Libraries that the provider of TensorRT 10 links besides.
const TENSORRT_LIBRARIES: &[&str] = &["libnvinfer.so.10", "libnvonnxparser.so.10", "libcudart.so.13"];

/// Options of a session, `key = value` as ONNX Runtime documents them.
pub(in crate::engine) type Options = Vec<(&'static str, String)>;

/// How ONNX Runtime spells a truth value.
pub(in crate::engine) fn truth(yes: bool) -> String {
    if yes { "True" } else { "False" }.to_owned()
}

/// Why a provider cannot be had; it is asked for once, without a graph.
pub(in crate::engine) fn probe(provider: ExecutionProvider, library: &Path, device: u32) -> Result<(), String> {
    let file = format!("libonnxruntime_providers_{provider}.so");
    // One that only the loader finds is not looked at; the provider is asked for all the same.
    let real = std::fs::canonicalize(library).ok();
    let folder = real.as_deref().and_then(Path::parent);
    if let Some(folder) = folder.filter(|it| !it.join(&file).exists()) {
        return Err(format!(
            "{file} is not beside ONNX Runtime in {}: use the library of `onnxruntime-gpu` (`runtime.onnxruntime`)",
            folder.display()
        ));
    }
    builder(provider, &vec![("device_id", device.to_string())]).map(drop).map_err(|it| it.to_string())
}

/// A builder whose sessions run on this provider. What the provider does not take stays with the CPU, unless it is `tensorrt`: an engine is
/// one node, and a part of it elsewhere is an error.
pub(in crate::engine) fn builder(provider: ExecutionProvider, options: &Options) -> Result<SessionBuilder, EngineError> {
    let environment = ENVIRONMENT.get().ok_or_else(|| EngineError::Runtime("its library is not loaded yet".into()))?;
    let load = |it: ort::Error<SessionBuilder>| fault::of_load(it.to_string());
    let builder = Session::builder(environment).map_err(|it| EngineError::Load(it.to_string()))?;
    let builder = builder.with_execution_providers([dispatch(provider, options)]).map_err(|it| EngineError::Provider {
        provider,
        cause: format!("{}{it}", missing(provider).map_or_else(String::new, |it| format!("{it}; "))),
    })?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::Level3).map_err(load)?;
    // The GPU computes; what is left for the host is too little for a second thread.
    let builder = builder.with_intra_threads(1).map_err(load)?;
    let builder = builder.with_inter_threads(1).map_err(load)?;
    let builder = builder.with_intra_op_spinning(false).map_err(load)?;
    let builder = builder.with_memory_pattern(false).map_err(load)?;
    if provider == ExecutionProvider::TensorRt { builder.with_disable_cpu_fallback().map_err(load) } else { Ok(builder) }
}

fn dispatch(provider: ExecutionProvider, options: &Options) -> ExecutionProviderDispatch {
    let dispatch = if provider == ExecutionProvider::TensorRt {
        options.iter().fold(TensorRT::default(), |it, (key, value)| it.with_arbitrary_config(key, value)).build()
    } else {
        options.iter().fold(CUDA::default(), |it, (key, value)| it.with_arbitrary_config(key, value)).build()
    };
    dispatch.error_on_failure()
}

/// The libraries that are not there, in the loader's words.
fn missing(provider: ExecutionProvider) -> Option<String> {
    let wanted = if provider == ExecutionProvider::TensorRt { TENSORRT_LIBRARIES } else { CUDA_LIBRARIES };
    let lacks: Vec<String> = wanted.iter().filter_map(|it| library::open(it).map(std::mem::forget).err()).collect();
    (!lacks.is_empty()).then(|| format!("{} (put the folder on LD_LIBRARY_PATH)", lacks.join("; ")))
}
