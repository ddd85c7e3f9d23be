//! Bundles by URI: a folder, or a file inside one. Enters: where. Leaves: the manifest and the artifact in it. Never: the engine file.
//!
//! Manifests that were read are kept in the cache folder, so that a sidecar starts while the store is away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use akidb_domain::bundle::{Manifest, ManifestError};
use akidb_domain::snapshot::{ServedArtifact, ServedFile, ServedModel};
use akidb_domain::vocabulary::{FileRole, Precision};
use akidb_store::{ObjectUri, Store, StoreError};
use sha2::{Digest, Sha256};

use crate::backoff::Backoff;

/// Largest manifest.
const MANIFEST_BYTES: u64 = 1024 * 1024;
/// Tries of a manifest that cannot be read for the moment.
const TRIES: u32 = 4;

/// A bundle that was found.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its files, each with where it is.
    pub artifact: ServedArtifact,
    /// Where its manifest is.
    pub at: ObjectUri,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No manifest where one would be.
    #[error("no bundle manifest was found: looked for {0}")]
    NoManifest(String),
    /// The manifest does not hold what it must.
    #[error("{at}: {cause}")]
    Manifest {
        /// Where it is.
        at: ObjectUri,
        /// What is wrong.
        cause: ManifestError,
    },
    /// The file is not one of the bundle's.
    #[error("{at} does not list the file `{file}`")]
    NotListed {
        /// The manifest.
        at: ObjectUri,
        /// The file.
        file: String,
    },
    /// The store refuses.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Reads bundles.
#[derive(Debug, Clone)]
pub struct Bundles {
    store: Store,
    kept: PathBuf,
}

impl Bundles {
    /// Reads through `store`; keeps manifests in `<cache>/manifests`.
    pub fn new(store: Store, cache: &Path) -> Self {
        Self { store, kept: cache.join("manifests") }
    }

    /// The bundle that `path` is, or that it is a file of.
    pub async fn read(&self, path: &ObjectUri) -> Result<Bundle, BundleError> {
        let candidates = candidates(path);
        for at in &candidates {
            match self.manifest(at).await {
                Err(BundleError::Store(StoreError::NotFound { .. } | StoreError::Other { .. }))
                    if at != candidates.last().unwrap_or(at) => {}
                Err(BundleError::Store(StoreError::NotFound { .. })) => {}
                Err(error) => return Err(error),
                Ok(manifest) => return bundle(manifest, at.clone(), path),
            }
        }
        let looked: Vec<String> = candidates.iter().map(ToString::to_string).collect();
        Err(BundleError::NoManifest(looked.join(", ")))
    }

    /// Bundles of the same model next to `path`, by the names that the tools give them.
    pub async fn siblings(&self, path: &ObjectUri, model: &str) -> Vec<Bundle> {
        let Some(parent) = path.parent() else { return Vec::new() };
        let mut found = Vec::new();
        for precision in Precision::ALL {
            let upper = precision.as_str().to_ascii_uppercase();
            for name in [
                format!("{model}-{precision}/manifest.json"),
                format!("{model}-{upper}.manifest.json"),
                format!("{model}-{precision}.manifest.json"),
            ] {
                let at = parent.join(&name);
                // Most are not there; only one that is and cannot be used deserves a word.
                match self.manifest_once(&at).await {
                    Ok(manifest) => found.extend(bundle(manifest, at.clone(), &at)),
                    Err(BundleError::Manifest { at, cause }) => tracing::warn!(%at, %cause, "a bundle that might stand in cannot be used"),
                    Err(_) => {}
                }
            }
        }
        found
    }

