//! Objects by URI: `file:///path` or `s3://bucket/key`, read in ranges, written whole.
//!
//! Enters: a URI. Leaves: bytes, or one error that names the URI and the cause. Never: a digest check or a cache; those belong to
//! whoever reads. S3 is spoken through `aws-sdk-s3` to any endpoint; credentials come from the usual AWS places
//! (environment, profile, web identity, instance metadata) and are never logged.
//!
//! Rooms: [`uri`] what may be named, [`error`] what may go wrong, `local` and `s3` the two kinds.

pub mod error;
mod local;
mod s3;
pub mod uri;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OnceCell;

pub use crate::error::StoreError;
pub use crate::s3::S3Options;
pub use crate::uri::ObjectUri;

/// Reads and writes objects; cheap to clone. The S3 client is made at its first use.
#[derive(Debug, Clone)]
pub struct Store {
    options: S3Options,
    client: Arc<OnceCell<aws_sdk_s3::Client>>,
}

impl Store {
    /// A store that reaches S3 as `options` say.
    pub fn new(options: S3Options) -> Self {
        Self { options, client: Arc::default() }
    }

    /// A store with keys of its own instead of those of the usual places.
    pub fn with_keys(options: S3Options, access_key: &str, secret_key: &str) -> Self {
        let keys = Some((access_key.to_owned(), secret_key.to_owned()));
        Self::new(S3Options { keys, ..options })
    }

    /// Makes a bucket, or leaves it if it is there.
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), StoreError> {
        s3::create_bucket(self.s3().await, bucket).await
    }

    /// Size of an object, bytes.
    pub async fn size(&self, uri: &ObjectUri) -> Result<u64, StoreError> {
        match uri {
            ObjectUri::File(path) => local::size(uri, path).await,
            ObjectUri::S3 { bucket, key } => s3::size(self.s3().await, uri, bucket, key).await,
        }
    }

    /// The bytes `range` of an object. An object that ends earlier is an error.
    pub async fn read_range(&self, uri: &ObjectUri, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let wanted = range.end - range.start;
        let bytes = match uri {
            ObjectUri::File(path) => local::read_range(uri, path, range.clone()).await?,
            ObjectUri::S3 { bucket, key } => s3::read_range(self.s3().await, uri, bucket, key, range.clone()).await?,
        };
        if bytes.len() as u64 != wanted {
            return Err(StoreError::Short { uri: uri.to_string(), wanted: range.end, got: range.start + bytes.len() as u64 });
        }
        Ok(bytes)
    }

    /// A whole object of at most `most` bytes.
    pub async fn read(&self, uri: &ObjectUri, most: u64) -> Result<Bytes, StoreError> {
        let size = self.size(uri).await?;
        if size > most {
            return Err(StoreError::TooLarge { uri: uri.to_string(), size, most });
        }
        self.read_range(uri, 0..size).await
    }

    /// Writes a file's content to an object, replacing it atomically.
    pub async fn put_file(&self, from: &Path, uri: &ObjectUri) -> Result<(), StoreError> {
        match uri {
            ObjectUri::File(path) => local::put_file(from, uri, path).await,
            ObjectUri::S3 { bucket, key } => s3::put_file(self.s3().await, from, uri, bucket, key).await,
        }
    }

    async fn s3(&self) -> &aws_sdk_s3::Client {
        self.client.get_or_init(|| s3::client(&self.options)).await
    }
}
