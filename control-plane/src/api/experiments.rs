//! Experiments. Enters: wishes and steps. Leaves: experiments, decisions, events. Never: a rule; those are in `experiments`.
//!
//! Rooms: [`steps`] what people do, [`decision`] verdicts and records, [`events`] what happened, [`mesh`] the same split for a service mesh.

pub(crate) mod decision;
pub(crate) mod events;
pub(crate) mod mesh;
pub(crate) mod steps;

use akidb_domain::decision::{Config, Stage};
use akidb_domain::snapshot::{ProbeBudget, VariantRef};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Who};
use super::page::Page;
use crate::clock::rfc3339_ms;
use crate::db::experiments::{self as rows, Experiment, Scope};
use crate::experiments as rules;
use crate::experiments::create::{self, Asked, Devices, Wish};
use crate::experiments::moves;
use crate::experiments::plan::Expect;

/// What is to be tried.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewExperiment {
    /// Made up when it is not given.
    id: Option<String>,
    #[serde(default)]
    title: String,
    model: String,
    /// Default: what `stable` names.
    baseline: Option<String>,
    /// Default: the version of `default`.
    baseline_version: Option<String>,
    canary: String,
    /// Default: the version of `default`.
    canary_version: Option<String>,
    /// Sidecars of these apps only; empty: all.
    #[serde(default)]
    apps: Vec<String>,
    /// Apps whose index traffic takes part too.
    #[serde(default)]
    apps_all_traffic: Vec<String>,
    /// Apps that agree to vectors of another space.
    #[serde(default)]
    apps_space_change: Vec<String>,
    /// Unit, phases, margins, alpha and the rest, as docs/EXPERIMENTS.md has them; what is not given has its default.
    #[schema(value_type = Object)]
    #[serde(default)]
    config: Config,
    /// `{"device_ppm", "idle_ppm", "shed_queue_texts"}`; default 5000, 10000, 8.
    #[schema(value_type = Object)]
    #[serde(default)]
    probe: ProbeBudget,
    /// Requests a second of the model over the fleet; default: what the ledger saw within a day.
    expected_requests_per_second: Option<f64>,
    /// Engine time of a batch; default 10.
    expected_batch_ms: Option<f64>,
    /// `{"baseline": {"sku", "region"}, "canary": {...}}` where the arms run on different devices: cost is then compared by their prices.
    #[schema(value_type = Object)]
    devices: Option<Devices>,
    /// Create it although it cannot reach a verdict in time.
    #[serde(default)]
    force: bool,
}

impl NewExperiment {
    fn wish(self, state: &ApiState) -> Result<Wish, ApiError> {
        for (field, value) in
            [("expected_requests_per_second", self.expected_requests_per_second), ("expected_batch_ms", self.expected_batch_ms)]
        {
            if let Some(bad) = value.filter(|it| !(it.is_finite() && *it > 0.0 && *it < 1e9)) {
                return Err(ApiError::Invalid(format!("`{field}` {bad} is not between 0 and 1e9")));
            }
        }
        let sidecars = u32::try_from(state.connections.count()).unwrap_or(u32::MAX);
        let expect = Expect::new(self.expected_requests_per_second, self.expected_batch_ms, sidecars, state.look_ms);
        Ok(Wish {
            id: self.id,
            title: self.title,
            model: self.model,
            baseline: Asked { version: self.baseline_version, variant: self.baseline },
            canary: Asked { version: self.canary_version, variant: Some(self.canary) },
            scope: Scope { apps: self.apps, apps_all_traffic: self.apps_all_traffic, apps_space_change: self.apps_space_change },
            config: self.config,
            probe: self.probe,
            expect,
            devices: self.devices,
            force: self.force,
        })
    }
}

/// An experiment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExperimentView {
    id: String,
    title: String,
    model: String,
    #[schema(value_type = Object)]
    baseline: VariantRef,
    #[schema(value_type = Object)]
    canary: VariantRef,
    apps: Vec<String>,
    apps_all_traffic: Vec<String>,
    apps_space_change: Vec<String>,
    /// `draft`, `running`, `paused`, `promoted`, `rolled-back` or `aborted`.
    state: &'static str,
    /// What it waits for, or why it ended.
    reason: String,
    /// `burn-in`, a phase from 1, `complete` or `rolled-back`.
    stage: String,
    phases: usize,
    /// Parts in a million of the traffic on the canary's variant now.
    share_ppm: u32,
    /// Looks taken.
    looks: u64,
    /// Of the newest look; null before the first.
    #[schema(value_type = Object)]
    latest: Value,
    #[schema(value_type = Object)]
    config: Config,
    #[schema(value_type = Object)]
    probe: ProbeBudget,
    /// What was said about it when it was made.
    #[schema(value_type = Object)]
    plan: Value,
    pub(crate) revision: i64,
    created_at: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    updated_at: String,
}