    async fn manifest(&self, at: &ObjectUri) -> Result<Manifest, BundleError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
        loop {
            match self.manifest_once(at).await {
                Err(BundleError::Store(error)) if error.is_transient() => {
                    if let Some(manifest) = self.kept(at) {
                        tracing::warn!(%at, %error, "the store is away; using the manifest read last time");
                        return Ok(manifest);
                    }
                    let wait = backoff.next_wait();
                    if backoff.failures() >= TRIES || is_folder(at) {
                        return Err(error.into());
                    }
                    tokio::time::sleep(wait).await;
                }
                other => return other,
            }
        }
    }

    async fn manifest_once(&self, at: &ObjectUri) -> Result<Manifest, BundleError> {
        let bytes = self.store.read(at, MANIFEST_BYTES).await?;
        let manifest = Manifest::parse(&bytes).map_err(|cause| BundleError::Manifest { at: at.clone(), cause })?;
        let keep = self.keep(at);
        // A copy that cannot be kept only matters when the store is away.
        drop(std::fs::create_dir_all(&self.kept).and_then(|()| std::fs::write(keep, &bytes)));
        Ok(manifest)
    }

    fn kept(&self, at: &ObjectUri) -> Option<Manifest> {
        Manifest::parse(&std::fs::read(self.keep(at)).ok()?).ok()
    }

    fn keep(&self, at: &ObjectUri) -> PathBuf {
        self.kept.join(format!("{}.json", hex::encode(Sha256::digest(at.to_string()))))
    }
}

impl Bundle {
    /// Takes the tokenizer from elsewhere; its digest stays the manifest's.
    pub fn set_tokenizer(&mut self, from: &ObjectUri) {
        for served in self.artifact.files.iter_mut().filter(|it| it.file.role == FileRole::Tokenizer) {
            served.uri = from.to_string();
        }
    }

    /// What the catalog would say of the model.
    pub fn card(&self, name: &str) -> ServedModel {
        let model = &self.manifest.model;
        ServedModel {
            name: name.to_owned(),
            version: super::entries::VERSION.into(),
            dimension: model.dimension,
            max_tokens: model.max_tokens,
            pooling: model.pooling,
            normalized: model.normalized,
            embedding_space: model.embedding_space.clone(),
            prompts: model.prompts.clone(),
            seeded: model.seeded,
            variants: Vec::new(),
            aliases: std::collections::BTreeMap::new(),
        }
    }
}

/// Where the manifest of `path` may be: in it, beside it under its stem, beside it.
fn candidates(path: &ObjectUri) -> Vec<ObjectUri> {
    let name = path.name();
    if name == "manifest.json" || name.ends_with(".manifest.json") {
        return vec![path.clone()];
    }
    let inside = path.join("manifest.json");
    let (Some(parent), Some((stem, extension))) = (path.parent(), name.rsplit_once('.')) else { return vec![inside] };
    let beside = [parent.join(&format!("{stem}.manifest.json")), parent.join("manifest.json")];
    // `all-MiniLM-L6-v2.1` may be a folder; `model.onnx` may not.
    if ["onnx", "trt", "engine", "plan", "json"].iter().any(|it| extension.eq_ignore_ascii_case(it)) {
        beside.to_vec()
    } else {
        [vec![inside], beside.to_vec()].concat()
    }
}

fn bundle(manifest: Manifest, at: ObjectUri, asked: &ObjectUri) -> Result<Bundle, BundleError> {
    let folder = at.parent().unwrap_or_else(|| at.clone());
    let files: Vec<ServedFile> =
        manifest.files.iter().map(|it| ServedFile { uri: folder.join(&it.path).to_string(), file: it.clone() }).collect();
    let inside = *asked == at || folder == *asked || at == asked.join("manifest.json");
    if !inside && !files.iter().any(|it| it.uri == asked.to_string()) {
        return Err(BundleError::NotListed { at, file: asked.name().to_owned() });
    }
    let artifact = ServedArtifact { digest: manifest.digest(), target: manifest.target.clone(), graph: manifest.graph.clone(), files };
    Ok(Bundle { manifest, artifact, at })
}

/// A folder under a manifest's name is not going to change by waiting.
fn is_folder(at: &ObjectUri) -> bool {
    matches!(at, ObjectUri::File(path) if path.is_dir())
}
