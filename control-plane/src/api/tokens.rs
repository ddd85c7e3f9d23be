//! Tokens. Enters: names and roles. Leaves: a token's text, once. Never: a secret twice, or the last admin's token revoked.

use akidb_domain::vocabulary::Role;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Who};
use super::page::Page;
use crate::access::{self, NewToken as Minted};
use crate::clock::rfc3339_ms;
use crate::db::tokens::{self, TokenRow};

/// A new token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    name: String,
    /// `admin`, `viewer` or `sidecar`.
    #[schema(value_type = String)]
    role: Role,
    /// Only sidecars of this namespace; empty: any.
    #[serde(default)]
    namespace: String,
    /// Only sidecars of this app; empty: any.
    #[serde(default)]
    app: String,
}

/// A token without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenView {
    id: String,
    name: String,
    role: String,
    namespace: String,
    app: String,
    created_at: String,
    revoked_at: Option<String>,
}

impl From<TokenRow> for TokenView {
    fn from(it: TokenRow) -> Self {
        Self {
            id: it.id,
            name: it.name,
            role: it.role,
            namespace: it.namespace,
            app: it.app,
            created_at: rfc3339_ms(it.created_at),
            revoked_at: it.revoked_at.map(rfc3339_ms),
        }
    }
}

/// A new token with its text, shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct Created {
    #[serde(flatten)]
    row: TokenView,
    token: String,
}

/// A page of tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokens {
    tokens: Vec<TokenView>,
    next: Option<String>,
}

/// Lists tokens.
#[utoipa::path(get, path = "/tokens", tag = "access", params(Page), responses((status = 200, body = Tokens), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(State(state): State<ApiState>, Params(page): Params<Page>) -> Result<Json<Tokens>, ApiError> {
    let mut rows = tokens::list(&mut *state.db.reader().await?, page.after(), page.fetch()?).await?;
    let next = page.cut(&mut rows, |it| it.id.clone())?;
    Ok(Json(Tokens { tokens: rows.into_iter().map(Into::into).collect(), next }))
}

/// Creates a token.
#[utoipa::path(post, path = "/tokens", tag = "access", request_body = NewToken, responses((status = 201, body = Created), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    who: Who,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    for (field, text, least) in [("name", &new.name, 1), ("namespace", &new.namespace, 0), ("app", &new.app, 0)] {
        if !(least..=256).contains(&text.len()) {
            return Err(ApiError::Invalid(format!("`{field}` must have {least}-256 bytes")));
        }
    }
    if new.role != Role::Sidecar && !(new.namespace.is_empty() && new.app.is_empty()) {
        return Err(ApiError::Invalid("`namespace` and `app` bind a token of role `sidecar` only".to_owned()));
    }
    let mut change = state.change(who.actor()).await?;
    let (row, token) = access::mint(Minted { name: new.name, role: new.role, namespace: new.namespace, app: new.app }, change.at);
    tokens::insert(change.conn(), &row).await?;
    let detail = serde_json::json!({"name": row.name, "role": row.role, "namespace": row.namespace, "app": row.app});
    change.audit("token.create", &format!("tokens/{}", row.id), detail).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(Created { row: row.into(), token })))
}

/// Revokes a token.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "access", params(("id" = String, Path)), responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn delete(State(state): State<ApiState>, who: Who, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let mut change = state.change(who.actor()).await?;
    let row = tokens::find(change.conn(), &id).await?.ok_or_else(|| ApiError::NotFound(format!("token `{id}` does not exist")))?;
    if row.revoked_at.is_some() {
        return Ok(StatusCode::NO_CONTENT);
    }
    if row.role == Role::Admin.as_str() && tokens::count_live_admins(change.conn()).await? == 1 {
        return Err(ApiError::Conflict(format!("token `{id}` is the last one of role `admin`: create another first")));
    }
    let at = change.at;
    tokens::revoke(change.conn(), &id, at).await?;
    change.audit("token.revoke", &format!("tokens/{id}"), serde_json::json!({})).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
