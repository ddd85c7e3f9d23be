//! Blobs: files by their digest, before a manifest names them. Enters: bytes. Leaves: whether they are there. Never: a file in memory.

use akidb_domain::bundle::is_sha256;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use futures::StreamExt;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::Who;

/// Bytes read of an upload that is there already.
const MOST_DRAINED: usize = 8 << 20;

/// Uploads a file; its digest is checked while it streams.
#[utoipa::path(put, path = "/blobs/{sha256}", tag = "imports", params(("sha256" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 201), (status = 200, description = "it was there"), (status = "4XX", body = ErrorBody), (status = 502, body = ErrorBody, description = "The artifact store refuses"), (status = 507, body = ErrorBody, description = "No space left")))]
pub(crate) async fn put(
    State(state): State<ApiState>,
    who: Who,
    Path(sha256): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    check(&sha256)?;
    if state.blobs.size(&sha256).await?.is_some() {
        drain(body).await;
        return Ok(StatusCode::OK);
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse().ok());
    let mut incoming = state.blobs.receive(&format!("blob {sha256}"), announced)?;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        incoming.write(&piece.map_err(|e| ApiError::Malformed(format!("the upload broke off: {e}")))?).await?;
    }
    state.blobs.keep(incoming, &sha256).await?;
    let mut change = state.change(who.actor()).await?;
    change.audit("blob.put", &format!("blobs/{sha256}"), serde_json::json!({})).await?;
    change.commit().await?;
    Ok(StatusCode::CREATED)
}

/// Reads some of what nobody needs: a client that still writes when the connection closes does not see its answer.
async fn drain(body: Body) {
    let (mut left, mut pieces) = (MOST_DRAINED, body.into_data_stream());
    while let (Some(Ok(piece)), 1..) = (pieces.next().await, left) {
        left = left.saturating_sub(piece.len());
    }
}

/// Whether a file is there.
#[utoipa::path(head, path = "/blobs/{sha256}", tag = "imports", params(("sha256" = String, Path)), responses((status = 200), (status = "4XX")))]
pub(crate) async fn head(State(state): State<ApiState>, Path(sha256): Path<String>) -> Result<impl IntoResponse, ApiError> {
    check(&sha256)?;
    let size = state.blobs.size(&sha256).await?.ok_or_else(|| ApiError::NotFound(format!("blob {sha256} is not there")))?;
    Ok(AppendHeaders([(header::CONTENT_LENGTH, size.to_string())]))
}

fn check(sha256: &str) -> Result<(), ApiError> {
    if is_sha256(sha256) { Ok(()) } else { Err(ApiError::Invalid(format!("`{sha256}` is not 64 lower-case hex digits"))) }
}
