//! One file a noun: what is called, and what of the answer people see. Enters: parsed arguments. Leaves: calls and text. Never: a rule of
//! the catalog; those are the server's.

mod aliases;
mod audit;
mod costs;
mod experiments;
mod import;
mod models;
mod prices;
mod sidecars;
mod tokens;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Session;
use crate::args::{Command, Page};
use crate::client::Answer;
use crate::failure::Failure;

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Models(it) => models::run(session, it),
        Command::Aliases(it) => aliases::run(session, it),
        Command::Prices(it) => prices::run(session, it),
        Command::Experiments(it) => experiments::run(session, it),
        Command::Tokens(it) => tokens::run(session, it),
        Command::Sidecars(it) => sidecars::run(session, &it),
        Command::Costs(it) => costs::run(session, &it),
        Command::Audit(it) => audit::run(session, &it),
    }
}

/// Shows one page of `{"<plural>": [...], "next": cursor}`; a further page is named on stderr.
fn list<T: DeserializeOwned>(session: &Session, plural: &str, page: &Page, text: impl FnOnce(Vec<T>) -> String) -> Result<(), Failure> {
    let answer = session.client.get(plural, &[("limit", Some(page.limit.to_string())), ("after", page.after.clone())])?;
    let items = if session.json { Vec::new() } else { items(&answer, plural)? };
    session.show(&answer, |body: Map<String, Value>| {
        say_more(body.get("next").unwrap_or(&Value::Null));
        text(items)
    })
}

/// Names the next page, when there is one.
fn say_more(next: &Value) {
    if !next.is_null() {
        eprintln!("more: add --after {}", plain(next));
    }
}

/// The list under `key` of an answer.
fn items<T: DeserializeOwned>(answer: &Answer, key: &str) -> Result<Vec<T>, Failure> {
    let mut body: Map<String, Value> = answer.read()?;
    let items = body.remove(key).unwrap_or_default();
    serde_json::from_value(items)
        .map_err(|error| Failure::Refused(format!("the server's list of {key} is not what this version expects: {error}")))
}

/// A JSON value without the quotes of a string.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
