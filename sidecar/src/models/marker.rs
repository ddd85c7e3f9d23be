//! Engines that took the process down: noted before a load, cleared after parity. Enters: digests. Leaves: which are quarantined.
//! Never: a third try of an artifact that two processes did not survive; a second one while something else could serve instead, unless a
//! process ended well in between: a kill or a power cut in the middle of a load is not the artifact's fault.
//!
//! A marker holds the number of deaths, and `pardoned` once a process ended well after the first. It appears whole: one that could be cut
//! short by the very death it is there to tell of would tell nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Unclean starts with the marker present after which an artifact is not tried again.
const TRIES: u32 = 2;
const PARDONED: &str = "pardoned";

/// Markers in `<state>/activations`, one file a digest.
#[derive(Debug, Clone)]
pub struct Markers {
    folder: PathBuf,
    /// Where a marker is written before it appears; one load goes on at a time.
    partial: PathBuf,
}

impl Markers {
    /// Opens the folder.
    pub fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("activations");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, partial: state.join("activation.partial") })
    }

    /// Whether loads of it ended the process too often.
    pub fn quarantined(&self, digest: &str) -> bool {
        self.crashes(digest) >= TRIES
    }

    /// Whether its last load ended the process.
    pub fn suspected(&self, digest: &str) -> bool {
        self.crashes(digest) > 0 && !self.text(digest).ends_with(PARDONED)
    }

    /// Notes that the process ends well: what is suspected may be tried once more.
    pub fn pardon(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let digest = entry.file_name().to_string_lossy().into_owned();
            let text = format!("{} {PARDONED}", self.crashes(&digest));
            if self.suspected(&digest)
                && let Err(error) = self.write(&digest, &text)
            {
                tracing::warn!(%error, digest, "the activation marker cannot be written");
            }
        }
    }

    /// Notes that a load begins; counted as a crash until [`Markers::clear`].
    pub fn begin(&self, digest: &str) -> io::Result<()> {
        self.write(digest, &(self.crashes(digest) + 1).to_string())
    }

    /// Notes that the process survived it.
    pub fn clear(&self, digest: &str) {
        if let Err(error) = fs::remove_file(self.folder.join(digest)).or_else(ignore_missing) {
            tracing::warn!(%error, digest, "the activation marker cannot be removed");
        }
    }

    fn write(&self, digest: &str, text: &str) -> io::Result<()> {
        fs::write(&self.partial, text)?;
        fs::File::open(&self.partial)?.sync_all()?;
        fs::rename(&self.partial, self.folder.join(digest))?;
        fs::File::open(&self.folder)?.sync_all()
    }

    fn crashes(&self, digest: &str) -> u32 {
        self.text(digest).split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or(0)
    }

    fn text(&self, digest: &str) -> String {
        fs::read_to_string(self.folder.join(digest)).unwrap_or_default()
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

    #[test]
    fn one_unclean_start_is_a_suspicion_that_a_clean_end_lifts() {
        let folder = tempfile::tempdir().unwrap();
        let (markers, digest) = (Markers::open(folder.path()).unwrap(), "b".repeat(64));
        assert!(!markers.suspected(&digest));
        markers.begin(&digest).unwrap();
        assert!(markers.suspected(&digest) && !markers.quarantined(&digest));
        markers.pardon();
        assert!(!markers.suspected(&digest));
        markers.begin(&digest).unwrap();
        assert!(markers.suspected(&digest) && markers.quarantined(&digest));
    }
}
