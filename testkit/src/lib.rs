//! What tests of several crates need: the real model's bundle, a real S3 server, ONNX Runtime's library, free ports.
//!
//! Enters: what `make setup` made (`.venv`, `build/bundles`). Leaves: paths and running servers, stopped when dropped. Never: a stand-in
//! for something missing; a test then fails and says what to run.

#![expect(clippy::missing_panics_doc, reason = "a test that cannot go on panics; every function here may")]

mod process;
mod s3;
mod system;

use std::net::TcpListener;
use std::path::{Path, PathBuf};

pub use process::{Process, program};
pub use s3::S3Server;
pub use system::{Client, System, get};

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Folder of the fp32 bundle of all-MiniLM-L6-v2.
pub fn bundle() -> PathBuf {
    let folder = root().join("build/bundles/all-MiniLM-L6-v2-fp32");
    assert!(folder.join("manifest.json").is_file(), "{} is missing: run `make setup`", folder.display());
    folder
}

/// ONNX Runtime's shared library.
pub fn onnxruntime() -> PathBuf {
    let lib = root().join("build/onnxruntime/libonnxruntime.so");
    assert!(lib.is_file(), "{} is missing: run `make setup`", lib.display());
    lib
}

/// A program of the Python environment.
pub fn venv_program(name: &str) -> PathBuf {
    let program = root().join(".venv/bin").join(name);
    assert!(program.is_file(), "{} is missing: run `make .venv/.ready-dev`, as `make test` does", program.display());
    program
}

/// A port that was free a moment ago, on loopback.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port on loopback");
    listener.local_addr().expect("its address").port()
}

/// Copies a bundle (a folder without sub-folders), so that a test may spoil it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a new folder");
    for entry in std::fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
