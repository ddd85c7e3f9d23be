//! Errors in OpenAI's shape. Enters: an error. Leaves: the same status as on our own routes, with OpenAI's body. Never: a cause of a 5xx.

use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::ApiError;

/// An error on an OpenAI route.
#[derive(Debug)]
pub(crate) struct OpenAiError(pub(crate) ApiError);

/// The body of every error on an OpenAI route.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiErrorBody {
    /// What went wrong.
    error: OpenAiErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
struct OpenAiErrorDetail {
    /// For people.
    message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    r#type: &'static str,
    /// The field at fault, where that is known.
    param: Option<&'static str>,
    /// One of a closed set, for programs.
    code: &'static str,
}

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let (r#type, param, code) = words(&error);
        let detail = OpenAiErrorDetail { message: error.to_string(), r#type, param, code };
        error.answer(error.status(), OpenAiErrorBody { error: detail })
    }
}

/// `type`, `param` and `code`: OpenAI's own code where it has one, else ours.
fn words(error: &ApiError) -> (&'static str, Option<&'static str>, &'static str) {
    const REQUEST: &str = "invalid_request_error";
    match error {
        ApiError::UnknownModel(_) | ApiError::UnknownVariant(_) => (REQUEST, Some("model"), "model_not_found"),
        ApiError::Empty(_) => (REQUEST, Some("input"), error.code()),
        ApiError::Malformed(_)
        | ApiError::Invalid(_)
        | ApiError::NotFound { .. }
        | ApiError::MethodNotAllowed { .. }
        | ApiError::UnsupportedMediaType { .. }
        | ApiError::BodyTooLarge { .. } => (REQUEST, None, error.code()),
        ApiError::QueueFull { .. } => ("rate_limit_error", None, "rate_limit_exceeded"),
        ApiError::NotReady(_)
        | ApiError::Deadline
        | ApiError::EngineFailed
        | ApiError::TokenizerFailed { .. }
        | ApiError::Internal { .. } => ("server_error", None, error.code()),
    }
}
