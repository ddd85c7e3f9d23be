//! What an object may be called. Enters: a string. Leaves: a checked [`ObjectUri`]. Never: a relative path or a scheme we do not speak.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ObjectUri {
    /// An absolute path on this machine.
    File(PathBuf),
    /// An object in a bucket.
    S3 {
        /// Bucket.
        bucket: String,
        /// Key, without a leading `/`.
        key: String,
    },
}

/// A URI that names no object we can reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an object URI: write `s3://bucket/key` or `file:///absolute/path`")]
pub struct BadUri(pub String);

impl ObjectUri {
    /// The object `relative` below this one.
    #[must_use]
    pub fn join(&self, relative: &str) -> Self {
        match self {
            Self::File(path) => Self::File(path.join(relative)),
            Self::S3 { bucket, key } => Self::S3 {
                bucket: bucket.clone(),
                key: format!("{}/{relative}", key.trim_end_matches('/')).trim_start_matches('/').to_owned(),
            },
        }
    }

    /// The folder that holds this object.
    pub fn parent(&self) -> Option<Self> {
        match self {
            Self::File(path) => path.parent().map(|it| Self::File(it.to_owned())),
            Self::S3 { bucket, key } => {
                let (folder, _) = key.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
                Some(Self::S3 { bucket: bucket.clone(), key: folder.to_owned() })
            }
        }
    }

    /// The last part of the name.
    pub fn name(&self) -> &str {
        match self {
            Self::File(path) => path.file_name().and_then(|it| it.to_str()).unwrap_or_default(),
            Self::S3 { key, .. } => key.trim_end_matches('/').rsplit('/').next().unwrap_or_default(),
        }
    }
}

impl FromStr for ObjectUri {
    type Err = BadUri;

    fn from_str(s: &str) -> Result<Self, BadUri> {
        let bad = || BadUri(s.chars().take(300).collect());
        if s.len() > 2_048 || s.contains('\0') {
            return Err(bad());
        }
        if let Some(path) = s.strip_prefix("file://") {
            return if path.starts_with('/') { Ok(Self::File(path.into())) } else { Err(bad()) };
        }
        let (bucket, key) = s.strip_prefix("s3://").ok_or_else(bad)?.split_once('/').ok_or_else(bad)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if bucket.is_empty() || !bucket.bytes().all(plain) || key.is_empty() {
            return Err(bad());
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), key: key.trim_start_matches('/').to_owned() })
    }
}

impl fmt::Display for ObjectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Option<(&str, &str)>) {
        let got = input.parse::<ObjectUri>().ok().map(|it| (it.to_string(), it.join("m.onnx").to_string()));
        assert_eq!(got, expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{input}");
    }

    #[test]
    fn uris() {
        check("s3://bucket/a/b", Some(("s3://bucket/a/b", "s3://bucket/a/b/m.onnx")));
        check("s3://bucket/a/", Some(("s3://bucket/a/", "s3://bucket/a/m.onnx")));
        check("file:///models/x", Some(("file:///models/x", "file:///models/x/m.onnx")));
        check("file://models/x", None);
        check("s3://bucket", None);
        check("s3:///key", None);
        check("http://host/key", None);
        check("/models/x", None);
    }

    #[test]
    fn parents_and_names() {
        let uri: ObjectUri = "s3://b/p/q.onnx".parse().unwrap();
        assert_eq!((uri.parent().unwrap().to_string().as_str(), uri.name()), ("s3://b/p", "q.onnx"));
    }
}
