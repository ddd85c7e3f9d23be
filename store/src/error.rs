//! What may go wrong with an object. Every message names the URI; none carries a secret. Enters: I/O and S3 errors. Leaves: one sentence.

use std::io;

/// An object that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing there.
    #[error("`{uri}` does not exist")]
    NotFound {
        /// Which object.
        uri: String,
    },
    /// The credentials do not allow it, or are wrong.
    #[error("`{uri}`: access refused ({cause}): check the S3 key, secret and bucket policy, or the file's permissions")]
    Denied {
        /// Which object.
        uri: String,
        /// In the server's words.
        cause: String,
    },
    /// S3 cannot be asked as anybody.
    #[error(
        "`{uri}`: no S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of this machine or pod"
    )]
    NoCredentials {
        /// Which object.
        uri: String,
    },
    /// No room on the disk.
    #[error("`{uri}`: no space left on the disk")]
    NoSpace {
        /// Which object.
        uri: String,
    },
    /// It ends before it should.
    #[error("`{uri}` ends at byte {got}; {wanted} were expected")]
    Short {
        /// Which object.
        uri: String,
        /// Bytes expected.
        wanted: u64,
        /// Bytes there.
        got: u64,
    },
    /// Larger than the caller takes.
    #[error("`{uri}` has {size} bytes; at most {most} are allowed")]
    TooLarge {
        /// Which object.
        uri: String,
        /// Its size.
        size: u64,
        /// The limit.
        most: u64,
    },
    /// Anything else; worth another try.
    #[error("`{uri}`: {cause}")]
    Other {
        /// Which object.
        uri: String,
        /// In the words of whoever failed.
        cause: String,
    },
}

impl StoreError {
    /// Whether another try may go better.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Other { .. })
    }

    pub(crate) fn io(uri: &impl ToString, error: &io::Error) -> Self {
        let uri = uri.to_string();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound { uri },
            io::ErrorKind::PermissionDenied => Self::Denied { uri, cause: error.to_string() },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { uri },
            _ => Self::Other { uri, cause: error.to_string() },
        }
    }
}
