//! What this machine has: GPUs, driver, TensorRT, and which execution providers can serve here.
//!
//! Enters: the driver's, NVML's and the libraries' own words. Leaves: [`Facts`]. Never: a guess; what cannot serve says which library,
//! version or device is missing.

use std::collections::BTreeMap;
use std::path::Path;

use akidb_domain::vocabulary::ExecutionProvider;
use serde::{Deserialize, Serialize};

/// This machine, as far as engines care.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// In the driver's order.
    pub gpus: Vec<Gpu>,
    /// Version of the driver, e.g. `580.65.06`; not known without NVML.
    pub driver: Option<String>,
    /// Newest CUDA version that the driver serves, e.g. `13.0`.
    pub cuda_driver: Option<String>,
    /// TensorRT's version, e.g. `10.6.0`.
    pub tensorrt: Option<String>,
    /// ONNX Runtime's version, e.g. `1.31.1`, or its description of itself.
    pub onnxruntime: String,
    /// Why a provider cannot serve; one that can is not in here.
    pub refused: BTreeMap<String, String>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// The driver's number.
    pub index: u32,
    /// `GPU-...`
    pub uuid: String,
    /// E.g. `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// E.g. `9.0`.
    pub compute_capability: String,
    /// Memory in all.
    pub memory_bytes: u64,
    /// It has none of its own: what it takes is the host's.
    #[serde(default)]
    pub integrated: bool,
}

impl Facts {
    /// A machine without GPUs, and why.
    pub fn cpu_only(why: &str) -> Self {
        let mut facts = Self::default();
        facts.refuse(ExecutionProvider::TensorRt, why);
        facts.refuse(ExecutionProvider::Cuda, why);
        facts
    }

    /// Why a provider cannot serve; none: it can.
    pub fn refusal(&self, provider: ExecutionProvider) -> Option<&str> {
        self.refused.get(provider.as_str()).map(String::as_str)
    }

    /// What can serve, the best first.
    pub fn usable(&self) -> Vec<ExecutionProvider> {
        ExecutionProvider::ALL.iter().copied().filter(|it| self.refusal(*it).is_none()).collect()
    }

    /// The first of `devices`, or the first GPU.
    pub fn first(&self, devices: &[u32]) -> Option<&Gpu> {
        let index = devices.first().copied().unwrap_or(0);
        self.gpus.iter().find(|it| it.index == index)
    }

    /// Notes why a provider cannot serve; the first reason stays.
    pub fn refuse(&mut self, provider: ExecutionProvider, why: impl Into<String>) {
        self.refused.entry(provider.to_string()).or_insert_with(|| why.into());
    }

    /// Engines of one model run on `devices` alike, so each must be there and all must be of one kind. Says what is wrong with them, and the
    /// way out; a machine without any GPU has its own reasons.
    pub fn wrong_devices(&self, devices: &[u32]) -> Option<String> {
        if self.gpus.is_empty() {
            return None;
        }
        let missing = devices.iter().find(|it| !self.gpus.iter().any(|gpu| gpu.index == **it));
        let of = |index: &u32| self.gpus.iter().find(|it| it.index == *index).map(|it| it.compute_capability.as_str());
        let mut kinds: Vec<&str> = devices.iter().filter_map(of).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let names = "`runtime.device_ids` (`AKIDB_DEVICE_IDS`) names";
        match missing {
            Some(missing) => {
                let there = self.gpus.iter().map(|it| it.index.to_string()).collect::<Vec<_>>().join(", ");
                Some(format!("{names} GPU {missing}; there are: {there}. Name those, or none for the first"))
            }
            None if kinds.len() < 2 => None,
            None => Some(format!("{names} GPUs of compute capabilities {}. Name GPUs of one kind", kinds.join(" and "))),
        }
    }

    /// Notes what is wrong with `devices` as the reason why no GPU serves.
    pub fn check_devices(&mut self, devices: &[u32]) {
        if let Some(why) = self.wrong_devices(devices) {
            self.refuse(ExecutionProvider::TensorRt, why.clone());
            self.refuse(ExecutionProvider::Cuda, why);
        }
    }
}

/// Memory that an engine needs on a GPU beside its weights, at least.
const SPARE_BYTES: u64 = 256 << 20;

/// What an engine needs on each of its GPUs, at least: its weights in each context, and what the library takes beside them.
pub fn engine_bytes(weights: u64, contexts: usize) -> u64 {
    weights * contexts.max(1) as u64 + SPARE_BYTES
}

/// Bytes of a GPU that are in use, by whomever; none where the driver does not say. The first call makes the GPU's context.
#[cfg(not(feature = "tensorrt"))]
pub fn used_bytes(index: u32) -> Option<u64> {
    let _ = index;
    None
}

/// Bytes of a GPU that are in use, by whomever; none where the driver does not say. The first call makes the GPU's context.
#[cfg(feature = "tensorrt")]
pub fn used_bytes(index: u32) -> Option<u64> {
    let memory = super::cuda::Gpu::open(index).and_then(|it| it.memory());
    let (free, total) = memory.inspect_err(|error| tracing::debug!(index, error, "a GPU's memory cannot be read")).ok()?;
    Some(total.saturating_sub(free))
}

