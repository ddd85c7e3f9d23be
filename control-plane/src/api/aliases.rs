//! Aliases. Enters: a move with the revision its caller saw. Leaves: an alias with its `ETag`. Never: a move without a precondition.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Who};
use super::view::AliasView;
use crate::catalog::aliases::{self as rules, Expected};
use crate::catalog::find;
use crate::db::aliases;

/// Where an alias is to point.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAlias {
    version: String,
    variant: String,
}

/// A model's aliases.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Aliases {
    aliases: Vec<AliasView>,
    next: Option<String>,
}

/// Lists a model's aliases.
#[utoipa::path(get, path = "/models/{model}/aliases", tag = "catalog", params(("model" = String, Path)), responses((status = 200, body = Aliases), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(State(state): State<ApiState>, Path(model): Path<String>) -> Result<Json<Aliases>, ApiError> {
    let mut conn = state.db.reader().await?;
    let model = find::model(&mut conn, &model).await?;
    let rows = aliases::list(&mut conn, model.id).await?;
    Ok(Json(Aliases { aliases: rows.into_iter().map(Into::into).collect(), next: None }))
}

/// An alias.
#[utoipa::path(get, path = "/models/{model}/aliases/{alias}", tag = "catalog", params(("model" = String, Path), ("alias" = String, Path)), responses((status = 200, body = AliasView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    Path((model, alias)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    let mut conn = state.db.reader().await?;
    let model = find::model(&mut conn, &model).await?;
    Ok(tagged(rules::find(&mut conn, &model, &alias).await?.into()))
}

/// Creates or moves an alias by compare-and-swap.
#[utoipa::path(put, path = "/models/{model}/aliases/{alias}", tag = "catalog", params(("model" = String, Path), ("alias" = String, Path), ("If-Match" = Option<String>, Header, description = "the revision seen, in quotes"), ("If-None-Match" = Option<String>, Header, description = "`*`: it is not there")), request_body = NewAlias, responses((status = 200, body = AliasView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn put(
    State(state): State<ApiState>,
    who: Who,
    Path((model, alias)): Path<(String, String)>,
    headers: HeaderMap,
    Body(new): Body<NewAlias>,
) -> Result<impl IntoResponse, ApiError> {
    let expected = expected(&headers)?.ok_or(ApiError::PreconditionRequired)?;
    let mut change = state.change(who.actor()).await?;
    let place = find::variant(change.conn(), &model, &new.version, &new.variant).await?;
    rules::put(&mut change, &place, &alias, expected).await?;
    let view = rules::find(change.conn(), &place.model, &alias).await?.into();
    change.commit().await?;
    Ok(tagged(view))
}

/// Deletes an alias; `If-Match` is honoured.
#[utoipa::path(delete, path = "/models/{model}/aliases/{alias}", tag = "catalog", params(("model" = String, Path), ("alias" = String, Path), ("If-Match" = Option<String>, Header)), responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    who: Who,
    Path((model, alias)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let expected = expected(&headers)?.unwrap_or(Expected::Any);
    let mut change = state.change(who.actor()).await?;
    let model = find::model(change.conn(), &model).await?;
    rules::delete(&mut change, &model, &alias, expected).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn tagged(view: AliasView) -> impl IntoResponse {
    (AppendHeaders([(header::ETAG, format!("\"{}\"", view.revision))]), Json(view))
}

/// What `If-Match` or `If-None-Match` say.
fn expected(headers: &HeaderMap) -> Result<Option<Expected>, ApiError> {
    let text = |name| headers.get(name).map(|it| it.to_str().unwrap_or_default().trim());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (None, Some("*")) => Ok(Some(Expected::Absent)),
        (Some(tag), None) => {
            let revision = tag.strip_prefix('"').and_then(|it| it.strip_suffix('"')).and_then(|it| it.parse().ok());
            revision
                .map(|it| Some(Expected::Revision(it)))
                .ok_or_else(|| ApiError::Malformed(format!("`If-Match: {tag}` is not a revision in quotes")))
        }
        _ => Err(ApiError::Malformed("send either `If-Match: \"<revision>\"` or `If-None-Match: *`".to_owned())),
    }
}
