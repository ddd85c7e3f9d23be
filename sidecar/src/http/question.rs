//! What a client wants embedded, and its check against the model that serves it. The same for every dialect of the API.
//!
//! Enters: a question and a loaded model. Leaves: token ids, or what is wrong with the question. Never: a status, an engine.

use std::time::{Duration, Instant};

use akidb_domain::vocabulary::Purpose;
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::serving::Loaded;
use crate::tokenizer::Encoded;

/// What a client wants embedded, and how.
#[derive(Debug)]
pub(super) struct Question {
    /// As the client wrote it.
    pub(super) model: Option<String>,
    pub(super) input: Input,
    pub(super) normalize: bool,
    pub(super) dimensions: Option<usize>,
    pub(super) truncate: bool,
    pub(super) prompt: Option<String>,
    pub(super) purpose: Purpose,
    pub(super) timeout: Duration,
    pub(super) arrived: Instant,
}

/// One or many texts, as text or as ids.
#[derive(Debug)]
pub(super) enum Input {
    Texts(Vec<String>),
    /// Ids of the served model, special tokens included; signed, so that an id that cannot be is refused by name.
    Tokens(Vec<Vec<i64>>),
}

/// `input` of OpenAI and `inputs` of TEI: a text, texts, a text's token ids or texts' token ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, an array of strings, an array of token ids or an array of arrays of token ids")]
pub(super) enum Inputs {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// A text as token ids of the served model, special tokens included.
    Tokens(Vec<i64>),
    /// Texts as token ids.
    TokenLists(Vec<Vec<i64>>),
}

impl From<Inputs> for Input {
    fn from(inputs: Inputs) -> Self {
        match inputs {
            Inputs::Text(text) => Self::Texts(vec![text]),
            Inputs::Texts(texts) => Self::Texts(texts),
            Inputs::Tokens(ids) => Self::Tokens(vec![ids]),
            Inputs::TokenLists(lists) => Self::Tokens(lists),
        }
    }
}

impl Input {
    /// How many texts.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(lists) => lists.len(),
        }
    }

    fn first_empty(&self) -> Option<usize> {
        match self {
            Self::Texts(texts) => texts.iter().position(String::is_empty),
            Self::Tokens(lists) => lists.iter().position(Vec::is_empty),
        }
    }
}

impl Question {
    /// Token ids, one list a text, if the question can be answered by this model.
    pub(super) async fn encode(&self, loaded: &Loaded, most: usize) -> Result<Vec<Encoded>, ApiError> {
        self.check(loaded, most)?;
        let texts = match &self.input {
            Input::Tokens(lists) => return lists.iter().enumerate().map(|(index, ids)| known_ids(index, ids, loaded)).collect(),
            Input::Texts(texts) => texts,
        };
        let encoded = loaded.tokenizer.encode(self.prompted(texts, loaded)?, self.truncate).await?;
        match encoded.iter().position(|it| it.ids.is_empty()) {
            Some(empty) => Err(ApiError::Empty(format!("text {empty} has no tokens"))),
            None => Ok(encoded),
        }
    }

    fn check(&self, loaded: &Loaded, most: usize) -> Result<(), ApiError> {
        let invalid = |message: String| Err(ApiError::Invalid(message));
        let count = self.input.len();
        if count == 0 {
            return Err(ApiError::Empty(format!("0 texts; a request has 1 to {most}")));
        }
        if count > most {
            return invalid(format!("{count} texts; a request has 1 to {most}"));
        }
        if let Some(empty) = self.input.first_empty() {
            return Err(ApiError::Empty(format!("text {empty} is empty")));
        }
        if let Some(bad) = self.dimensions.filter(|it| *it == 0 || *it > loaded.dimension as usize) {
            return invalid(format!("`dimensions` is {bad}; `{}` has 1 to {}", loaded.model, loaded.dimension));
        }
        if !self.normalize && loaded.normalized {
            return invalid(format!(
                "`normalize: false`: the graph of `{}` normalises, its vectors before that are not available",
                loaded.model
            ));
        }
        Ok(())
    }

    /// The texts with the prompt before each.
    fn prompted(&self, texts: &[String], loaded: &Loaded) -> Result<Vec<String>, ApiError> {
        let Some(name) = &self.prompt else { return Ok(texts.to_vec()) };
        let Some(prompt) = loaded.prompts.get(name) else {
            let known: Vec<&str> = loaded.prompts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let name = name.chars().take(100).collect::<String>();
            return Err(ApiError::Invalid(format!("`{}` has no prompt `{name}`; there are: {known}", loaded.model)));
        };
        Ok(texts.iter().map(|it| format!("{prompt}{it}")).collect())
    }
}

/// A client's own ids are taken as they are, never cut: what they mean is the client's affair.
fn known_ids(index: usize, ids: &[i64], loaded: &Loaded) -> Result<Encoded, ApiError> {
    let limit = loaded.tokenizer.max_tokens();
    if ids.len() > limit {
        return Err(ApiError::Invalid(format!("text {index} has {} token ids, more than the model's {limit}", ids.len())));
    }
    let vocabulary = loaded.tokenizer.vocabulary();
    let known = |id: &i64| {
        let outside = || {
            ApiError::Invalid(format!(
                "text {index}: token id {id} is not in the vocabulary of `{}` (0 to {})",
                loaded.model,
                vocabulary - 1
            ))
        };
        u32::try_from(*id).ok().filter(|it| *it < vocabulary).ok_or_else(outside)
    };
    Ok(Encoded { ids: ids.iter().map(known).collect::<Result<_, _>>()?, truncated: false })
}