impl From<Experiment> for ExperimentView {
    fn from(it: Experiment) -> Self {
        Self {
            share_ppm: share_ppm(&it),
            state: it.life.as_str(),
            stage: stage(it.decision.stage),
            phases: it.config.phases.len(),
            looks: it.decision.looks,
            latest: it.outcome.as_ref().map_or(Value::Null, moves::summary),
            id: it.id,
            title: it.title,
            model: it.model,
            baseline: it.baseline,
            canary: it.canary,
            apps: it.scope.apps,
            apps_all_traffic: it.scope.apps_all_traffic,
            apps_space_change: it.scope.apps_space_change,
            reason: it.reason,
            config: it.config,
            probe: it.probe,
            plan: it.plan,
            revision: it.revision,
            created_at: rfc3339_ms(it.created_at),
            started_at: it.started_at.map(rfc3339_ms),
            ended_at: it.ended_at.map(rfc3339_ms),
            updated_at: rfc3339_ms(it.updated_at),
        }
    }
}

/// Parts in a million that the canary gets now: a draft, an aborted one and a burn-in get nothing.
fn share_ppm(it: &Experiment) -> u32 {
    let ended_whole = it.life == rows::Life::Promoted;
    if it.life.is_live() || ended_whole { it.decision.share_ppm(&it.config) } else { 0 }
}

fn stage(it: Stage) -> String {
    match it {
        Stage::BurnIn => "burn-in".to_owned(),
        Stage::Phase(at) => format!("phase {}", at + 1),
        Stage::Complete => "complete".to_owned(),
        Stage::RolledBack => "rolled-back".to_owned(),
    }
}

/// A page of experiments.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Experiments {
    experiments: Vec<ExperimentView>,
    next: Option<String>,
}

/// Which experiments.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExperimentQuery {
    /// Of this model only.
    model: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
}

/// Lists experiments.
#[utoipa::path(get, path = "/experiments", tag = "experiments", params(ExperimentQuery), responses((status = 200, body = Experiments), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(State(state): State<ApiState>, Params(query): Params<ExperimentQuery>) -> Result<Json<Experiments>, ApiError> {
    let (page, model) = (Page::new(query.limit, query.after), query.model.unwrap_or_default());
    let mut all = rows::list(&mut *state.db.reader().await?, &model, page.after(), page.fetch()?).await?;
    let next = page.cut(&mut all, |it| it.id.clone())?;
    Ok(Json(Experiments { experiments: all.into_iter().map(Into::into).collect(), next }))
}

/// Creates a draft. One that cannot reach a verdict in time is refused unless `force` is set.
#[utoipa::path(post, path = "/experiments", tag = "experiments", request_body = NewExperiment, responses((status = 201, body = ExperimentView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    who: Who,
    Body(new): Body<NewExperiment>,
) -> Result<(StatusCode, Json<ExperimentView>), ApiError> {
    let wish = new.wish(&state)?;
    let mut change = state.change(who.actor()).await?;
    let it = create::create(&mut change, wish, state.clock.now_ns()).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(it.into())))
}

/// Says what an experiment would need, and creates nothing.
#[utoipa::path(post, path = "/experiments/validate", tag = "experiments", request_body = NewExperiment, responses((status = 200, body = Object), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn validate(State(state): State<ApiState>, Body(new): Body<NewExperiment>) -> Result<Json<Value>, ApiError> {
    let wish = new.wish(&state)?;
    let checked = create::check(&mut *state.db.begin_read().await?, &wish, state.clock.now_ns()).await?;
    Ok(Json(json!(checked.plan)))
}

/// An experiment.
#[utoipa::path(get, path = "/experiments/{id}", tag = "experiments", params(("id" = String, Path)), responses((status = 200, body = ExperimentView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn get(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<ExperimentView>, ApiError> {
    Ok(Json(rules::find(&mut *state.db.reader().await?, &id).await?.into()))
}
