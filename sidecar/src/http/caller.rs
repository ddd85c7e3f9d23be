//! Who asks, from the request's headers.
//!
//! Enters: headers. Leaves: checked values. Never: a header over 128 bytes, which would grow the ledger.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use akidb_domain::vocabulary::Purpose;

use super::AppState;
use super::error::ApiError;
use crate::telemetry::Consumer;
use crate::traces::{RequestTrace, Traces};

/// Most bytes of `x-akidb-app` and `x-akidb-tenant`.
const MAX_NAME: usize = 128;

/// Who asks, and for what.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) consumer: Consumer,
    /// `x-akidb-key`.
    pub(super) sticky: Option<Vec<u8>>,
    /// `x-akidb-purpose`.
    pub(super) purpose: Option<Purpose>,
    /// The request's span, under that of `traceparent`.
    pub(super) trace: Option<RequestTrace>,
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        read(&parts.headers, &state.traces).inspect_err(|error| state.metrics.error_without_variant(error.code()))
    }
}

fn read(headers: &HeaderMap, traces: &Traces) -> Result<Caller, ApiError> {
    let app = text(headers, "x-akidb-app")?.unwrap_or_default().to_owned();
    let tenant = text(headers, "x-akidb-tenant")?.unwrap_or_default().to_owned();
    let purpose = text(headers, "x-akidb-purpose")?.map(str::parse).transpose();
    Ok(Caller {
        trace: traces.request(headers),
        consumer: Consumer { app, tenant },
        sticky: headers.get("x-akidb-key").map(|it| it.as_bytes().to_vec()),
        purpose: purpose.map_err(|it| ApiError::Invalid(format!("header `x-akidb-purpose`: {it}")))?,
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if text.len() <= MAX_NAME => Ok(Some(text)),
        _ => Err(ApiError::Invalid(format!("header `{name}` must be at most {MAX_NAME} bytes of visible ASCII"))),
    }
}
