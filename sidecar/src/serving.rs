//! The table of what can be served now. `models` publishes a new one at every change; `router` and `http` read the current one without
//! waiting. Enters: facts about variants. Leaves: the same, immutable. Never: an engine; the executor owns those.

mod residence;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use akidb_domain::snapshot::{SnapshotVersion, TrafficSplit, VariantRef};
use akidb_domain::vocabulary::{Arm, ExecutionProvider, Pooling, Precision};
use akidb_domain::window::LaneId;
use arc_swap::ArcSwap;

use crate::batcher::EngineId;
use crate::tokenizer::Tokenizer;

pub use residence::{InUse, Residence};

/// The current table; readers call `load()`.
pub type Table = Arc<ArcSwap<Serving>>;

/// Everything that can be asked for.
#[derive(Debug, Default)]
pub struct Serving {
    /// Snapshot it follows; 0.0 without a control plane.
    pub snapshot: SnapshotVersion,
    /// Canonical name -> model.
    pub models: BTreeMap<String, Model>,
    /// Canonical name of the model that a request without `model` gets.
    pub default_model: Option<String>,
    /// Experiments' splits, by canonical model name.
    pub splits: BTreeMap<String, TrafficSplit>,
    /// Configured entries that cannot be served, and why.
    pub problems: Vec<String>,
}

/// One model.
#[derive(Debug, Clone)]
pub struct Model {
    /// As written in the catalog.
    pub name: String,
    /// Length of an embedding.
    pub dimension: u32,
    /// Tokens kept of a text.
    pub max_tokens: u32,
    /// Only vectors with the same id may be compared.
    pub embedding_space: String,
    /// Random weights of the right shape.
    pub seeded: bool,
    /// Variant that a request without `@` gets.
    pub default: VariantRef,
    /// Alias -> variant, in lower case.
    pub aliases: BTreeMap<String, VariantRef>,
    /// Every variant known, loaded or not.
    pub variants: Vec<Variant>,
}

/// One variant and where it is in its life.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Version it belongs to.
    pub version: String,
    /// Name.
    pub name: String,
    /// Number format.
    pub precision: Precision,
    /// Digest of the artifact chosen for this machine; empty while none fits.
    pub digest: String,
    /// Where it is.
    pub state: VariantState,
    /// Why it failed, or why it stands in for something else; empty otherwise.
    pub reason: String,
    /// The artifact is another variant's, which stands in: nobody is told that this one's own is here.
    pub lent: bool,
    /// There once it is ready; an older artifact of the variant may go on serving while a newer one loads.
    pub loaded: Option<Arc<Loaded>>,
}

/// The life of a variant on this sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VariantState {
    /// Files on their way; bytes done and in all.
    Pulling {
        /// Bytes here.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Files here, not loaded.
    Cached,
    /// Engine being made, warmed and proven.
    Loading,
    /// Serving.
    Ready,
    /// Cannot be served; the reason says why.
    Failed,
}

impl VariantState {
    /// Its one spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pulling { .. } => "pulling",
            Self::Cached => "cached",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// A loaded engine with all that a request needs to know of it.
#[derive(Debug)]
pub struct Loaded {
    /// Model, as written in the catalog.
    pub model: String,
    /// Version.
    pub version: String,
    /// Variant.
    pub variant: String,
    /// Number format of the artifact that really serves.
    pub precision: Precision,
    /// Its digest.
    pub digest: String,
    /// Provider that runs it.
    pub provider: ExecutionProvider,
    /// It stands in for another artifact or provider.
    pub fallback: bool,
    /// Length of an embedding.
    pub dimension: u32,
    /// Tokens kept of a text.
    pub max_tokens: u32,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// Whether the graph's output has norm 1.
    pub normalized: bool,
    /// Only vectors with the same id may be compared.
    pub embedding_space: String,
    /// Prompt name -> text before the input.
    pub prompts: BTreeMap<String, String>,
    /// Text to token ids.
    pub tokenizer: Tokenizer,
    /// Its place in the device executor.
    pub engine: EngineId,
    /// When it became ready, Unix ns.
    pub loaded_at_ns: u64,
    /// Its place in memory.
    pub residence: Arc<Residence>,
    /// Where what it serves outside experiments is counted, once somebody asked: lanes are compared for every text, and one that is the same
    /// value is the same lane at a glance.
    pub lane: OnceLock<Arc<LaneId>>,
}

impl Loaded {
    /// Its lane outside experiments.
    pub fn own_lane(&self) -> Arc<LaneId> {
        self.lane.get_or_init(|| Arc::new(self.lane_of(Arm::Baseline, "", 0))).clone()
    }

    /// Its lane as an arm of an experiment.
    pub fn lane_of(&self, arm: Arm, experiment: &str, phase: u32) -> LaneId {
        LaneId {
            model: self.model.clone(),
            version: self.version.clone(),
            variant: self.variant.clone(),
            precision: self.precision,
            arm,
            experiment: experiment.to_owned(),
            phase,
            digest: self.digest.clone(),
            provider: self.provider,
            fallback: self.fallback,
        }
    }
}
