//! Objects that are files on this machine. Enters: an absolute path. Leaves: bytes. Never: a half-written file under its final name.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::{ObjectUri, StoreError};

pub(crate) async fn size(uri: &ObjectUri, path: &Path) -> Result<u64, StoreError> {
    let meta = fs::metadata(path).await.map_err(|e| StoreError::io(uri, &e))?;
    if meta.is_dir() {
        return Err(StoreError::Other { uri: uri.to_string(), cause: "is a folder, not a file".to_owned() });
    }
    Ok(meta.len())
}

pub(crate) async fn read_range(uri: &ObjectUri, path: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
    let read = async {
        let mut file = File::open(path).await?;
        file.seek(SeekFrom::Start(range.start)).await?;
        let wanted = range.end - range.start;
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or(usize::MAX).min(64 * 1024 * 1024));
        file.take(wanted).read_to_end(&mut bytes).await?;
        Ok(Bytes::from(bytes))
    };
    read.await.map_err(|e: std::io::Error| StoreError::io(uri, &e))
}

pub(crate) async fn put_file(from: &Path, uri: &ObjectUri, to: &Path) -> Result<(), StoreError> {
    let partial = partial(to);
    let write = async {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).await?;
        }
        fs::copy(from, &partial).await?;
        File::open(&partial).await?.sync_all().await?;
        fs::rename(&partial, to).await?;
        // The name must outlive a power cut as the content does: a catalog may rely on it from here on.
        let folder = to.parent().unwrap_or(Path::new("/"));
        File::open(folder).await?.sync_all().await
    };
    let written = write.await;
    if written.is_err() {
        // Best effort: the error that matters is the one being returned.
        drop(fs::remove_file(&partial).await);
    }
    written.map_err(|e| StoreError::io(uri, &e))
}

/// A name of its own for every write: two writers of one object must not share a half-written file.
fn partial(to: &Path) -> PathBuf {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}.partial", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
    to.with_file_name(name)
}
