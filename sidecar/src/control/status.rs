//! What is told of artifacts; pure. Enters: the table. Leaves: statuses that changed. Never: the same status twice on one stream,
//! or that of an artifact in the name of a variant that it only stands in for.

use std::collections::HashMap;

use akidb_proto::v1;

use crate::serving::{Model, Serving, Variant, VariantState};

/// What one stream was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    last: HashMap<(String, String, String), v1::ArtifactStatus>,
}

impl Told {
    /// Statuses that the stream does not know yet.
    pub(crate) fn news(&mut self, serving: &Serving) -> Vec<v1::ArtifactStatus> {
        let mut news = Vec::new();
        let mut last = HashMap::new();
        for model in serving.models.values() {
            for variant in model.variants.iter().filter(|it| !it.digest.is_empty() && !it.lent) {
                let status = status(model, variant);
                let key = (status.digest.clone(), status.model.clone(), status.variant.clone());
                if self.last.get(&key) != Some(&status) {
                    news.push(status.clone());
                }
                last.insert(key, status);
            }
        }
        self.last = last;
        news
    }
}

fn status(model: &Model, variant: &Variant) -> v1::ArtifactStatus {
    use v1::artifact_status::State;
    let (state, done_bytes, total_bytes) = match variant.state {
        VariantState::Pulling { done, total } => (State::Pulling, done, total),
        VariantState::Cached => (State::Cached, 0, 0),
        VariantState::Loading => (State::Loading, 0, 0),
        VariantState::Ready => (State::Ready, 0, 0),
        VariantState::Failed => (State::Failed, 0, 0),
    };
    let provider = variant.loaded.as_ref().filter(|_| state == State::Ready).map(|it| it.provider.to_string());
    v1::ArtifactStatus {
        digest: variant.digest.clone(),
        model: model.name.clone(),
        variant: variant.name.clone(),
        state: state.into(),
        reason: variant.reason.chars().take(1_000).collect(),
        done_bytes,
        total_bytes,
        provider: provider.unwrap_or_default(),
        version: variant.version.clone(),
    }
}
