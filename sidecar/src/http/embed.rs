//! `POST /api/v1/embed`. Enters: JSON. Leaves: JSON. Never: a decision; the pipeline makes them.

use std::time::{Duration, Instant};

use akidb_domain::vocabulary::Purpose;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::body::JsonBody;
use super::caller::Caller;
use super::error::{ApiError, ErrorBody};
use super::headers;
use super::pipeline::{self, Answer};
use super::question::{Input, Question};
use super::vectors::{self, EncodingFormat, Vector};

/// Longest `timeout_ms`.
const MAX_TIMEOUT_MS: u64 = 300_000;

/// What to embed, and how.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbedRequest {
    /// One text; or `texts`.
    text: Option<String>,
    /// Up to 1,024 texts; or `text`.
    texts: Option<Vec<String>>,
    /// `name`, `name@alias` or `name@variant`; the sidecar's default without it.
    model: Option<String>,
    /// L2 normalisation; false is refused for a graph that normalises.
    #[serde(default = "yes")]
    normalize: bool,
    /// Numbers to keep of a vector, 1 to the model's own; it is renormalised.
    dimensions: Option<usize>,
    /// false: a text over the model's limit is an error.
    #[serde(default = "yes")]
    truncate: bool,
    /// `float` or `base64`.
    #[serde(default)]
    encoding_format: EncodingFormat,
    /// A prompt of the model's bundle, put before each text.
    prompt_name: Option<String>,
    /// `query` or `index`; beats the header.
    #[schema(value_type = Option<String>)]
    purpose: Option<Purpose>,
    /// Deadline, 1 to 300,000.
    timeout_ms: Option<u64>,
}

fn yes() -> bool {
    true
}

/// Embeddings and what served them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbedResponse {
    /// Model.
    model: String,
    /// Variant that served it.
    variant: String,
    /// Its number format.
    precision: &'static str,
    /// Numbers in a vector.
    dimension: usize,
    /// Only vectors with the same id may be compared.
    embedding_space: String,
    /// For `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vector>,
    /// For `texts`, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings: Option<Vec<Vector>>,
    /// Counts.
    usage: Usage,
    /// Direct cost of this request, decimal USD; null without a price.
    cost: Option<String>,
}

/// Counts of a request.
#[derive(Debug, Serialize, ToSchema)]
struct Usage {
    /// Tokens, special tokens included.
    tokens: u64,
    /// Texts cut at the model's limit.
    truncated: u64,
}

/// Embeds texts.
#[utoipa::path(post, path = "/api/v1/embed", request_body = EmbedRequest, responses(
    (status = 200, body = EmbedResponse),
    (status = 400, body = ErrorBody, description = "Not JSON, or a field of the wrong type"),
    (status = 404, body = ErrorBody, description = "Unknown model or variant"),
    (status = 413, body = ErrorBody, description = "Body too large"),
    (status = 415, body = ErrorBody, description = "Not JSON by its content-type"),
    (status = 422, body = ErrorBody, description = "Empty, too many or too long"),
    (status = 429, body = ErrorBody, description = "The queue is full; see retry-after"),
    (status = 500, body = ErrorBody, description = "The engine failed"),
    (status = 503, body = ErrorBody, description = "Not ready; see retry-after"),
    (status = 504, body = ErrorBody, description = "Past the deadline"),
))]
pub(super) async fn embed(
    State(state): State<AppState>,
    caller: Caller,
    JsonBody(body): JsonBody<EmbedRequest>,
) -> Result<Response, ApiError> {
    let (single, format) = (body.text.is_some(), body.encoding_format);
    let question = question(body, &caller, &state).inspect_err(|error| state.metrics.error_without_variant(error.code()))?;
    let answer = pipeline::embed(&state, question, caller).await?;
    Ok(respond(answer, single, format))
}

fn question(body: EmbedRequest, caller: &Caller, state: &AppState) -> Result<Question, ApiError> {
    let texts = match (body.text, body.texts) {
        (Some(text), None) => vec![text],
        (None, Some(texts)) => texts,
        (None, None) => return Err(ApiError::Invalid("`text` or `texts` is needed".into())),
        (Some(_), Some(_)) => return Err(ApiError::Invalid("`text` or `texts`, not both".into())),
    };
    if let Some(bad) = body.timeout_ms.filter(|it| !(1..=MAX_TIMEOUT_MS).contains(it)) {
        return Err(ApiError::Invalid(format!("`timeout_ms` is {bad}; it may be 1 to {MAX_TIMEOUT_MS}")));
    }
    Ok(Question {
        model: body.model,
        input: Input::Texts(texts),
        normalize: body.normalize,
        dimensions: body.dimensions,
        truncate: body.truncate,
        prompt: body.prompt_name,
        purpose: body.purpose.or(caller.purpose).unwrap_or(Purpose::Query),
        timeout: body.timeout_ms.map_or(state.limits.deadline, Duration::from_millis),
        arrived: Instant::now(),
    })
}

fn respond(answer: Answer, single: bool, format: EncodingFormat) -> Response {
    let headers = headers::of(&answer);
    let loaded = answer.loaded;
    let dimension = answer.vectors.first().map_or(0, Vec::len);
    let bytes = format.bytes(&answer.vectors);
    let mut vectors = answer.vectors.into_iter().map(|it| Vector::new(it, format));
    let (embedding, embeddings) = if single { (vectors.next(), None) } else { (None, Some(vectors.collect())) };
    let body = EmbedResponse {
        model: loaded.model.clone(),
        variant: loaded.variant.clone(),
        precision: loaded.precision.as_str(),
        dimension,
        embedding_space: loaded.embedding_space.clone(),
        embedding,
        embeddings,
        usage: Usage { tokens: answer.tokens, truncated: answer.truncated },
        cost: answer.cost,
    };
    vectors::answer(headers, &body, bytes)
}