/// Looks at the machine. `library` is ONNX Runtime's, which is loaded already.
#[cfg(not(feature = "tensorrt"))]
pub fn detect(library: &Path, devices: &[u32]) -> Facts {
    let _ = (library, devices);
    let why = "this build has no GPU providers: build it with `--features tensorrt`";
    Facts { onnxruntime: super::onnx::Runtime::version(), ..Facts::cpu_only(why) }
}

/// Looks at the machine. `library` is ONNX Runtime's, which is loaded already.
#[cfg(feature = "tensorrt")]
pub fn detect(library: &Path, devices: &[u32]) -> Facts {
    let onnxruntime = super::library::onnxruntime_version(library).unwrap_or_else(super::onnx::Runtime::version);
    let mut facts = Facts { onnxruntime, ..Facts::default() };
    match super::cuda::describe() {
        Ok((version, gpus)) => {
            facts.cuda_driver = Some(version);
            let gpu = |(index, it): (usize, super::cuda::Described)| Gpu {
                index: index as u32,
                uuid: it.uuid,
                name: it.name,
                compute_capability: it.compute_capability,
                memory_bytes: it.memory_bytes,
                integrated: it.integrated,
            };
            facts.gpus = gpus.into_iter().enumerate().map(gpu).collect();
        }
        Err(why) => {
            facts.refuse(ExecutionProvider::TensorRt, why.clone());
            facts.refuse(ExecutionProvider::Cuda, why);
        }
    }
    // Its absence, as on some Jetsons, hides figures and stops nothing.
    facts.driver = super::nvml::driver_version();
    match tensorrt::version() {
        Ok(version) => facts.tensorrt = Some(version),
        Err(why) => facts.refuse(ExecutionProvider::TensorRt, why),
    }
    facts.check_devices(devices);
    for provider in [ExecutionProvider::Cuda, ExecutionProvider::TensorRt] {
        if facts.refusal(provider).is_none()
            && let Err(why) = super::onnx::providers::probe(provider, library, devices.first().copied().unwrap_or(0))
        {
            facts.refuse(provider, why);
        }
    }
    facts
}

#[cfg(feature = "tensorrt")]
mod tensorrt {
    //! TensorRT's own version. Enters: nothing. Leaves: `10.6.0`, or which library is missing. Never: anything else of TensorRT.
    #![expect(unsafe_code, reason = "TensorRT is a C++ library with a C function for its version")]

    use crate::engine::library;

    /// What ONNX Runtime's provider links.
    const NAME: &str = "libnvinfer.so.10";

    pub(super) fn version() -> Result<String, String> {
        let library = library::open(NAME).map_err(|it| format!("TensorRT 10 cannot be loaded: {it}: put its folder on LD_LIBRARY_PATH"))?;
        // SAFETY: `int32_t getInferLibVersion()`, as in NvInferRuntimeBase.h.
        let call = unsafe { library.get::<unsafe extern "C" fn() -> i32>(b"getInferLibVersion\0") };
        let call = call.map_err(|it| format!("{NAME} does not tell its version: {it}"))?;
        // SAFETY: as above.
        let version = unsafe { call() };
        let text = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
        // It stays loaded: it is not made to be unloaded, and the provider needs it in a moment.
        std::mem::forget(library);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, compute_capability: &str) -> Gpu {
        let (uuid, name) = (format!("GPU-{index}"), "NVIDIA H100 80GB HBM3".into());
        Gpu { index, uuid, name, compute_capability: compute_capability.into(), memory_bytes: 85_520_809_984, integrated: false }
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let mut facts = Facts { gpus: vec![gpu(0, "9.0"), gpu(1, "8.9")], ..Facts::default() };
        facts.check_devices(&[0]);
        assert_eq!(facts.usable(), ExecutionProvider::ALL);
        let mut missing = facts.clone();
        missing.check_devices(&[0, 2]);
        assert!(missing.refusal(ExecutionProvider::Cuda).is_some_and(|it| it.contains("GPU 2; there are: 0, 1. Name those")));
        assert_eq!(missing.usable(), [ExecutionProvider::Cpu]);
        facts.check_devices(&[0, 1]);
        assert!(facts.refusal(ExecutionProvider::TensorRt).is_some_and(|it| it.contains("8.9 and 9.0. Name GPUs of one kind")));
        assert_eq!(facts.wrong_devices(&[1]), None);
        assert_eq!(Facts::cpu_only("no driver").wrong_devices(&[0, 7]), None, "who has no GPU is told that");
    }

    #[test]
    fn the_first_reason_stays() {
        let mut facts = Facts::cpu_only("no driver");
        facts.refuse(ExecutionProvider::Cuda, "something later");
        assert_eq!(facts.refusal(ExecutionProvider::Cuda), Some("no driver"));
        assert_eq!(facts.refusal(ExecutionProvider::Cpu), None);
    }
}
