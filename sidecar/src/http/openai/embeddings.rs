//! `POST /v1/embeddings`. Enters: OpenAI's request. Leaves: OpenAI's answer. Never: a text refused for its length, as our own default has
//! it; ids over the limit are refused, as OpenAI does.

use std::time::Instant;

use akidb_domain::vocabulary::Purpose;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{OpenAiError, OpenAiErrorBody};
use crate::http::body::JsonBody;
use crate::http::caller::Caller;
use crate::http::error::ApiError;
use crate::http::pipeline::{self, Answer};
use crate::http::question::{Inputs, Question};
use crate::http::vectors::{self, EncodingFormat, Vector};
use crate::http::{AppState, headers};

/// OpenAI's request.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingsRequest {
    /// What to embed, 1 to 1,024 texts.
    input: Inputs,
    /// `name`, `name@alias` or `name@variant`.
    model: String,
    /// `float` or `base64`.
    encoding_format: Option<EncodingFormat>,
    /// Numbers to keep of a vector, 1 to the model's own; it is renormalised.
    dimensions: Option<usize>,
    /// The sticky unit of an experiment where `x-akidb-key` is not given.
    user: Option<String>,
}

/// OpenAI's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingsResponse {
    /// `list`
    object: &'static str,
    /// In the order of the input.
    data: Vec<Embedding>,
    /// Model that served.
    model: String,
    /// Counts.
    usage: EmbeddingsUsage,
}

/// One vector.
#[derive(Debug, Serialize, ToSchema)]
struct Embedding {
    /// `embedding`
    object: &'static str,
    /// Place in the input.
    index: usize,
    /// The vector.
    #[serde(rename = "embedding")]
    vector: Vector,
}

/// Counts of a request.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingsUsage {
    /// Tokens, special tokens included.
    prompt_tokens: u64,
    /// The same.
    total_tokens: u64,
}

/// Embeds texts or token ids, as OpenAI's API does.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", request_body = EmbeddingsRequest, responses(
    (status = 200, body = EmbeddingsResponse),
    (status = 400, body = OpenAiErrorBody, description = "Not JSON, no `model` or `input`, or a field of the wrong type"),
    (status = 404, body = OpenAiErrorBody, description = "Unknown model or variant"),
    (status = 413, body = OpenAiErrorBody, description = "Body too large"),
    (status = 415, body = OpenAiErrorBody, description = "Not JSON by its content-type"),
    (status = 422, body = OpenAiErrorBody, description = "Empty, too many, or token ids that are too many or outside the vocabulary"),
    (status = 429, body = OpenAiErrorBody, description = "The queue is full; see retry-after"),
    (status = 500, body = OpenAiErrorBody, description = "The engine failed"),
    (status = 503, body = OpenAiErrorBody, description = "Not ready; see retry-after"),
    (status = 504, body = OpenAiErrorBody, description = "Past the deadline"),
))]
pub(crate) async fn embeddings(
    State(state): State<AppState>,
    caller: Result<Caller, ApiError>,
    body: Result<JsonBody<EmbeddingsRequest>, ApiError>,
) -> Result<Response, OpenAiError> {
    let (mut caller, JsonBody(body)) = (caller?, body?);
    caller.sticky = caller.sticky.or(body.user.map(String::into_bytes));
    let question = Question {
        model: Some(body.model),
        input: body.input.into(),
        normalize: true,
        dimensions: body.dimensions,
        truncate: true,
        prompt: None,
        purpose: caller.purpose.unwrap_or(Purpose::Query),
        timeout: state.limits.deadline,
        arrived: Instant::now(),
    };
    let answer = pipeline::embed(&state, question, caller).await?;
    Ok(respond(answer, body.encoding_format.unwrap_or_default()))
}

fn respond(answer: Answer, format: EncodingFormat) -> Response {
    let headers = headers::of(&answer);
    let bytes = format.bytes(&answer.vectors);
    let vectors = answer.vectors.into_iter().map(|it| Vector::new(it, format));
    let data = vectors.enumerate().map(|(index, vector)| Embedding { object: "embedding", index, vector }).collect();
    let usage = EmbeddingsUsage { prompt_tokens: answer.tokens, total_tokens: answer.tokens };
    let body = EmbeddingsResponse { object: "list", data, model: answer.loaded.model.clone(), usage };
    vectors::answer(headers, &body, bytes)
}
