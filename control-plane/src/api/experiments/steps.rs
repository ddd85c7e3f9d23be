//! What people do to an experiment. Enters: an id, and the revision its caller saw if that matters. Leaves: the experiment as it is then. Never:
//! a step over a change that the caller did not see, where it says which one it saw.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use utoipa::IntoParams;

use super::ExperimentView;
use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::{Params, Who};
use crate::change::Change;
use crate::db::experiments::Experiment;
use crate::experiments as rules;
use crate::experiments::hand::{self, Step};

/// Why.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Why {
    /// Kept in the history and the audit log.
    #[serde(default)]
    reason: String,
}

/// How far.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct To {
    /// `next` (default) or `full`.
    to: Option<String>,
}

type Answer = Result<Json<ExperimentView>, ApiError>;

/// Begins to split the traffic.
#[utoipa::path(post, path = "/experiments/{id}/start", tag = "experiments", params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "the revision seen, in quotes")), responses((status = 200, body = ExperimentView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn start(State(state): State<ApiState>, who: Who, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let (mut change, mut it) = open(&state, &who, &id, &headers).await?;
    hand::start(&mut change, &mut it).await?;
    close(change, it).await
}

/// Keeps the share, and decides nothing until it is resumed.
#[utoipa::path(post, path = "/experiments/{id}/pause", tag = "experiments", params(("id" = String, Path), Why, ("If-Match" = Option<String>, Header)), responses((status = 200, body = ExperimentView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn pause(
    State(state): State<ApiState>,
    who: Who,
    Path(id): Path<String>,
    Params(why): Params<Why>,
    headers: HeaderMap,
) -> Answer {
    let (mut change, mut it) = open(&state, &who, &id, &headers).await?;
    hand::pause(&mut change, &mut it, short(&why.reason)?).await?;
    close(change, it).await
}

/// Decides again, from now on.
#[utoipa::path(post, path = "/experiments/{id}/resume", tag = "experiments", params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 200, body = ExperimentView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn resume(State(state): State<ApiState>, who: Who, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let (mut change, mut it) = open(&state, &who, &id, &headers).await?;
    hand::resume(&mut change, &mut it).await?;
    close(change, it).await
}

/// Ends it: all traffic is the baseline's.
#[utoipa::path(post, path = "/experiments/{id}/abort", tag = "experiments", params(("id" = String, Path), Why, ("If-Match" = Option<String>, Header)), responses((status = 200, body = ExperimentView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn abort(
    State(state): State<ApiState>,
    who: Who,
    Path(id): Path<String>,
    Params(why): Params<Why>,
    headers: HeaderMap,
) -> Answer {
    let (mut change, mut it) = open(&state, &who, &id, &headers).await?;
    hand::abort(&mut change, &mut it, short(&why.reason)?).await?;
    close(change, it).await
}

/// Grows the share without proof: to the next phase, or to 100 %.
#[utoipa::path(post, path = "/experiments/{id}/promote", tag = "experiments", params(("id" = String, Path), To, ("If-Match" = Option<String>, Header)), responses((status = 200, body = ExperimentView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn promote(
    State(state): State<ApiState>,
    who: Who,
    Path(id): Path<String>,
    Params(to): Params<To>,
    headers: HeaderMap,
) -> Answer {
    let step = match to.to.as_deref() {
        None | Some("next") => Step::Next,
        Some("full") => Step::Full,
        Some(other) => return Err(ApiError::Invalid(format!("`to` is `{other}`: write `next` or `full`"))),
    };
    let (mut change, mut it) = open(&state, &who, &id, &headers).await?;
    hand::promote(&mut change, &mut it, step).await?;
    close(change, it).await
}

async fn open(state: &ApiState, who: &Who, id: &str, headers: &HeaderMap) -> Result<(Change, Experiment), ApiError> {
    let seen = headers.get(header::IF_MATCH).map(|it| it.to_str().unwrap_or_default().trim().to_owned());
    let mut change = state.change(who.actor()).await?;
    let it = rules::find(change.conn(), id).await?;
    match seen {
        Some(seen) if seen != format!("\"{}\"", it.revision) => {
            Err(ApiError::Stale(format!("experiment `{id}` is at revision {}, not {seen}: look at it again", it.revision)))
        }
        _ => Ok((change, it)),
    }
}

async fn close(change: Change, it: Experiment) -> Answer {
    change.commit().await?;
    Ok(Json(it.into()))
}

fn short(reason: &str) -> Result<&str, ApiError> {
    if reason.len() <= 1_024 {
        Ok(reason)
    } else {
        Err(ApiError::Invalid(format!("`reason`: {} bytes; at most 1024 are allowed", reason.len())))
    }
}
