//! Which variant and arm serves a request.
//!
//! Enters: the current table and what is asked. Leaves: a loaded variant and a lane, or why not. Never: state, a clock, a wait.

use std::sync::Arc;

use akidb_domain::snapshot::VariantRef;
use akidb_domain::vocabulary::{ModelRef, Purpose};
use akidb_domain::window::LaneId;

use crate::serving::{Loaded, Serving};

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Model; `None`: the default.
    pub model: Option<&'a ModelRef>,
    /// Query or index.
    pub purpose: Purpose,
    /// `x-akidb-app`.
    pub app: &'a str,
    /// Sticky unit (`x-akidb-key`, else `user`), if given.
    pub sticky: Option<&'a [u8]>,
    /// Drawn for this request.
    pub random: u64,
}

/// What serves it.
#[derive(Debug, Clone)]
pub struct Route {
    /// The variant.
    pub loaded: Arc<Loaded>,
    /// Where it is counted.
    pub lane: Arc<LaneId>,
}

/// Why nothing can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such model.
    #[error("unknown model `{asked}`; there are: {known}")]
    UnknownModel {
        /// What was asked.
        asked: String,
        /// What there is.
        known: String,
    },
    /// No such variant or alias.
    #[error("model `{model}` has no variant or alias `{asked}`; there are: {known}")]
    UnknownVariant {
        /// Model.
        model: String,
        /// What was asked.
        asked: String,
        /// What there is.
        known: String,
    },
    /// Known, but nothing is loaded.
    #[error("model `{model}`, variant `{}` is not ready ({state})", variant.variant)]
    NotReady {
        /// Model.
        model: String,
        /// Which variant.
        variant: VariantRef,
        /// Where it is, and why.
        state: String,
    },
    /// No `model` given, and the sidecar has no default.
    #[error("no model is configured yet")]
    NoModel,
}

/// Finds what serves `ask`.
pub fn route(serving: &Serving, ask: &Ask<'_>) -> Result<Route, RouteError> {
    let _ = (serving, ask);
    Err(RouteError::NoModel)
}
