//! What a GPU's error means. Pure.
//!
//! Enters: a message of ONNX Runtime, CUDA or TensorRT. Leaves: the error that it stands for. Never: a lost GPU taken for a bad batch.

use super::EngineError;

/// Parts of messages, in lower case, that mean that memory is out.
const MEMORY: &[&str] =
    &["out of memory", "out_of_memory", "outofmemory", "cudaerrormemoryallocation", "failed to allocate memory", "bfcarena", "oom"];
/// Parts of messages that mean that nothing will run on the GPU any more.
const LOST: &[&str] = &[
    "illegal address",
    "illegal memory access",
    "illegaladdress",
    "illegal_address",
    "launch failure",
    "launchfailure",
    "launch_failed",
    "device-side assert",
    "ecc",
    "fell off the bus",
    "no longer available",
    "devices unavailable",
    "device_unavailable",
    "cuda_error_no_device",
    "gpu is lost",
    "hardware_stack_error",
    "cuda_error_unknown",
    "context_is_destroyed",
];
/// Parts of messages of engines that were built for something else.
const VERSION: &[&str] =
    &["version tag does not match", "serialization error", "magic tag", "incompatible", "different compute", "platform"];

/// The error of a batch.
pub fn of_batch(message: String) -> EngineError {
    of(message, EngineError::Run)
}

/// The error of a load; one that tells of another version says what to do.
pub fn of_load(message: String) -> EngineError {
    of(message, |it| {
        let lower = it.to_ascii_lowercase();
        let hint = VERSION.iter().any(|part| lower.contains(part));
        let hint = if hint { "; it is corrupt or was built for another TensorRT version or GPU: build it anew" } else { "" };
        EngineError::Load(format!("{it}{hint}"))
    })
}

fn of(message: String, other: impl FnOnce(String) -> EngineError) -> EngineError {
    let lower = message.to_ascii_lowercase();
    let words = || lower.split(|it: char| !it.is_ascii_alphanumeric());
    // Short words only by themselves: `oom` is in `room`.
    let has = |part: &&str| if part.len() <= 3 { words().any(|it| it == *part) } else { lower.contains(*part) };
    match () {
        () if MEMORY.iter().any(has) => EngineError::OutOfMemory(message),
        () if LOST.iter().any(has) => EngineError::DeviceLost(message),
        () => other(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: &str) {
        let got = of_batch(message.to_owned()).to_string();
        assert!(got.starts_with(expected), "{message}: {got}");
    }

    /// Messages as CUDA 13, ONNX Runtime 1.31 and TensorRT 10 word them.
    #[test]
    fn messages_are_told_apart() {
        check("CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; expr=cudaMalloc(&p, size)", "GPU memory is out");
        check("CUDA_ERROR_OUT_OF_MEMORY", "GPU memory is out");
        check("BFCArena::AllocateRawInternal Available memory of 0 is smaller than requested bytes of 512", "GPU memory is out");
        check("CUDA failure 700: an illegal memory access was encountered ; GPU=0", "the GPU is lost");
        check("CUDA failure 719: unspecified launch failure", "the GPU is lost");
        check("uncorrectable ECC error encountered", "the GPU is lost");
        check("TensorRT EP execution context enqueue failed.", "the engine failed on a batch");
        check("there is no room in the checked vector", "the engine failed on a batch");
    }

    #[test]
    fn an_engine_of_another_version_says_so() {
        let error = of_load("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion failed. Version tag does not match. Note: Current Version: 239, Serialized Engine Version: 240)".into());
        assert!(error.to_string().contains("build it anew"), "{error}");
        assert!(matches!(of_load("out of memory".into()), EngineError::OutOfMemory(_)));
    }
}
