//! A JSON body within its limit.
//!
//! Enters: a request. Leaves: its value, or an error that says what is wrong. Never: more of a body in memory than the limit; what is over
//! it is read and thrown away for a while, so that a client that is still sending sees the answer.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::{AppState, Limits};

/// The body, read as JSON.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let body = json(request, state.limits).await;
        // The request never got as far as a variant.
        body.map(Self).inspect_err(|error| state.metrics.error_without_variant(error.code()))
    }
}

async fn json<T: DeserializeOwned>(request: Request, limits: Limits) -> Result<T, ApiError> {
    let media_type = check_media_type(request.headers());
    let bytes = tokio::time::timeout(limits.deadline, read(request.into_body(), limits)).await;
    let bytes = bytes.unwrap_or_else(|_| Err(ApiError::Malformed("the body did not arrive in time".into())))?;
    media_type?;
    serde_json::from_slice(&bytes).map_err(|it| ApiError::Malformed(format!("the body is not the JSON expected: {it}")))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let found = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(ApiError::UnsupportedMediaType { found: found.chars().take(100).collect() })
}

async fn read(body: Body, limits: Limits) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let (mut kept, mut seen) = (BytesMut::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|it| ApiError::Malformed(format!("the body broke off: {it}")))?;
        seen += chunk.len();
        if seen > limits.drain_bytes {
            break;
        }
        if seen <= limits.body_bytes {
            kept.extend_from_slice(&chunk);
        } else {
            kept = BytesMut::new();
        }
    }
    if seen > limits.body_bytes { Err(ApiError::BodyTooLarge { limit: limits.body_bytes }) } else { Ok(kept.freeze()) }
}
