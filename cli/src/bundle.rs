//! A bundle on this machine.
//!
//! Enters: a path. Leaves: its manifest and files, every size and digest verified. Never: an upload; nothing of a spoiled bundle leaves
//! this machine.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use akidb_domain::bundle::{BundleFile, Manifest};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// A bundle whose files are where its manifest says.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) manifest: Manifest,
    /// As written: keys that this version does not know travel on.
    pub(crate) json: Value,
    folder: PathBuf,
}

impl Bundle {
    /// Reads the manifest of a folder, of an engine file, or the manifest itself.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let file = manifest_path(path)?;
        let bad = |error: &dyn std::fmt::Display| Failure::Input(format!("`{}`: {error}", file.display()));
        let text = std::fs::read(&file).map_err(|error| bad(&error))?;
        let manifest = Manifest::parse(&text).map_err(|error| bad(&error))?;
        let json = serde_json::from_slice(&text).map_err(|error| bad(&error))?;
        let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(Self { manifest, json, folder })
    }

    /// Reads every file and compares size and digest; `read` is told of each piece.
    pub(crate) fn verify(&self, mut read: impl FnMut(u64)) -> Result<(), Failure> {
        for file in &self.manifest.files {
            let mut content = self.content(file)?;
            let mut hash = Sha256::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = content.read(&mut buffer).map_err(|error| self.bad(file, &error.to_string()))?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                read(n as u64);
            }
            let sha256 = hex::encode(hash.finalize());
            if sha256 != file.sha256 {
                let problem = format!(
                    "its sha256 is {sha256}, the manifest says {}: the file is spoiled or of another bundle; export it again",
                    file.sha256
                );
                return Err(self.bad(file, &problem));
            }
        }
        Ok(())
    }

    /// A file's content, after its size has been compared.
    pub(crate) fn content(&self, file: &BundleFile) -> Result<File, Failure> {
        let content = File::open(self.folder.join(&file.path)).map_err(|error| self.bad(file, &error.to_string()))?;
        let bytes = content.metadata().map_err(|error| self.bad(file, &error.to_string()))?.len();
        if bytes != file.bytes {
            return Err(
                self.bad(file, &format!("it has {bytes} bytes, the manifest says {}: the file is spoiled; export it again", file.bytes))
            );
        }
        Ok(content)
    }

    fn bad(&self, file: &BundleFile, problem: &str) -> Failure {
        Failure::Input(format!("`{}`: {problem}", self.folder.join(&file.path).display()))
    }
}

fn manifest_path(path: &Path) -> Result<PathBuf, Failure> {
    if path.is_dir() {
        return Ok(path.join("manifest.json"));
    }
    if !path.is_file() {
        return Err(Failure::Input(format!("`{}` does not exist: name a bundle's folder, an engine file, or a URI", path.display())));
    }
    if path.extension().is_some_and(|it| it == "json") {
        return Ok(path.to_owned());
    }
    Ok(path.with_extension("manifest.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_found_from_folder_engine_or_itself() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["m.onnx", "m.manifest.json"] {
            std::fs::write(at(name), "{}").unwrap();
        }
        assert_eq!(manifest_path(folder.path()).unwrap(), at("manifest.json"));
        assert_eq!(manifest_path(&at("m.onnx")).unwrap(), at("m.manifest.json"));
        assert_eq!(manifest_path(&at("m.manifest.json")).unwrap(), at("m.manifest.json"));
        assert!(manifest_path(&at("absent")).unwrap_err().to_string().contains("does not exist"));
    }
}
