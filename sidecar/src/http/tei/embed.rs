//! `POST /embed`, and `POST /` for clients that are given a base address. Enters: TEI's request. Leaves: a list of vectors. Never: a text
//! cut that the client did not allow to be cut.

use std::time::Instant;

use akidb_domain::vocabulary::Purpose;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::{TeiError, TeiErrorBody};
use crate::http::body::JsonBody;
use crate::http::caller::Caller;
use crate::http::error::ApiError;
use crate::http::question::{Inputs, Question};
use crate::http::vectors::{self, EncodingFormat};
use crate::http::{AppState, headers, pipeline};

/// TEI's request.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TeiEmbedRequest {
    /// What to embed, 1 to 1,024 texts.
    inputs: Inputs,
    /// Default false: a text over the model's limit is an error.
    truncate: Option<bool>,
    /// Default true: L2 normalisation; false is refused for a graph that normalises.
    normalize: Option<bool>,
    /// A prompt of the model's bundle, put before each text.
    prompt_name: Option<String>,
    /// Numbers to keep of a vector, 1 to the model's own; it is renormalised.
    dimensions: Option<usize>,
    /// `right`, TEI's default; only where `truncate` is true does it matter.
    truncation_direction: Option<TruncationDirection>,
}

/// Which end of a text that is too long is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
enum TruncationDirection {
    /// The beginning; not supported.
    #[serde(alias = "left")]
    Left,
    /// The end.
    #[serde(alias = "right")]
    Right,
}

/// Embeds texts, as TEI does.
#[utoipa::path(post, path = "/embed", tag = "TEI", request_body = TeiEmbedRequest, responses(
    (status = 200, body = Vec<Vec<f32>>, description = "One vector a text, in order"),
    (status = 400, body = TeiErrorBody, description = "Nothing to embed, not JSON, or a field of the wrong type"),
    (status = 413, body = TeiErrorBody, description = "Too many texts, a text too long, an unknown prompt, or the body too large"),
    (status = 415, body = TeiErrorBody, description = "Not JSON by its content-type"),
    (status = 422, body = TeiErrorBody, description = "The tokenizer failed"),
    (status = 424, body = TeiErrorBody, description = "The engine failed"),
    (status = 429, body = TeiErrorBody, description = "The queue is full; see retry-after"),
    (status = 500, body = TeiErrorBody, description = "An error inside"),
    (status = 503, body = TeiErrorBody, description = "Not ready; see retry-after"),
    (status = 504, body = TeiErrorBody, description = "Past the deadline"),
))]
pub(crate) async fn embed(
    State(state): State<AppState>,
    caller: Result<Caller, ApiError>,
    body: Result<JsonBody<TeiEmbedRequest>, ApiError>,
) -> Result<Response, TeiError> {
    let (caller, JsonBody(body)) = (caller?, body?);
    let question = question(body, &caller, &state).inspect_err(|error| state.metrics.error_without_variant(error.code()))?;
    let answer = pipeline::embed(&state, question, caller).await?;
    let bytes = EncodingFormat::Float.bytes(&answer.vectors);
    Ok(vectors::answer(headers::of(&answer), &answer.vectors, bytes))
}

/// As `/embed`.
#[utoipa::path(post, path = "/", tag = "TEI", request_body = TeiEmbedRequest, responses(
    (status = 200, body = Vec<Vec<f32>>, description = "One vector a text, in order"),
    (status = "default", body = TeiErrorBody, description = "As `/embed`"),
))]
pub(crate) async fn embed_at_root(
    state: State<AppState>,
    caller: Result<Caller, ApiError>,
    body: Result<JsonBody<TeiEmbedRequest>, ApiError>,
) -> Result<Response, TeiError> {
    embed(state, caller, body).await
}

fn question(body: TeiEmbedRequest, caller: &Caller, state: &AppState) -> Result<Question, ApiError> {
    let truncate = body.truncate.unwrap_or(false);
    if truncate && body.truncation_direction == Some(TruncationDirection::Left) {
        return Err(ApiError::Invalid("`truncation_direction`: only `Right` is supported".into()));
    }
    Ok(Question {
        model: None,
        input: body.inputs.into(),
        normalize: body.normalize.unwrap_or(true),
        dimensions: body.dimensions,
        truncate,
        prompt: body.prompt_name,
        purpose: caller.purpose.unwrap_or(Purpose::Query),
        timeout: state.limits.deadline,
        arrived: Instant::now(),
    })
}
