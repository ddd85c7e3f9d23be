//! Shared libraries that are looked for when they are needed. Enters: a name. Leaves: the library, or the loader's own words. Never: one that
//! is unloaded: those of CUDA and TensorRT are not made for it.
#![expect(unsafe_code, reason = "loading a library runs its initialisers")]

use std::error::Error;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;

use libloading::Library;

/// Opens a library.
pub(super) fn open(name: &str) -> Result<Library, String> {
    // SAFETY: the initialisers of the libraries of CUDA, TensorRT and ONNX Runtime ask for nothing of us; ONNX Runtime loads them the same way.
    unsafe { Library::new(name) }.map_err(|error| said(&error))
}

/// An error with its causes: the loader's own words are in the last one.
pub(super) fn said(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(it) = cause {
        text = format!("{text}: {it}");
        cause = it.source();
    }
    text
}

/// The head of `OrtApiBase`.
#[repr(C)]
struct ApiBase {
    _get_api: *const c_void,
    version: unsafe extern "C" fn() -> *const c_char,
}

/// ONNX Runtime's version, e.g. `1.31.1`.
pub(super) fn onnxruntime_version(path: &Path) -> Option<String> {
    let library = open(path.to_str()?).ok()?;
    // SAFETY: `const OrtApiBase* OrtGetApiBase()`, as in onnxruntime_c_api.h; its second field gives a static string.
    let version = unsafe {
        let base = library.get::<unsafe extern "C" fn() -> *const ApiBase>(b"OrtGetApiBase\0").ok()?();
        CStr::from_ptr((base.as_ref()?.version)()).to_string_lossy().into_owned()
    };
    // It is in use already.
    std::mem::forget(library);
    Some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensorrt_provider_test_a_library_that_is_not_there_is_named_in_the_loaders_words() {
        let error = open("libnosuchthing.so.7").unwrap_err();
        assert!(error.contains("libnosuchthing.so.7: cannot open shared object file"), "{error}");
        let version = onnxruntime_version(&akidb_testkit::onnxruntime()).unwrap();
        assert!(version.split('.').count() == 3 && version.starts_with("1."), "{version}");
    }
}
