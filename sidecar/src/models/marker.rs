//! Engines that took the process down: noted before a load, cleared after parity. Enters: digests. Leaves: which are quarantined.
//! Never: a third try of an artifact that two processes did not survive.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Unclean starts with the marker present after which an artifact is not tried again.
const TRIES: u32 = 2;

/// Markers in `<state>/activations`, one file a digest.
#[derive(Debug, Clone)]
pub struct Markers {
    folder: PathBuf,
}

impl Markers {
    /// Opens the folder.
    pub fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("activations");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Whether loads of it ended the process too often.
    pub fn quarantined(&self, digest: &str) -> bool {
        self.crashes(digest) >= TRIES
    }

    /// Notes that a load begins; counted as a crash until [`Markers::clear`].
    pub fn begin(&self, digest: &str) -> io::Result<()> {
        let file = self.folder.join(digest);
        fs::write(&file, (self.crashes(digest) + 1).to_string())?;
        fs::File::open(&file)?.sync_all()?;
        fs::File::open(&self.folder)?.sync_all()
    }

    /// Notes that the process survived it.
    pub fn clear(&self, digest: &str) {
        if let Err(error) = fs::remove_file(self.folder.join(digest)).or_else(ignore_missing) {
            tracing::warn!(%error, digest, "the activation marker cannot be removed");
        }
    }

    fn crashes(&self, digest: &str) -> u32 {
        fs::read_to_string(self.folder.join(digest)).ok().and_then(|it| it.trim().parse().ok()).unwrap_or(0)
    }
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_unclean_starts_quarantine_and_a_clean_one_forgives() {
        let folder = tempfile::tempdir().unwrap();
        let (markers, digest) = (Markers::open(folder.path()).unwrap(), "a".repeat(64));
        markers.begin(&digest).unwrap();
        assert!(!Markers::open(folder.path()).unwrap().quarantined(&digest));
        markers.begin(&digest).unwrap();
        assert!(Markers::open(folder.path()).unwrap().quarantined(&digest));
        markers.clear(&digest);
        assert!(!markers.quarantined(&digest));
    }
}
