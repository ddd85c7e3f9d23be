//! What tests of several crates need: the real model's bundle, a real S3 server, ONNX Runtime's library, free ports.
//!
//! Enters: what `make setup` made (`.venv`, `build/bundles`). Leaves: paths and running servers, stopped when dropped. Never: a stand-in
//! for something missing; a test then fails and says what to run.

#![expect(clippy::missing_panics_doc, reason = "a test that cannot go on panics; every function here may")]

mod process;
mod s3;
mod system;

use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

pub use process::{Process, program};
pub use s3::S3Server;
pub use system::{Client, Sidecar, System, get};

/// Ports for tests: below those that Linux hands out by itself (`ip_local_port_range`), above those that programs are known by.
const PORTS: Range<u16> = 20_000..32_000;

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

/// A free port on loopback that stays free for this process: no other test gets it, and the system hands it to nobody who takes any port.
///
/// A port that the system gave and that was given back would be anybody's until the program that it is for has started, seconds later.
pub fn free_port() -> u16 {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let locks = std::env::temp_dir().join("akidb-test-ports");
    std::fs::create_dir_all(&locks).expect("a folder for locks of ports");
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let start = std::process::id() as u16;
    let mut ports = (0..PORTS.end - PORTS.start).map(|it| PORTS.start + it.wrapping_add(start) % (PORTS.end - PORTS.start));
    let free = ports.find_map(|port| {
        let lock = File::options().create(true).append(true).open(locks.join(port.to_string())).ok()?;
        let ours = lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok();
        ours.then_some((port, lock))
    });
    let (port, lock) = free.expect("a free port on loopback");
    // The lock goes with the process.
    held.push(lock);
    port
}

/// Writes a bundle's manifest anew after a file of it has changed: digests, sizes, and the variant's name.
pub fn reseal(folder: &Path, variant: &str) {
    let file = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&file).expect("a manifest")).expect("JSON");
    for it in manifest["files"].as_array_mut().expect("files") {
        let path = folder.join(it["path"].as_str().expect("a path"));
        let sum = Command::new("sha256sum").arg(&path).output().expect("sha256sum").stdout;
        it["sha256"] = json!(String::from_utf8_lossy(&sum)[..64]);
        it["bytes"] = json!(std::fs::metadata(&path).expect("a file").len());
    }
    manifest["variant"]["name"] = json!(variant);
    std::fs::write(file, manifest.to_string()).expect("a file");
}

/// The fp32 bundle once more under another name, with a digest of its own.
pub fn twin(to: &Path, variant: &str) {
    copy_folder(&bundle(), to);
    let text = std::fs::read_to_string(to.join("reference.json")).expect("reference vectors") + "\n";
    std::fs::write(to.join("reference.json"), text).expect("a file");
    reseal(to, variant);
}

/// Copies a bundle (a folder without sub-folders), so that a test may spoil it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a new folder");
    for entry in std::fs::read_dir(from).expect("a folder to copy") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
