//! Errors in TEI's shape. Enters: an error. Leaves: TEI's body with TEI's status for it. Never: a cause of a failure inside.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::ApiError;

/// An error on a TEI route.
#[derive(Debug)]
pub(crate) struct TeiError(pub(crate) ApiError);

/// The body of every error on a TEI route.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiErrorBody {
    /// For people.
    error: String,
    /// For programs.
    error_type: ErrorType,
}

/// TEI's words.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
enum ErrorType {
    /// Nothing to embed.
    Empty,
    /// A request that cannot be answered.
    Validation,
    /// A text that cannot be tokenized.
    Tokenizer,
    /// Too many requests.
    Overloaded,
    /// Inference failed, or took too long.
    Backend,
    /// Not ready.
    Unhealthy,
}

impl From<ApiError> for TeiError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for TeiError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let (status, error_type) = words(&error);
        error.answer(status, TeiErrorBody { error: error.to_string(), error_type })
    }
}

/// TEI's status and word for an error; our own status where TEI has no such case.
fn words(error: &ApiError) -> (StatusCode, ErrorType) {
    match error {
        ApiError::Empty(_) => (StatusCode::BAD_REQUEST, ErrorType::Empty),
        ApiError::Invalid(_) | ApiError::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, ErrorType::Validation),
        ApiError::TokenizerFailed { .. } => (StatusCode::UNPROCESSABLE_ENTITY, ErrorType::Tokenizer),
        ApiError::QueueFull { .. } => (StatusCode::TOO_MANY_REQUESTS, ErrorType::Overloaded),
        ApiError::EngineFailed => (StatusCode::FAILED_DEPENDENCY, ErrorType::Backend),
        ApiError::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorType::Unhealthy),
        ApiError::Malformed(_)
        | ApiError::NotFound { .. }
        | ApiError::MethodNotAllowed { .. }
        | ApiError::UnsupportedMediaType { .. }
        | ApiError::UnknownModel(_)
        | ApiError::UnknownVariant(_) => (error.status(), ErrorType::Validation),
        ApiError::Deadline | ApiError::Internal { .. } => (error.status(), ErrorType::Backend),
    }
}
