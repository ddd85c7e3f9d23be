//! Every error an API client can meet, with its status, code and body on our own routes; [`super::openai`] and [`super::tei`] have shapes of
//! their own for the same errors.
//!
//! Enters: errors of the stages. Leaves: responses. Never: a cause of a 5xx in a body; it is logged here, once.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::batcher::BatchError;
use crate::router::RouteError;
use crate::tokenizer::TokenizeError;

/// When a client should ask again for a model that is not ready.
const NOT_READY_RETRY: Duration = Duration::from_secs(5);

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Invalid(String),
    /// No text, or one without tokens; TEI has a word of its own for it.
    #[error("{0}")]
    Empty(String),
    #[error("there is no `{path}` here; GET /api/openapi.json lists what there is")]
    NotFound { path: String },
    #[error("{method} is not allowed here")]
    MethodNotAllowed { method: String },
    #[error("`content-type` must be `application/json`, not `{found}`")]
    UnsupportedMediaType { found: String },
    #[error("the body is over {limit} bytes; send fewer texts a request")]
    BodyTooLarge { limit: usize },
    #[error("{0}")]
    UnknownModel(String),
    #[error("{0}")]
    UnknownVariant(String),
    #[error("{0}")]
    NotReady(String),
    #[error("the queue is full; try again in {} s", seconds(*retry_after))]
    QueueFull { retry_after: Duration },
    #[error("the deadline has passed")]
    Deadline,
    #[error("the engine failed; the sidecar's log says why")]
    EngineFailed,
    #[error("the tokenizer failed; the sidecar's log says why")]
    TokenizerFailed { cause: String },
    #[error("an error inside the sidecar; its log says why")]
    Internal { cause: String },
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// What went wrong.
    error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// One of a closed set, for programs.
    code: &'static str,
    /// For people.
    message: String,
    /// Whether the same request may succeed later.
    retryable: bool,
}

impl ApiError {
    /// Its word in bodies, metrics and telemetry.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Invalid(_) | Self::Empty(_) => "invalid",
            Self::NotFound { .. } => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::UnsupportedMediaType { .. } => "unsupported_media_type",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::UnknownModel(_) => "unknown_model",
            Self::UnknownVariant(_) => "unknown_variant",
            Self::NotReady(_) => "not_ready",
            Self::QueueFull { .. } => "queue_full",
            Self::Deadline => "deadline",
            Self::EngineFailed => "engine_failed",
            Self::TokenizerFailed { .. } | Self::Internal { .. } => "internal",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) | Self::Empty(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotFound { .. } | Self::UnknownModel(_) | Self::UnknownVariant(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::EngineFailed | Self::TokenizerFailed { .. } | Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull { retry_after } => Some(*retry_after),
            Self::NotReady(_) => Some(NOT_READY_RETRY),
            _ => None,
        }
    }

    /// The response of a dialect, with what all dialects share: the cause in the log, and when to come back.
    pub(super) fn answer(&self, status: StatusCode, body: impl Serialize) -> Response {
        if let Self::TokenizerFailed { cause } | Self::Internal { cause } = self {
            tracing::error!(cause, "a request failed");
        }
        let mut response = (status, Json(body)).into_response();
        if let Some(wait) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds(wait)));
        }
        response
    }

    fn retryable(&self) -> bool {
        use ApiError::{Deadline, EngineFailed, Internal, NotReady, QueueFull, TokenizerFailed};
        matches!(self, QueueFull { .. } | NotReady(_) | Deadline | EngineFailed | TokenizerFailed { .. } | Internal { .. })
    }
}

/// Whole seconds, at least one.
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs_f64().ceil() as u64).max(1)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = ErrorDetail { code: self.code(), message: self.to_string(), retryable: self.retryable() };
        self.answer(self.status(), ErrorBody { error })
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        let message = error.to_string();
        match error {
            RouteError::UnknownModel { .. } => Self::UnknownModel(message),
            RouteError::UnknownVariant { .. } | RouteError::NotForHere { .. } => Self::UnknownVariant(message),
            RouteError::NotReady { .. } | RouteError::NoModel => Self::NotReady(message),
        }
    }
}

impl From<TokenizeError> for ApiError {
    fn from(error: TokenizeError) -> Self {
        match error {
            TokenizeError::TooLong { .. } => Self::Invalid(error.to_string()),
            TokenizeError::Failed(cause) => Self::TokenizerFailed { cause },
        }
    }
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::QueueFull { retry_after } => Self::QueueFull { retry_after },
            BatchError::Deadline => Self::Deadline,
            // The executor logged the cause.
            BatchError::Engine(_) => Self::EngineFailed,
            BatchError::Gone => Self::NotReady("the model was replaced meanwhile".into()),
            BatchError::Closed => Self::NotReady("this sidecar is shutting down".into()),
        }
    }
}
