//! The artifact store: files under the name of their content, `sha256/<2>/<sha256>`.
//!
//! Enters: a file or a stream, and the digest it must have. Leaves: a URI. Never: a name whose content differs, a half-written object.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use akidb_store::{ObjectUri, Store, StoreError};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

/// Why a file did not get in or out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("{name}: its sha256 is {got}, but {expected} was expected: the file is damaged or not the one that was meant")]
    Mismatch { name: String, expected: String, got: String },
    #[error("{name} has {got} bytes, but {expected} were expected")]
    Size { name: String, expected: u64, got: u64 },
    #[error("{name} has more than {most} bytes: `max_blob_bytes` of the control plane allows no more")]
    TooLarge { name: String, most: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no file could be written in `{}`: {error}", path.display())]
    Disk { path: PathBuf, error: std::io::Error },
}

/// Where artifacts are kept; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    pub(crate) store: Store,
    root: ObjectUri,
    incoming: Arc<PathBuf>,
    most: u64,
}

/// Bytes read at a time.
const CHUNK: u64 = 4 << 20;

impl Blobs {
    /// `incoming`: a folder on this machine for files on their way in.
    pub(crate) fn new(store: Store, root: ObjectUri, incoming: PathBuf, most: u64) -> Self {
        Self { store, root, incoming: Arc::new(incoming), most }
    }

    pub(crate) fn uri(&self, sha256: &str) -> ObjectUri {
        self.root.join(&format!("sha256/{}/{sha256}", &sha256[..2]))
    }

    /// Size of the file of this digest, when it is there.
    pub(crate) async fn size(&self, sha256: &str) -> Result<Option<u64>, BlobError> {
        match self.store.size(&self.uri(sha256)).await {
            Ok(size) => Ok(Some(size)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A file on its way in, of `announced` bytes where that is known.
    pub(crate) fn receive(&self, name: &str, announced: Option<u64>) -> Result<Incoming, BlobError> {
        if announced.is_some_and(|it| it > self.most) {
            return Err(BlobError::TooLarge { name: name.to_owned(), most: self.most });
        }
        let disk = |error| BlobError::Disk { path: self.incoming.as_ref().clone(), error };
        let file = NamedTempFile::new_in(self.incoming.as_ref()).map_err(disk)?;
        let writer = tokio::fs::File::from_std(file.reopen().map_err(disk)?);
        Ok(Incoming { name: name.to_owned(), file, writer, hash: Sha256::new(), bytes: 0, most: self.most })
    }

    /// Puts a received file under its digest.
    pub(crate) async fn keep(&self, mut incoming: Incoming, sha256: &str) -> Result<ObjectUri, BlobError> {
        let disk = |error| BlobError::Disk { path: self.incoming.as_ref().clone(), error };
        incoming.writer.flush().await.map_err(disk)?;
        let got = hex::encode(incoming.hash.finalize());
        if got != sha256 {
            return Err(BlobError::Mismatch { name: incoming.name, expected: sha256.to_owned(), got });
        }
        let uri = self.uri(sha256);
        self.store.put_file(incoming.file.path(), &uri).await?;
        Ok(uri)
    }

    /// Reads an object from end to end, into `copy` when there is one, and checks size and digest. `seen` counts the bytes.
    pub(crate) async fn verify(
        &self,
        uri: &ObjectUri,
        wanted: Wanted<'_>,
        mut copy: Option<&mut Incoming>,
        seen: &AtomicU64,
    ) -> Result<(), BlobError> {
        let name = format!("`{}` (`{uri}`)", wanted.path);
        let got = self.store.size(uri).await?;
        if got != wanted.bytes {
            return Err(BlobError::Size { name, expected: wanted.bytes, got });
        }
        let (mut hash, mut at) = (Sha256::new(), 0);
        while at < got {
            let end = got.min(at + CHUNK);
            let piece = self.store.read_range(uri, at..end).await?;
            hash.update(&piece);
            if let Some(copy) = copy.as_deref_mut() {
                copy.write(&piece).await?;
            }
            seen.fetch_add(end - at, Relaxed);
            at = end;
        }
        let got = hex::encode(hash.finalize());
        if got != wanted.sha256 {
            return Err(BlobError::Mismatch { name, expected: wanted.sha256.to_owned(), got });
        }
        Ok(())
    }
}

/// What a file must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) path: &'a str,
    pub(crate) bytes: u64,
    pub(crate) sha256: &'a str,
}

/// A file on its way in; gone when dropped.
#[derive(Debug)]
pub(crate) struct Incoming {
    name: String,
    file: NamedTempFile,
    writer: tokio::fs::File,
    hash: Sha256,
    bytes: u64,
    most: u64,
}

impl Incoming {
    pub(crate) async fn write(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.most {
            return Err(BlobError::TooLarge { name: self.name.clone(), most: self.most });
        }
        self.hash.update(piece);
        self.writer.write_all(piece).await.map_err(|error| BlobError::Disk { path: self.file.path().to_owned(), error })
    }
}
