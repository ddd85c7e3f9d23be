//! Imports. Enters: a path or a URI. Leaves: a cataloged artifact. Never: an upload of a file that is spoiled, or that the server has.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Session;
use crate::args::Import;
use crate::bundle::Bundle;
use crate::client::{Answer, encode};
use crate::failure::Failure;
use crate::units;

/// How often a running import is looked at.
const POLL: Duration = Duration::from_millis(300);

#[derive(Deserialize)]
struct Status {
    id: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    done_bytes: u64,
    #[serde(default)]
    total_bytes: u64,
    model: Option<String>,
    version: Option<String>,
    variant: Option<String>,
    digest: Option<String>,
    artifact_state: Option<String>,
    evaluation_error: Option<String>,
    error: Option<String>,
}

pub(super) fn run(session: &Session, import: &Import) -> Result<(), Failure> {
    let answer = if import.source.contains("://") {
        let answer = session.client.post("imports", &body(import, "uri", import.source.clone().into()))?;
        if import.wait { wait(session, &answer.read()?)? } else { answer }
    } else {
        upload(session, import)?
    };
    finish(session, &answer)
}

pub(super) fn status(session: &Session, id: &str) -> Result<(), Failure> {
    finish(session, &session.client.get(&format!("imports/{}", encode(id)), &[])?)
}

fn body(import: &Import, key: &str, value: Value) -> Value {
    let mut body = json!({"set_default": import.set_default});
    body[key] = value;
    if let Some(version) = &import.version {
        body["version"] = version.clone().into();
    }
    body
}

/// Verifies a local bundle, sends what the server lacks of it, and has it cataloged.
fn upload(session: &Session, import: &Import) -> Result<Answer, Failure> {
    let bundle = Bundle::open(Path::new(&import.source))?;
    let progress = bar("verifying", bundle.manifest.bytes());
    let verified = bundle.verify(|n| progress.inc(n));
    progress.finish_and_clear();
    verified?;
    let progress = bar("uploading", bundle.manifest.bytes());
    for file in &bundle.manifest.files {
        let size = units::bytes(file.bytes);
        if session.client.has_blob(&file.sha256)? {
            progress.inc(file.bytes);
            say(&progress, &format!("{}: {size}, there already", file.path));
        } else {
            let content = bundle.content(file)?;
            session.client.put_blob(&file.sha256, file.bytes, &mut progress.wrap_read(content))?;
            say(&progress, &format!("{}: {size}, uploaded", file.path));
        }
    }
    progress.finish_and_clear();
    session.client.post("imports", &body(import, "manifest", bundle.json.clone()))
}

/// Looks at a running import until it has ended.
fn wait(session: &Session, started: &Status) -> Result<Answer, Failure> {
    let path = format!("imports/{}", encode(&started.id));
    let progress = bar("importing", started.total_bytes);
    say(&progress, &format!("import {} is running", started.id));
    loop {
        let answer = session.client.get(&path, &[])?;
        let status: Status = answer.read()?;
        if status.state != "running" {
            progress.finish_and_clear();
            return Ok(answer);
        }
        progress.set_length(status.total_bytes);
        progress.set_position(status.done_bytes);
        std::thread::sleep(POLL);
    }
}

/// Shows where an import stands; one that failed is a refusal, and one of an artifact that will not be served.
fn finish(session: &Session, answer: &Answer) -> Result<(), Failure> {
    let status: Status = answer.read()?;
    if status.state != "failed" {
        session.show(answer, |it: Status| describe(&it))?;
        return match status.evaluation_error {
            Some(why) => Err(Failure::Refused(format!(
                "artifact {} is catalogued and not served: {why}; a better report makes it ready (`akidb models evaluate`)",
                status.digest.as_deref().map_or_else(String::new, units::short)
            ))),
            None => Ok(()),
        };
    }
    if session.json {
        session.done(answer, "")?;
    }
    Err(Failure::Refused(format!("import {} failed: {}", status.id, status.error.unwrap_or_default())))
}

fn describe(it: &Status) -> String {
    match (&it.model, &it.digest) {
        (Some(model), Some(digest)) => format!(
            "imported {model} version {} variant {}: artifact {}, {}",
            it.version.as_deref().unwrap_or("-"),
            it.variant.as_deref().unwrap_or("-"),
            units::short(digest),
            it.artifact_state.as_deref().unwrap_or("-"),
        ),
        _ => format!(
            "import {} is running, {} of {}: `akidb models import-status {}` shows how it is doing",
            it.id,
            units::bytes(it.done_bytes),
            units::bytes(it.total_bytes),
            it.id
        ),
    }
}

/// A bar on a terminal.
fn bar(what: &'static str, bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}") {
        bar.set_style(style);
    }
    bar
}

/// A line on stderr, above the bar when there is one.
fn say(progress: &ProgressBar, line: &str) {
    if progress.is_hidden() { eprintln!("{line}") } else { progress.println(line) }
}
