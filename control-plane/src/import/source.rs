//! A bundle where it lies: a folder with a `manifest.json`, or one engine file with `<stem>.manifest.json` beside it.
//!
//! Enters: a URI. Leaves: the manifest, and each file's URI once its digest was seen to be right. Never: a file on this machine by a URI
//! that may change; those are copied to the artifact store.

use std::sync::atomic::AtomicU64;

use akidb_domain::bundle::{BundleFile, Manifest};
use akidb_domain::reference::Reference;
use akidb_domain::vocabulary::FileRole;
use akidb_store::{ObjectUri, StoreError};

use super::ImportError;
use crate::blobs::{Blobs, Wanted};

const MAX_MANIFEST_BYTES: u64 = 4 << 20;
const MAX_REFERENCE_BYTES: u64 = 256 << 20;

/// A bundle that was found.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) manifest: Manifest,
    /// What the manifest's paths are relative to.
    folder: ObjectUri,
}

/// Reads the manifest of what a URI names.
pub(crate) async fn find(blobs: &Blobs, uri: &ObjectUri) -> Result<Bundle, ImportError> {
    for (candidate, folder) in candidates(uri) {
        match blobs.store.read(&candidate, MAX_MANIFEST_BYTES).await {
            Ok(json) => {
                let manifest = Manifest::parse(&json).map_err(|e| ImportError::Manifest(format!("`{candidate}`: {e}")))?;
                return Ok(Bundle { manifest, folder });
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(crate::blobs::BlobError::from(error).into()),
        }
    }
    let looked: Vec<String> = candidates(uri).iter().map(|(it, _)| format!("`{it}`")).collect();
    Err(ImportError::Manifest(format!("`{uri}` is not a bundle: there is no {}", looked.join(" and no "))))
}

/// Where the manifest may be, and the folder of its paths.
fn candidates(uri: &ObjectUri) -> Vec<(ObjectUri, ObjectUri)> {
    let mut found = Vec::new();
    let (name, parent) = (uri.name(), uri.parent());
    if let Some(parent) = &parent
        && name.ends_with("manifest.json")
    {
        found.push((uri.clone(), parent.clone()));
        return found;
    }
    found.push((uri.join("manifest.json"), uri.clone()));
    if let (Some(parent), Some((stem, _))) = (parent, name.rsplit_once('.')) {
        found.push((parent.join(&format!("{stem}.manifest.json")), parent));
    }
    found
}

/// Reads a file through, and copies it to the artifact store unless it lies in S3. Answers where it then is.
pub(crate) async fn take(blobs: &Blobs, bundle: &Bundle, file: &BundleFile, seen: &AtomicU64) -> Result<String, ImportError> {
    let uri = bundle.folder.join(&file.path);
    let wanted = Wanted { path: &file.path, bytes: file.bytes, sha256: &file.sha256 };
    match uri {
        ObjectUri::S3 { .. } => {
            blobs.verify(&uri, wanted, None, seen).await?;
            Ok(uri.to_string())
        }
        ObjectUri::File(_) => {
            let mut incoming = blobs.receive(&format!("`{}`", file.path), Some(file.bytes))?;
            blobs.verify(&uri, wanted, Some(&mut incoming), seen).await?;
            Ok(blobs.keep(incoming, &file.sha256).await?.to_string())
        }
    }
}

/// The reference vectors must be usable: without them no sidecar will serve the artifact.
pub(crate) async fn check_reference(blobs: &Blobs, manifest: &Manifest, uris: &[String]) -> Result<(), ImportError> {
    let found = manifest.files.iter().zip(uris).find(|(file, _)| file.role == FileRole::Reference);
    let Some((file, uri)) = found else { return Ok(()) };
    let bad = |problem: String| ImportError::Manifest(format!("`{}`: {problem}", file.path));
    let uri: ObjectUri = uri.parse().map_err(|e| bad(format!("{e}")))?;
    let json = blobs.store.read(&uri, MAX_REFERENCE_BYTES).await.map_err(crate::blobs::BlobError::from)?;
    Reference::parse(&json, manifest.model.dimension).map_err(|e| bad(e.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, expected: &[&str]) {
        let got: Vec<String> = candidates(&uri.parse().unwrap()).into_iter().map(|(it, _)| it.to_string()).collect();
        assert_eq!(got, expected, "{uri}");
    }

    #[test]
    fn a_bundle_is_a_folder_or_a_file() {
        check("file:///b/minilm", &["file:///b/minilm/manifest.json"]);
        check("s3://b/minilm-fp8.onnx", &["s3://b/minilm-fp8.onnx/manifest.json", "s3://b/minilm-fp8.manifest.json"]);
        check("s3://b/p/manifest.json", &["s3://b/p/manifest.json"]);
    }
}
