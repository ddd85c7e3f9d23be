//! A bundle to change: a copy of the real one, whose manifest is made to tell the truth again.
//!
//! Enters: a folder, a change. Leaves: a bundle there. Never: the real bundle touched. The benchmark of probes reads this file too.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A bundle of one's own to spoil.
pub(super) struct Bundle {
    pub(super) folder: PathBuf,
}

impl Bundle {
    pub(super) fn copy(to: &Path) -> Self {
        akidb_testkit::copy_folder(&akidb_testkit::bundle(), to);
        Self { folder: to.to_owned() }
    }

    /// A bundle that answers like the real one under a name, with a digest, of its own.
    pub(super) fn twin(to: &Path, model: &str, n: usize) -> Self {
        let bundle = Self::copy(to);
        bundle.edit(|manifest| manifest["model"]["name"] = json!(model));
        let path = bundle.folder.join("reference.json");
        let text = std::fs::read_to_string(&path).unwrap() + &"\n".repeat(n);
        std::fs::write(path, text).unwrap();
        bundle.reseal("reference.json");
        bundle
    }

    pub(super) fn uri(&self) -> String {
        format!("file://{}", self.folder.display())
    }

    pub(super) fn manifest(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.join("manifest.json")).unwrap()).unwrap()
    }

    pub(super) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest();
        change(&mut manifest);
        std::fs::write(self.folder.join("manifest.json"), manifest.to_string()).unwrap();
    }

    /// Makes the manifest tell the truth about a file again.
    pub(super) fn reseal(&self, file: &str) {
        let bytes = std::fs::read(self.folder.join(file)).unwrap();
        let sha256 = hex::encode(Sha256::digest(&bytes));
        self.edit(|manifest| {
            if file == "tokenizer.json" {
                manifest["model"]["tokenizer_sha256"] = json!(sha256);
            }
            for entry in manifest["files"].as_array_mut().unwrap() {
                if entry["path"] == file {
                    (entry["sha256"], entry["bytes"]) = (json!(sha256), json!(bytes.len()));
                }
            }
        });
    }

    /// Makes its reference vectors those of some other engine.
    pub(super) fn spoil_reference(&self) {
        let path = self.folder.join("reference.json");
        let mut reference: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let first = reference["vectors"][3].as_array_mut().unwrap();
        first.reverse();
        std::fs::write(path, reference.to_string()).unwrap();
        self.reseal("reference.json");
    }
}
