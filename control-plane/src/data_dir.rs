//! The folder on this machine, held by one process at a time. Enters: a path. Leaves: the lock and the paths in it. Never: two holders.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::db;

/// The held folder; let go when dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the folder where it is missing and takes it.
    pub(crate) fn hold(path: &Path) -> anyhow::Result<Self> {
        for folder in [path.to_owned(), path.join("incoming")] {
            std::fs::create_dir_all(&folder).with_context(|| format!("folder `{}` cannot be created", folder.display()))?;
        }
        let file = path.join("control-plane.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .with_context(|| format!("`{}` cannot be opened", file.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!("`{}` is held by a control plane that runs: stop it first", path.display()),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("`{}` cannot be locked", file.display())),
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        database(&self.path)
    }

    /// Files on their way in; emptied of what a crash left.
    pub(crate) fn incoming(&self) -> anyhow::Result<PathBuf> {
        let folder = self.path.join("incoming");
        for entry in std::fs::read_dir(&folder)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The database of a data directory.
pub(crate) fn database(path: &Path) -> PathBuf {
    path.join(db::FILE)
}
