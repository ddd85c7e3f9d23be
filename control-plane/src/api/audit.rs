//! The audit log. Enters: a cursor. Leaves: rows, and whether the chain holds. Never: a change.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::Params;
use super::page::Page;
use super::view;
use crate::clock::rfc3339_ms;
use crate::db::audit::{self, AuditRow};

/// One change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditView {
    sequence: i64,
    at: String,
    /// `token:<id>`, `cli` or `system`.
    actor: String,
    action: String,
    subject: String,
    #[schema(value_type = Object)]
    detail: Value,
    previous_hash: String,
    hash: String,
}

impl From<AuditRow> for AuditView {
    fn from(it: AuditRow) -> Self {
        Self {
            sequence: it.sequence,
            at: rfc3339_ms(it.at),
            actor: it.actor,
            action: it.action,
            subject: it.subject,
            detail: view::json(&it.detail),
            previous_hash: it.previous_hash,
            hash: it.hash,
        }
    }
}

/// A page of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Audit {
    audit: Vec<AuditView>,
    next: Option<String>,
}

/// Whether the chain holds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verified {
    valid: bool,
    /// Rows that fit.
    rows: i64,
    /// The first that does not.
    broken_at: Option<i64>,
}

/// Lists changes, oldest first.
#[utoipa::path(get, path = "/audit", tag = "access", params(Page), responses((status = 200, body = Audit), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(State(state): State<ApiState>, Params(page): Params<Page>) -> Result<Json<Audit>, ApiError> {
    let mut rows = audit::list(&mut *state.db.reader().await?, page.after_number()?, page.fetch()?).await?;
    let next = page.cut(&mut rows, |it| it.sequence.to_string())?;
    Ok(Json(Audit { audit: rows.into_iter().map(Into::into).collect(), next }))
}

/// Recomputes the hash chain.
#[utoipa::path(get, path = "/audit/verify", tag = "access", responses((status = 200, body = Verified), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn verify(State(state): State<ApiState>) -> Result<Json<Verified>, ApiError> {
    let (broken_at, rows) = audit::verify(&mut *state.db.begin_read().await?).await?;
    Ok(Json(Verified { valid: broken_at.is_none(), rows, broken_at }))
}
