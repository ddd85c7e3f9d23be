//! Every failure's status and body. Enters: errors of the rooms below. Leaves: `{"error": {"code", "message", "retryable"}}`. Never: the cause of
//! a 5xx; that is logged, here, once.

use std::any::Any;

use akidb_store::StoreError;
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::AccessError;
use crate::blobs::BlobError;
use crate::catalog::CatalogError;
use crate::db;
use crate::import::ImportError;

/// What a caller is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Unauthenticated(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error("this route does not take this method: see /api/openapi.json")]
    MethodNotAllowed,
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Stale(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Invalid(String),
    #[error("send `If-Match: \"<revision>\"`, or `If-None-Match: *` for an alias that is not there yet")]
    PreconditionRequired,
    #[error("{0}")]
    TooMany(String),
    /// No room for an artifact.
    #[error("{0}")]
    StorageFull(String),
    /// The artifact store does not let the control plane in.
    #[error("{0}")]
    StoreRefused(String),
    /// The text is for the log.
    #[error("{0}")]
    Internal(String),
    #[error("the database does not answer")]
    NotReady,
}

/// An error body.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorDetail {
    /// `malformed`, `not_found`, `conflict`, ...
    code: &'static str,
    /// The thing, the value and the way out.
    message: String,
    /// Whether the same call may succeed later.
    retryable: bool,
}

impl ApiError {
    fn parts(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Stale(_) => (StatusCode::PRECONDITION_FAILED, "stale"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Self::PreconditionRequired => (StatusCode::PRECONDITION_REQUIRED, "precondition_required"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Self::StorageFull(_) => (StatusCode::INSUFFICIENT_STORAGE, "storage_full"),
            Self::StoreRefused(_) => (StatusCode::BAD_GATEWAY, "store_refused"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.parts();
        let message = match &self {
            Self::Internal(cause) => {
                tracing::error!(cause, "a request failed");
                "something failed inside; the cause is in the log".to_owned()
            }
            other => other.to_string(),
        };
        let retryable = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        let body = Json(ErrorBody { error: ErrorDetail { code, message, retryable } });
        match status {
            StatusCode::TOO_MANY_REQUESTS => (status, [(header::RETRY_AFTER, "1")], body).into_response(),
            StatusCode::UNAUTHORIZED => (status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}

impl From<db::Error> for ApiError {
    fn from(error: db::Error) -> Self {
        Self::Internal(format!("database: {error}"))
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NotFound(it) => Self::NotFound(it),
            CatalogError::Conflict(it) => Self::Conflict(it),
            CatalogError::Stale(it) => Self::Stale(it),
            CatalogError::Invalid(it) => Self::Invalid(it),
            CatalogError::Db(it) => it.into(),
        }
    }
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Unauthenticated => Self::Unauthenticated(error.to_string()),
            AccessError::TooMany => Self::TooMany(error.to_string()),
            AccessError::Db(it) => it.into(),
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Mismatch { .. } | BlobError::Size { .. } => Self::Invalid(error.to_string()),
            BlobError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            BlobError::Store(StoreError::NoSpace { .. }) => Self::StorageFull(error.to_string()),
            BlobError::Store(StoreError::Denied { .. }) => Self::StoreRefused(error.to_string()),
            BlobError::Disk { error: ref cause, .. } if is_full(cause) => Self::StorageFull(error.to_string()),
            BlobError::Store(_) | BlobError::Disk { .. } => Self::Internal(error.to_string()),
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Manifest(it) => Self::Invalid(it),
            ImportError::Blob(it) => it.into(),
            ImportError::Catalog(it) => it.into(),
            ImportError::Busy => Self::TooMany(error.to_string()),
        }
    }
}

/// What a panic in a handler answers; the panic hook has logged it.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer asks for")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ApiError::Internal(format!("panic: {}", text.unwrap_or("no text"))).into_response()
}
