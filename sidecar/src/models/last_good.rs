//! Which artifact of a variant served last, kept over restarts. Enters: artifacts that passed parity. Leaves: the one to fall back to.
//! Never: a promise that its files are still cached; the pull finds out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use akidb_domain::snapshot::{ServedArtifact, VariantRef};
use akidb_domain::vocabulary::Precision;
use serde::{Deserialize, Serialize};

/// `<state>/last_good.json`
#[derive(Debug)]
pub(crate) struct LastGood {
    path: PathBuf,
    known: BTreeMap<String, Good>,
}

/// An artifact that served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Good {
    pub(crate) artifact: ServedArtifact,
    pub(crate) precision: Precision,
    /// Which variant it was, where it was noted as the model's default.
    #[serde(default)]
    pub(crate) at: Option<VariantRef>,
}

/// Most variants remembered.
const MOST: usize = 1_024;

impl LastGood {
    /// Reads what is there; a file that cannot be read is as good as none.
    pub(crate) fn open(state: &Path) -> Self {
        let path = state.join("last_good.json");
        let known = fs::read(&path).ok().and_then(|it| serde_json::from_slice(&it).ok()).unwrap_or_default();
        Self { path, known }
    }

    pub(crate) fn get(&self, model: &str, at: &VariantRef) -> Option<&Good> {
        self.known.get(&key(model, at))
    }

    /// What a model's default was when it last served.
    pub(crate) fn default_of(&self, model: &str) -> Option<(&VariantRef, &Good)> {
        self.known.get(model).and_then(|it| Some((it.at.as_ref()?, it)))
    }

    /// Remembers an artifact.
    pub(crate) fn set(&mut self, model: &str, at: &VariantRef, good: Good) {
        self.note(key(model, at), good);
    }

    /// Remembers a model's default; `good` says which variant it is.
    pub(crate) fn set_default(&mut self, model: &str, good: Good) {
        self.note(model.to_owned(), good);
    }

    fn note(&mut self, key: String, good: Good) {
        if self.known.get(&key) == Some(&good) || (self.known.len() >= MOST && !self.known.contains_key(&key)) {
            return;
        }
        self.known.insert(key, good);
        if let Err(error) = self.save() {
            tracing::warn!(%error, path = %self.path.display(), "the last good artifacts cannot be noted");
        }
    }

    fn save(&self) -> std::io::Result<()> {
        let partial = self.path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec(&self.known)?)?;
        fs::rename(partial, &self.path)
    }
}

fn key(model: &str, at: &VariantRef) -> String {
    format!("{model}/{}/{}", at.version, at.variant)
}
