//! Aliases. Enters: names and revisions. Leaves: compare-and-swap moves. Never: a move from a revision that nobody saw.

use serde::Deserialize;
use serde_json::json;

use crate::Session;
use crate::args::Aliases;
use crate::failure::Failure;
use crate::table::Rows;

#[derive(Deserialize)]
struct Alias {
    #[serde(default)]
    name: String,
    version: String,
    variant: String,
    revision: u64,
    #[serde(default)]
    updated_at: String,
}

#[derive(Deserialize)]
struct Version {
    name: String,
}

pub(super) fn run(session: &Session, command: Aliases) -> Result<(), Failure> {
    match command {
        Aliases::List { model } => {
            let answer = session.client.get(&format!("models/{model}/aliases"), &[])?;
            let aliases = if session.json { Vec::new() } else { super::items(&answer, "aliases")? };
            session.done(&answer, &table(aliases))
        }
        Aliases::Set { model, alias, variant, version, if_revision } => set(session, &model, &alias, &variant, version, if_revision),
        Aliases::Delete { model, alias } => {
            session.done(&session.client.delete(&format!("models/{model}/aliases/{alias}"))?, &format!("deleted alias {alias} of {model}"))
        }
    }
}

fn table(aliases: Vec<Alias>) -> String {
    let mut rows = Rows::new(&["ALIAS", "VERSION", "VARIANT", ">REVISION", "MOVED"]);
    for it in aliases {
        rows.add([it.name, it.version, it.variant, it.revision.to_string(), it.updated_at]);
    }
    rows.text("no aliases: none of its artifacts has become ready")
}

fn set(session: &Session, model: &str, alias: &str, variant: &str, version: Option<String>, revision: Option<u64>) -> Result<(), Failure> {
    let version = version.map_or_else(|| usual_version(session, model), Ok)?;
    let path = format!("models/{model}/aliases/{alias}");
    let revision = match revision {
        Some(revision) => Some(revision),
        None => session.client.find(&path)?.map(|it| it.read::<Alias>()).transpose()?.map(|it| it.revision),
    };
    let quoted = revision.map(|it| format!("\"{it}\""));
    let condition = quoted.as_deref().map_or(("if-none-match", "*"), |it| ("if-match", it));
    let answer = session.client.put(&path, Some(condition), &json!({"version": version, "variant": variant}))?;
    session.show(&answer, |it: Alias| format!("{model}@{alias} is version {} variant {}, revision {}", it.version, it.variant, it.revision))
}

/// The version that `default` names, or the only one: where `name@variant` looks too.
fn usual_version(session: &Session, model: &str) -> Result<String, Failure> {
    if let Some(default) = session.client.find(&format!("models/{model}/aliases/default"))? {
        return Ok(default.read::<Alias>()?.version);
    }
    let versions: Vec<Version> = super::items(&session.client.get(&format!("models/{model}/versions"), &[])?, "versions")?;
    match versions.as_slice() {
        [only] => Ok(only.name.clone()),
        more => Err(Failure::Input(format!("`{model}` has {} versions and no alias `default`: say which with --version", more.len()))),
    }
}
