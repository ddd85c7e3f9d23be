//! A decision that anybody can repeat: inputs, configuration, version of the formulas, outcome.
//!
//! Enters: a state, the looks that followed, or the text of a sealed record. Leaves: a [`Record`] as text with a digest, or the first
//! difference that a replay finds. Never: trust in a record whose digest does not match.
//!
//! Text: `{"sha256":"<64 hex digits>","record":<body>}` and a line feed; the digest is of the body's bytes as they stand, so any changed byte
//! is noticed.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::config::{BadConfig, Config};
use super::look::Look;
use super::state::{BadLook, State, step};
use super::verdict::Outcome;

/// Decisions with everything they rest on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which formulas decided: [`super::METHOD`].
    pub method: String,
    /// Which program it was; for people.
    pub program: String,
    /// Experiment, for people.
    pub experiment: String,
    /// What was fixed before.
    pub config: Config,
    /// What was known before the first of these looks.
    pub before: State,
    /// The looks, in order.
    pub looks: Vec<Look>,
    /// What was said after each.
    pub outcomes: Vec<Outcome>,
}

/// Why a record proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Not a sealed record.
    #[error("not a decision record: {0}")]
    Unreadable(String),
    /// A byte changed since it was sealed.
    #[error("the record was changed after it was written: its digest is {recorded}, its content's is {actual}")]
    Changed {
        /// In the text.
        recorded: String,
        /// Of the text.
        actual: String,
    },
    /// Other formulas.
    #[error("decided by method {recorded}; this program has method {here}: replay it with the program that wrote it ({program})")]
    Method {
        /// In the record.
        recorded: String,
        /// Of this program.
        here: String,
        /// The program that wrote it.
        program: String,
    },
    /// The plan cannot be meant.
    #[error("the recorded plan: {0}")]
    Config(#[from] BadConfig),
    /// A look that cannot be taken.
    #[error("the recorded looks: {0}")]
    Look(#[from] BadLook),
    /// The first value that came out otherwise.
    #[error("{path}: recorded {recorded}, recomputed {recomputed}")]
    Difference {
        /// E.g. `outcomes[17].evidence[4].worse.log_e`.
        path: String,
        /// JSON.
        recorded: String,
        /// JSON.
        recomputed: String,
    },
}

impl Record {
    /// Decides on `looks`, from `state` on, and keeps everything; `state` is then the one after them.
    pub fn write(experiment: &str, config: &Config, state: &mut State, looks: Vec<Look>) -> Result<Self, BadLook> {
        let before = state.clone();
        let outcomes = looks.iter().map(|it| step(config, state, it)).collect::<Result<_, _>>()?;
        Ok(Self {
            method: super::METHOD.to_owned(),
            program: format!("akidb-domain {}", env!("CARGO_PKG_VERSION")),
            experiment: experiment.to_owned(),
            config: config.clone(),
            before,
            looks,
            outcomes,
        })
    }

    /// As text, with its digest.
    pub fn seal(&self) -> Result<String, serde_json::Error> {
        let body = serde_json::to_string(self)?;
        Ok(format!("{OPENING}{}{MIDDLE}{body}{CLOSING}", digest(&body)))
    }

    /// Reads sealed text and checks its digest.
    pub fn open(text: &str) -> Result<Self, ReplayError> {
        let frame = || ReplayError::Unreadable(format!("it does not read {OPENING}<64 hex digits>{MIDDLE}...}}"));
        let rest = text.strip_prefix(OPENING).ok_or_else(frame)?;
        let (recorded, rest) = rest.split_at_checked(64).ok_or_else(frame)?;
        let body = rest.strip_prefix(MIDDLE).and_then(|it| it.strip_suffix(CLOSING)).ok_or_else(frame)?;
        let actual = digest(body);
        if recorded != actual {
            return Err(ReplayError::Changed { recorded: recorded.to_owned(), actual });
        }
        serde_json::from_str(body).map_err(|error| ReplayError::Unreadable(error.to_string()))
    }
}

const OPENING: &str = "{\"sha256\":\"";
const MIDDLE: &str = "\",\"record\":";
const CLOSING: &str = "}\n";

fn digest(body: &str) -> String {
    hex::encode(Sha256::digest(body.as_bytes()))
}

/// Decides again from the record's inputs, and gives the state after the last look if every outcome came out as recorded, bit for bit.
pub fn replay(record: &Record) -> Result<State, ReplayError> {
    if record.method != super::METHOD {
        let (recorded, program) = (record.method.clone(), record.program.clone());
        return Err(ReplayError::Method { recorded, here: super::METHOD.to_owned(), program });
    }
    record.config.check()?;
    let mut state = record.before.clone();
    let again = Record::write(&record.experiment, &record.config, &mut state, record.looks.clone())?;
    if again.outcomes == record.outcomes {
        return Ok(state);
    }
    let values = [&record.outcomes, &again.outcomes].map(|it| serde_json::to_value(it).unwrap_or_default());
    Err(first_difference("outcomes", &values[0], &values[1])
        .unwrap_or_else(|| ReplayError::Unreadable("outcomes hold a value that JSON cannot".to_owned())))
}

fn first_difference(path: &str, recorded: &Value, recomputed: &Value) -> Option<ReplayError> {
    match (recorded, recomputed) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| first_difference(&format!("{path}[{i}]"), a, b))
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            a.iter().find_map(|(key, a)| first_difference(&format!("{path}.{key}"), a, b.get(key).unwrap_or(&Value::Null)))
        }
        (a, b) if a == b => None,
        (a, b) => Some(ReplayError::Difference { path: path.to_owned(), recorded: a.to_string(), recomputed: b.to_string() }),
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
