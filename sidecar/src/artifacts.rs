//! Artifacts on this machine's disk: pulled, verified, cached.
//!
//! Enters: an artifact's files, each with where to get it. Leaves: a folder with the files under their real names, pinned while somebody
//! holds it. Never: a file whose SHA-256 was not checked; an eviction of what is in use.
//!
//! ```text
//! <cache>/partial/<sha256>          a download, with <sha256>.ranges: what of it is done
//! <cache>/sha256/<ab>/<sha256>      verified files, with <sha256>.ok: size and time of the verification
//! <cache>/artifacts/<digest>/<path> hard links to them
//! ```
//!
//! Rooms: [`cache`] what is on disk, [`download`] ranges with resume.

pub mod cache;
pub mod download;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use akidb_domain::snapshot::ServedArtifact;
use akidb_store::{Store, StoreError};

use crate::metrics::Metrics;
use cache::Cache;

/// Why an artifact cannot be had. Each message names the artifact, the file and the cause.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The object cannot be read.
    #[error("artifact {artifact}, file `{file}`: {cause}")]
    Store {
        /// Which artifact.
        artifact: String,
        /// Which file of it.
        file: String,
        /// Why.
        cause: StoreError,
    },
    /// Not the file that the manifest promises.
    #[error("artifact {artifact}, file `{file}`: its sha256 is {got}, expected {expected}; the download was removed")]
    Digest {
        /// Which artifact.
        artifact: String,
        /// Which file of it.
        file: String,
        /// What the manifest says.
        expected: String,
        /// What came.
        got: String,
    },
    /// The disk is full.
    #[error("artifact {artifact}, file `{file}`: no space left on the disk under {folder}: free some, or move `storage.cache_folder`")]
    NoSpace {
        /// Which artifact.
        artifact: String,
        /// Which file of it.
        file: String,
        /// Where.
        folder: PathBuf,
    },
    /// More than the cache may hold.
    #[error(
        "artifact {artifact} needs {wanted} bytes; the cache may hold {limit} and {in_use} are in use: raise `storage.cache_limit_bytes`"
    )]
    Limit {
        /// Which artifact.
        artifact: String,
        /// Bytes to add.
        wanted: u64,
        /// Most bytes.
        limit: u64,
        /// Bytes that may not be evicted.
        in_use: u64,
    },
    /// The cache folder does not work.
    #[error("artifact {artifact}: cache folder {folder}: {cause}")]
    Disk {
        /// Which artifact.
        artifact: String,
        /// Where.
        folder: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

/// The handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Artifacts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    cache: Mutex<Cache>,
    folder: PathBuf,
    metrics: Metrics,
    flights: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    pins: Mutex<HashMap<String, usize>>,
}

/// An artifact's files under their real names. While it lives, the cache keeps them.
#[derive(Debug)]
pub struct View {
    /// The folder.
    pub folder: PathBuf,
    digest: String,
    inner: Arc<Inner>,
}

impl Artifacts {
    /// Opens, or makes, a cache.
    pub fn open(folder: &Path, limit_bytes: u64, store: Store, metrics: Metrics) -> std::io::Result<Self> {
        let cache = Cache::open(folder, limit_bytes)?;
        metrics.set_cache_bytes(cache.bytes());
        let (cache, folder) = (Mutex::new(cache), folder.to_owned());
        Ok(Self { inner: Arc::new(Inner { store, cache, folder, metrics, flights: Mutex::default(), pins: Mutex::default() }) })
    }

    /// The store that objects come from.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The artifact's files: from the cache, or pulled and verified. One pull a file at a time; a second caller waits for the first.
    /// `progress` gets bytes done and bytes in all. `name` stands in errors.
    pub async fn pull(
        &self,
        artifact: &ServedArtifact,
        name: &str,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<View, ArtifactError> {
        let inner = &self.inner;
        let view = View::pin(inner.clone(), &artifact.digest);
        let name = format!("{name} ({})", artifact.digest.get(..12).unwrap_or(&artifact.digest));
        let total = artifact.bytes();
        let done = AtomicU64::new(0);
        progress(0, total);
        for served in &artifact.files {
            let flight = inner.flight(&served.file.sha256);
            let _alone = flight.lock().await;
            let advance = |bytes: u64| progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
            if inner.clone().has(&served.file).await {
                advance(served.file.bytes);
                continue;
            }
            inner.room(&name, served.file.bytes)?;
            download::Download { store: &inner.store, folder: &inner.folder, served, artifact: &name }.run(&advance).await?;
            inner.with_cache(|cache| cache.add(&served.file)).map_err(|cause| inner.disk(&name, cause))?;
        }
        let files: Vec<_> = artifact.files.iter().map(|it| it.file.clone()).collect();
        inner.with_cache(|cache| cache.link(&artifact.digest, &files)).map_err(|cause| inner.disk(&name, cause))?;
        Ok(view)
    }

    /// Whether every file is here already.
    pub fn is_cached(&self, artifact: &ServedArtifact) -> bool {
        artifact.files.iter().all(|it| cache::blob(&self.inner.folder, &it.file.sha256).is_file())
    }

    /// Notes that the process ends in good order: what was verified need not be hashed again.
    pub fn close(&self) {
        if let Err(error) = self.inner.with_cache(Cache::close) {
            tracing::warn!(%error, "the cache's clean mark could not be written; files will be hashed again");
        }
    }
}

impl Inner {
    fn with_cache<T>(&self, work: impl FnOnce(&mut Cache) -> T) -> T {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let got = work(&mut cache);
        self.metrics.set_cache_bytes(cache.bytes());
        got
    }

    /// Hashing takes a while: on a thread that may block.
    async fn has(self: Arc<Self>, file: &akidb_domain::bundle::BundleFile) -> bool {
        let file = file.clone();
        let trusted = self.with_cache(|cache| cache.trusts(&file));
        match trusted {
            cache::Trust::Verified => true,
            cache::Trust::Absent => false,
            cache::Trust::Unsure(path) => {
                let sha256 = file.sha256.clone();
                let good = tokio::task::spawn_blocking(move || cache::sha256_of(&path).is_ok_and(|it| it == sha256)).await.unwrap_or(false);
                self.with_cache(|cache| {
                    if !good {
                        cache.forget(&file.sha256);
                    }
                    good && cache.add(&file).is_ok()
                })
            }
        }
    }

    fn room(&self, artifact: &str, wanted: u64) -> Result<(), ArtifactError> {
        let pinned: Vec<String> = self.pins.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        self.with_cache(|cache| {
            let (limit, in_use) = (cache.limit(), cache.make_room(wanted, &pinned));
            in_use.map_or(Ok(()), |in_use| Err(ArtifactError::Limit { artifact: artifact.to_owned(), wanted, limit, in_use }))
        })
    }

    fn flight(&self, sha256: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(sha256).and_then(Weak::upgrade) {
            return flight;
        }
        flights.retain(|_, it| it.strong_count() > 0);
        let flight = Arc::default();
        flights.insert(sha256.to_owned(), Arc::downgrade(&flight));
        flight
    }

    fn disk(&self, artifact: &str, cause: std::io::Error) -> ArtifactError {
        ArtifactError::Disk { artifact: artifact.to_owned(), folder: self.folder.clone(), cause }
    }
}

impl View {
    fn pin(inner: Arc<Inner>, digest: &str) -> Self {
        *inner.pins.lock().unwrap_or_else(PoisonError::into_inner).entry(digest.to_owned()).or_default() += 1;
        Self { folder: cache::view(&inner.folder, digest), digest: digest.to_owned(), inner }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let mut pins = self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}
