//! One file, in ranges, with resume. Enters: where it is and what it must be. Leaves: a verified file in the cache. Never: a file whose
//! digest is wrong; it is removed and the error says so.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use akidb_domain::snapshot::ServedFile;
use akidb_store::{ObjectUri, Store, StoreError};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::{ArtifactError, cache};
use crate::backoff::Backoff;

/// Bytes of a range; with larger ones an idle sidecar holds more memory (docs/PERFORMANCE.md).
pub const RANGE_BYTES: u64 = 2 * 1024 * 1024;
/// Ranges on their way at a time.
const PARALLEL: usize = 4;
/// Tries of a range.
const TRIES: u32 = 6;

/// A file to fetch into `folder`.
pub(crate) struct Download<'a> {
    pub(crate) store: &'a Store,
    pub(crate) folder: &'a Path,
    pub(crate) served: &'a ServedFile,
    pub(crate) artifact: &'a str,
}

/// A file that is being written: its bytes, and which ranges of it are there.
struct Partial {
    path: PathBuf,
    file: File,
    journal: Mutex<File>,
    done: BTreeSet<u64>,
}

impl Download<'_> {
    /// Fetches what is missing, verifies the whole and moves it into place. `advance` gets bytes as they come.
    pub(crate) async fn run(&self, advance: &(dyn Fn(u64) + Send + Sync)) -> Result<(), ArtifactError> {
        let uri: ObjectUri = self.served.uri.parse().map_err(|e: akidb_store::uri::BadUri| self.other(e.to_string()))?;
        let bytes = self.served.file.bytes;
        let partial = Arc::new(Partial::open(self.folder, &self.served.file.sha256, bytes).map_err(|e| self.io(&e))?);
        advance(partial.done.iter().map(|it| range(*it, bytes).end - range(*it, bytes).start).sum());
        let missing = (0..bytes.div_ceil(RANGE_BYTES)).filter(|it| !partial.done.contains(it));
        let fetch = |index| {
            let (uri, partial) = (&uri, partial.clone());
            async move {
                let part = self.fetch(uri, range(index, bytes)).await?;
                let length = part.len() as u64;
                let written =
                    tokio::task::spawn_blocking(move || partial.write(index, &part)).await.map_err(|e| self.other(e.to_string()))?;
                written.map_err(|e| self.io(&e))?;
                advance(length);
                Ok(())
            }
        };
        stream::iter(missing.map(fetch)).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        self.verify(partial).await
    }

    async fn fetch(&self, uri: &ObjectUri, range: std::ops::Range<u64>) -> Result<Bytes, ArtifactError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let cause = match self.store.read_range(uri, range.clone()).await {
                Ok(bytes) => return Ok(bytes),
                Err(cause) => cause,
            };
            let wait = backoff.next_wait();
            if !cause.is_transient() || backoff.failures() >= TRIES {
                return Err(self.store_error(cause));
            }
            tracing::debug!(artifact = self.artifact, %cause, ?wait, "a range failed; trying again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn verify(&self, partial: Arc<Partial>) -> Result<(), ArtifactError> {
        let (expected, folder) = (self.served.file.sha256.clone(), self.folder.to_owned());
        let check = move || {
            let got = cache::sha256_of(&partial.path)?;
            if got == expected {
                partial.file.sync_all()?;
                let target = cache::blob(&folder, &expected);
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent)?;
                }
                fs::rename(&partial.path, target)?;
            } else {
                fs::remove_file(&partial.path)?;
            }
            fs::remove_file(journal_of(&partial.path))?;
            Ok(got)
        };
        let got = tokio::task::spawn_blocking(check).await.map_err(|e| self.other(e.to_string()))?.map_err(|e: io::Error| self.io(&e))?;
        if got == self.served.file.sha256 {
            return Ok(());
        }
        let (artifact, file) = (self.artifact.to_owned(), self.served.file.path.clone());
        Err(ArtifactError::Digest { artifact, file, expected: self.served.file.sha256.clone(), got })
    }

    fn store_error(&self, cause: StoreError) -> ArtifactError {
        ArtifactError::Store { artifact: self.artifact.to_owned(), file: self.served.file.path.clone(), cause }
    }

    fn other(&self, cause: String) -> ArtifactError {
        self.store_error(StoreError::Other { uri: self.served.uri.clone(), cause })
    }

    fn io(&self, error: &io::Error) -> ArtifactError {
        let (artifact, file) = (self.artifact.to_owned(), self.served.file.path.clone());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ArtifactError::NoSpace { artifact, file, folder: self.folder.to_owned() }
            }
            _ => self.other(format!("cannot be written under {}: {error}", self.folder.display())),
        }
    }
}

impl Partial {
    fn open(folder: &Path, sha256: &str, bytes: u64) -> io::Result<Self> {
        let path = folder.join("partial").join(sha256);
        let known = fs::metadata(&path).is_ok_and(|it| it.len() == bytes);
        let done = if known { read_journal(&journal_of(&path), bytes) } else { BTreeSet::new() };
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        file.set_len(bytes)?;
        // Written anew, so that a line cut off by a crash does not run into the next one.
        let mut journal = File::create(journal_of(&path))?;
        for index in &done {
            writeln!(journal, "{index}")?;
        }
        Ok(Self { path, file, journal: Mutex::new(journal), done })
    }

    /// The bytes first, then the note that they are there.
    fn write(&self, index: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, index * RANGE_BYTES)?;
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.write_all(format!("{index}\n").as_bytes())
    }
}

fn journal_of(partial: &Path) -> PathBuf {
    partial.with_extension("ranges")
}

/// A last line without its end was cut off by a crash and does not count.
fn read_journal(path: &Path, bytes: u64) -> BTreeSet<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(|it| it.parse().ok()).filter(|it| *it < bytes.div_ceil(RANGE_BYTES)).collect()
}

fn range(index: u64, bytes: u64) -> std::ops::Range<u64> {
    let start = index * RANGE_BYTES;
    start..(start + RANGE_BYTES).min(bytes)
}
