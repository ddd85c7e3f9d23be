//! What a look and an end change. Enters: a verdict, or a wish. Leaves: the new split, aliases, record and history, in one transaction.
//! Never: a promotion onto a model whose `stable` moved meanwhile.

use akidb_domain::decision::config::Unit;
use akidb_domain::decision::{Look, Outcome, Stage, State, Verdict};
use akidb_domain::snapshot::{SnapshotVersion, VariantRef};
use serde_json::{Value, json};

use super::record;
use crate::catalog::find::Place;
use crate::catalog::{CatalogError, aliases, find};
use crate::change::Change;
use crate::db::experiments::{self, Experiment, Life};
use crate::db::{looks, meta};

/// Takes a look that the decision engine has judged. `false`: the experiment was changed since it was read, and nothing is written.
pub(crate) async fn take(
    change: &mut Change,
    it: &mut Experiment,
    look: &Look,
    (state, outcome): (State, Outcome),
) -> Result<bool, CatalogError> {
    if experiments::find(change.conn(), &it.id).await?.is_none_or(|there| there.revision != it.revision) {
        return Ok(false);
    }
    let at = change.at;
    looks::insert(change.conn(), &it.id, look, &outcome, at).await?;
    let (held, split) = (inconclusive(it.outcome.as_ref()), said_to_sidecars(it));
    it.decision = state;
    it.reason.clone_from(&outcome.reason);
    it.outcome = Some(outcome.clone());
    change.event(&it.id, "look", &summary(&outcome)).await?;
    match &outcome.verdict {
        Verdict::Promote { .. } if it.decision.stage == Stage::Complete => complete(change, it, &outcome.reason).await?,
        Verdict::Promote { share_ppm } => {
            let digest = record::close(change, it, true).await?;
            let detail = json!({"share_ppm": share_ppm, "reason": outcome.reason, "sentence": outcome.sentence, "record": digest});
            tell(change, it, "grown", detail).await?;
            follow(change, it).await?;
        }
        Verdict::RollBack { .. } => end(change, it, Life::RolledBack, &outcome.reason).await?,
        Verdict::Inconclusive { missing } if !held => {
            tell(change, it, "inconclusive", json!({"missing": missing, "reason": outcome.reason})).await?;
        }
        Verdict::Inconclusive { .. } | Verdict::Wait { .. } => {}
    }
    if it.life.is_live() && looks::count(change.conn(), &it.id).await? >= record::MOST_LOOKS {
        record::close(change, it, true).await?;
    }
    if split != said_to_sidecars(it) {
        change.visible();
    }
    Ok(experiments::save(change.conn(), it, at).await?)
}

fn inconclusive(outcome: Option<&Outcome>) -> bool {
    outcome.is_some_and(|it| matches!(it.verdict, Verdict::Inconclusive { .. }))
}

/// What of an outcome is in a split: thresholds only where units are sticky.
fn said_to_sidecars(it: &Experiment) -> Value {
    let sticky = it.config.unit == Unit::Sticky;
    it.outcome.as_ref().map_or(Value::Null, |it| json!([it.probing, sticky.then_some(&it.thresholds)]))
}

/// An outcome in short.
pub(crate) fn summary(it: &Outcome) -> Value {
    json!({"look": it.look, "stage": it.stage, "verdict": it.verdict, "reason": it.reason, "sentence": it.sentence, "probes": it.probes,
           "canary_requests": it.canary_requests})
}

/// A new stage: the sidecars have to follow before anything of it counts.
pub(crate) async fn follow(change: &mut Change, it: &mut Experiment) -> Result<(), CatalogError> {
    let now = meta::version(change.conn()).await?;
    it.progress.snapshot = SnapshotVersion { n: now.n + 1, ..now };
    it.progress.waiting_since = change.at;
    it.progress.cursor_ns = 0;
    change.visible();
    Ok(())
}

/// At 100 %: the aliases follow. A space that not every app agreed to is left to people.
pub(crate) async fn complete(change: &mut Change, it: &mut Experiment, why: &str) -> Result<(), CatalogError> {
    let (from, to) = (place(change, &it.model, &it.baseline).await?, place(change, &it.model, &it.canary).await?);
    if from.version.embedding_space != to.version.embedding_space {
        let why = format!("{why}; `stable` stays, for the vectors are of another space: move it when every index is rebuilt");
        return end(change, it, Life::Promoted, &why).await;
    }
    match aliases::promote(change, &from, &to).await {
        Ok(true) => end(change, it, Life::Promoted, why).await,
        Ok(false) => end(change, it, Life::Promoted, &format!("{why}; `default` names another variant and stays")).await,
        Err(CatalogError::Stale(moved)) => end(change, it, Life::Aborted, &format!("proven, and not promoted: {moved}")).await,
        Err(other) => Err(other),
    }
}

/// Ends an experiment: no split, no `canary`, a sealed record.
pub(crate) async fn end(change: &mut Change, it: &mut Experiment, life: Life, why: &str) -> Result<(), CatalogError> {
    let digest = record::close(change, it, false).await?;
    let was_live = it.life.is_live();
    it.life = life;
    it.ended_at = Some(change.at);
    why.clone_into(&mut it.reason);
    if was_live {
        drop_canary(change, it).await?;
        change.visible();
    }
    let sentence = it.outcome.as_ref().map(|it| it.sentence.clone());
    tell(change, it, life.as_str(), json!({"reason": why, "sentence": sentence, "record": digest})).await
}

/// Takes the alias `canary` away, if it is still this experiment's.
async fn drop_canary(change: &mut Change, it: &Experiment) -> Result<(), CatalogError> {
    let model = find::model(change.conn(), &it.model).await?;
    match aliases::find(change.conn(), &model, "canary").await {
        Ok(alias) if alias.version == it.canary.version && alias.variant == it.canary.variant => {
            aliases::delete(change, &model, "canary", aliases::Expected::Revision(alias.revision)).await
        }
        Ok(_) | Err(CatalogError::NotFound(_)) => Ok(()),
        Err(other) => Err(other),
    }
}

pub(crate) async fn place(change: &mut Change, model: &str, at: &VariantRef) -> Result<Place, CatalogError> {
    find::variant(change.conn(), model, &at.version, &at.variant).await
}

/// In the history and in the audit log.
pub(crate) async fn tell(change: &mut Change, it: &Experiment, kind: &str, detail: Value) -> Result<(), CatalogError> {
    change.event(&it.id, kind, &detail).await?;
    change.audit(&format!("experiment.{kind}"), &format!("experiments/{}", it.id), detail).await?;
    Ok(())
}
