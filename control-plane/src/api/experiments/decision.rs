//! Verdicts and their records. Enters: ids. Leaves: the newest outcome, sealed records. Never: an outcome without what it rests on.

use akidb_domain::decision::Outcome;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{AppendHeaders, IntoResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::ExperimentView;
use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::Params;
use crate::clock::rfc3339_ms;
use crate::db::looks;
use crate::experiments as rules;

/// The newest verdict.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DecisionView {
    experiment: String,
    /// `draft`, `running`, `paused`, `promoted`, `rolled-back` or `aborted`.
    state: &'static str,
    share_ppm: u32,
    /// Why, in words: of the verdict, of the end, or what the next look waits for.
    reason: String,
    /// `ROLLOUT: canary P95 8ms vs baseline 26ms (69% improvement); error rate 0.02% vs 0.02%`; null before the first look.
    sentence: Option<String>,
    /// Everything that was said after the newest look: verdict, evidence of each test, latencies with intervals; null before the first.
    #[schema(value_type = Object)]
    outcome: Option<Outcome>,
    /// Parts of the record, oldest first.
    #[schema(value_type = Vec<Object>)]
    records: Vec<Value>,
}

/// The newest verdict, with its evidence.
#[utoipa::path(get, path = "/experiments/{id}/decision", tag = "experiments", params(("id" = String, Path)), responses((status = 200, body = DecisionView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn decision(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<DecisionView>, ApiError> {
    let mut tx = state.db.begin_read().await?;
    let it = rules::find(&mut tx, &id).await?;
    let parts = looks::parts(&mut tx, &id).await?;
    let part = |it: &looks::PartRow| {
        let sha256 = (!it.sha256.is_empty()).then_some(&it.sha256);
        json!({"part": it.part, "sha256": sha256, "opened_at": rfc3339_ms(it.opened_at), "closed_at": it.closed_at.map(rfc3339_ms)})
    };
    let (reason, outcome) = (it.reason.clone(), it.outcome.clone());
    let ExperimentView { id, state, share_ppm, .. } = it.into();
    let sentence = outcome.as_ref().map(|it| it.sentence.clone());
    Ok(Json(DecisionView { experiment: id, state, share_ppm, reason, sentence, outcome, records: parts.iter().map(part).collect() }))
}

/// Which part.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PartQuery {
    /// From 1; default: the newest.
    part: Option<i64>,
}

/// A sealed decision record, for `akidb-control-plane replay`. A part is one stage; the newest is sealed as it stands.
#[utoipa::path(get, path = "/experiments/{id}/decision/record", tag = "experiments", params(("id" = String, Path), PartQuery), responses((status = 200, body = Object), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn record(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    Params(query): Params<PartQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let mut tx = state.db.begin_read().await?;
    let it = rules::find(&mut tx, &id).await?;
    let part = query.part.unwrap_or(it.progress.part);
    let text = rules::record::text(&mut tx, &it, part).await?;
    Ok((AppendHeaders([(header::CONTENT_TYPE, "application/json")]), text))
}
