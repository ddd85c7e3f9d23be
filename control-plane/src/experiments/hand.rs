//! What people do to an experiment. Enters: an experiment as it was read. Leaves: it, as it is then. Never: a step from a state it is not in.

use akidb_domain::decision::config::WHOLE_PPM;
use akidb_domain::decision::state::Tests;
use akidb_domain::decision::{Stage, State};
use serde_json::json;

use super::moves::{complete, end, follow, place, tell};
use super::{create, record, split};
use crate::catalog::{CatalogError, aliases};
use crate::change::Change;
use crate::db::experiments::{self, Experiment, Life};
use crate::db::lanes;

/// How far a promotion by hand goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Step {
    /// To the next share.
    #[default]
    Next,
    /// To 100 %.
    Full,
}

/// Splits the traffic from now on.
pub(crate) async fn start(change: &mut Change, it: &mut Experiment) -> Result<(), CatalogError> {
    from(it, "start", &[Life::Draft])?;
    if let Some(other) = experiments::live_of(change.conn(), &it.model).await? {
        return Err(CatalogError::Conflict(format!(
            "model `{}` has the experiment `{other}` already, and two on one model are not layered: abort it, or wait for its end",
            it.model
        )));
    }
    let (baseline, canary) = (place(change, &it.model, &it.baseline).await?, place(change, &it.model, &it.canary).await?);
    create::check_pair(change.conn(), &baseline, &canary, &it.scope).await?;
    create::check_serves(change.conn(), &baseline).await?;
    aliases::put(change, &canary, "canary", aliases::Expected::Any).await?;
    it.life = Life::Running;
    it.started_at = Some(change.at);
    it.progress.gap = lanes::newest_lost(change.conn()).await?;
    record::close(change, it, true).await?;
    tell(change, it, "started", json!({"share_ppm": split::stage_share(&it.config, it.decision.stage), "config": it.config})).await?;
    follow(change, it).await?;
    save(change, it).await
}

/// Keeps the share and looks no more.
pub(crate) async fn pause(change: &mut Change, it: &mut Experiment, why: &str) -> Result<(), CatalogError> {
    from(it, "pause", &[Life::Running])?;
    it.life = Life::Paused;
    it.reason = format!("paused by hand{}", because(why));
    tell(change, it, "paused", json!({"reason": it.reason.clone()})).await?;
    save(change, it).await
}

/// Looks again, from now on.
pub(crate) async fn resume(change: &mut Change, it: &mut Experiment) -> Result<(), CatalogError> {
    from(it, "resume", &[Life::Paused])?;
    it.life = Life::Running;
    "resumed by hand".clone_into(&mut it.reason);
    it.progress.gap = lanes::newest_lost(change.conn()).await?;
    it.progress.waiting_since = change.at;
    it.progress.cursor_ns = 0;
    tell(change, it, "resumed", json!({})).await?;
    save(change, it).await
}

/// Ends it; all traffic is the baseline's again.
pub(crate) async fn abort(change: &mut Change, it: &mut Experiment, why: &str) -> Result<(), CatalogError> {
    from(it, "abort", &[Life::Draft, Life::Running, Life::Paused])?;
    end(change, it, Life::Aborted, &format!("aborted by hand{}", because(why))).await?;
    save(change, it).await
}

/// Grows the share without proof.
pub(crate) async fn promote(change: &mut Change, it: &mut Experiment, step: Step) -> Result<(), CatalogError> {
    from(it, "promote", &[Life::Running, Life::Paused])?;
    let next = match (step, it.decision.stage) {
        (Step::Next, Stage::BurnIn) => Stage::Phase(0),
        (Step::Next, Stage::Phase(at)) if at + 1 < it.config.phases.len() => Stage::Phase(at + 1),
        _ => Stage::Complete,
    };
    it.decision = State { stage: next, tests: Tests::default(), ..it.decision.clone() };
    if next == Stage::Complete {
        complete(change, it, "promoted by hand").await?;
        return save(change, it).await;
    }
    if let Some(outcome) = &mut it.outcome {
        outcome.probing = it.decision.probing();
    }
    it.life = Life::Running;
    let share_ppm = split::stage_share(&it.config, next).unwrap_or(WHOLE_PPM);
    it.reason = format!("promoted to {} % by hand", f64::from(share_ppm) / 1e4);
    let digest = record::close(change, it, true).await?;
    tell(change, it, "grown", json!({"share_ppm": share_ppm, "reason": it.reason.clone(), "by_hand": true, "record": digest})).await?;
    follow(change, it).await?;
    save(change, it).await
}

fn from(it: &Experiment, what: &str, allowed: &[Life]) -> Result<(), CatalogError> {
    if allowed.contains(&it.life) {
        return Ok(());
    }
    let allowed = allowed.iter().map(|it| it.as_str()).collect::<Vec<_>>().join(" or ");
    Err(CatalogError::Conflict(format!("experiment `{}` is {}: only one that is {allowed} takes `{what}`", it.id, it.life.as_str())))
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

async fn save(change: &mut Change, it: &mut Experiment) -> Result<(), CatalogError> {
    let at = change.at;
    if experiments::save(change.conn(), it, at).await? {
        return Ok(());
    }
    Err(CatalogError::Stale(format!("experiment `{}` changed meanwhile: look at it again", it.id)))
}
