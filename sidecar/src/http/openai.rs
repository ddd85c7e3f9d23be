//! OpenAI's shape of the API: an unmodified OpenAI client works with `base_url` set to `http://127.0.0.1:8080/v1`.
//!
//! Enters: OpenAI's requests; fields that mean nothing here are ignored, as there. Leaves: OpenAI's answers and errors. Never: a decision;
//! the pipeline makes them.

mod embeddings;
mod error;
mod models;

pub(super) use embeddings::{__path_embeddings, embeddings};
pub(super) use error::OpenAiError;
pub(super) use models::{__path_model, __path_models, model, models};
