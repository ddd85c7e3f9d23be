//! Models and what is inside them. Enters: names and digests. Leaves: tables. Never: a bundle; `import` reads those.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::Session;
use crate::args::Models;
use crate::client::encode;
use crate::failure::Failure;
use crate::table::{Rows, or_dash};
use crate::units;

use super::import;

#[derive(Deserialize)]
struct ModelLine {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    created_at: String,
}

#[derive(Deserialize)]
struct Model {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    versions: Vec<Version>,
    #[serde(default)]
    aliases: Vec<Alias>,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    dimension: u32,
    max_tokens: u32,
    pooling: String,
    embedding_space: String,
    #[serde(default)]
    seeded: bool,
    #[serde(default)]
    license: Option<String>,
    #[serde(default)]
    variants: Vec<Variant>,
}

#[derive(Deserialize)]
struct Variant {
    name: String,
    precision: String,
    #[serde(default)]
    artifacts: Vec<Artifact>,
}

#[derive(Deserialize)]
struct Artifact {
    digest: String,
    state: String,
    target: akidb_domain::vocabulary::Target,
    bytes: u64,
    evaluations: Vec<Evaluation>,
}

#[derive(Deserialize)]
struct Evaluation {
    verdict: String,
    reason: String,
}

#[derive(Deserialize)]
struct Alias {
    name: String,
    version: String,
    variant: String,
    revision: u64,
}

pub(super) fn run(session: &Session, command: Models) -> Result<(), Failure> {
    match command {
        Models::List(page) => super::list(session, "models", &page, |models: Vec<ModelLine>| {
            let mut rows = Rows::new(&["MODEL", "CREATED", "DESCRIPTION"]);
            for it in models {
                rows.add([it.name, it.created_at, or_dash(it.description)]);
            }
            rows.text("no models: `akidb models import` brings one")
        }),
        Models::Show { model } => session.show(&session.client.get(&format!("models/{model}"), &[])?, |it| describe(&it)),
        Models::Import(it) => import::run(session, &it),
        Models::ImportStatus { id } => import::status(session, &id),
        Models::Evaluate { model, artifact, report } => {
            let path = find(session, &model, &artifact)?;
            let report = read_report(&report)?;
            let answer = session.client.post(&format!("{path}/evaluations"), &report)?;
            let artifact: Artifact = answer.read()?;
            session.done(&answer, &verdict(&artifact))?;
            let failed = artifact.evaluations.first().is_some_and(|it| it.verdict == "failed");
            if failed {
                Err(Failure::Refused(format!(
                    "the report does not pass its gate; artifact {} is {}",
                    units::short(&artifact.digest),
                    artifact.state
                )))
            } else {
                Ok(())
            }
        }
        Models::Retire { model, artifact } => {
            let path = find(session, &model, &artifact)?;
            let answer = session.client.put(&format!("{path}/state"), None, &json!({"state": "retired"}))?;
            session.done(&answer, &format!("retired artifact {artifact} of {model}"))
        }
        Models::Delete { model, version, variant, artifact } => {
            let path = match (&version, &variant, &artifact) {
                (_, _, Some(artifact)) => find(session, &model, artifact)?,
                (Some(version), Some(variant), _) => format!("models/{model}/versions/{version}/variants/{variant}"),
                (Some(version), None, _) => format!("models/{model}/versions/{version}"),
                _ => format!("models/{model}"),
            };
            session.done(&session.client.delete(&path)?, &format!("deleted {path}"))
        }
    }
}

fn describe(model: &Model) -> String {
    let mut text = vec![model.name.clone()];
    text.extend(model.description.clone().filter(|it| !it.is_empty()));
    for it in &model.versions {
        let license = it.license.as_ref().map(|it| format!(", licence {it}")).unwrap_or_default();
        text.push(format!("version {}: {} dimensions, {} tokens, {} pooling{license}", it.name, it.dimension, it.max_tokens, it.pooling));
        text.push(format!("  embedding space {}", it.embedding_space));
        if it.seeded {
            text.push("  seeded: random weights, for speed and size only; no verdict on quality, no experiments".to_owned());
        }
    }
    text.push(String::new());
    text.push(artifacts(model));
    let mut rows = Rows::new(&["ALIAS", "VERSION", "VARIANT", ">REVISION"]);
    for it in &model.aliases {
        rows.add([it.name.clone(), it.version.clone(), it.variant.clone(), it.revision.to_string()]);
    }
    text.push(String::new());
    text.push(rows.text("no aliases: none of its artifacts has become ready"));
    text.join("\n")
}

fn artifacts(model: &Model) -> String {
    let mut rows = Rows::new(&["VERSION", "VARIANT", "PRECISION", "TARGET", "STATE", ">SIZE", "ARTIFACT"]);
    for version in &model.versions {
        for variant in &version.variants {
            let place = [version.name.clone(), variant.name.clone(), variant.precision.clone()];
            if variant.artifacts.is_empty() {
                rows.add(place.iter().cloned().chain(["-", "-", "-", "-"].map(str::to_owned)));
            }
            for it in &variant.artifacts {
                let target =
                    [Some(it.target.provider.to_string()), it.target.compute_capability.clone(), it.target.tensorrt_version.clone()];
                let target = target.into_iter().flatten().collect::<Vec<_>>().join(" ");
                rows.add(place.iter().cloned().chain([target, it.state.clone(), units::bytes(it.bytes), units::short(&it.digest)]));
            }
        }
    }
    rows.text("no variants")
}

/// Path of the one artifact of a model whose digest starts like this.
fn find(session: &Session, model: &str, start: &str) -> Result<String, Failure> {
    let there: Model = session.client.get(&format!("models/{model}"), &[])?.read()?;
    let mut found = Vec::new();
    for version in &there.versions {
        for variant in &version.variants {
            for artifact in variant.artifacts.iter().filter(|it| it.digest.starts_with(start)) {
                let (version, variant) = (encode(&version.name), encode(&variant.name));
                found.push(format!("models/{model}/versions/{version}/variants/{variant}/artifacts/{}", artifact.digest));
            }
        }
    }
    match found.as_slice() {
        [path] => Ok(path.clone()),
        [] => Err(Failure::Input(format!("no artifact of `{model}` starts with `{start}`: `akidb models show {model}` lists them"))),
        more => Err(Failure::Input(format!("{} artifacts of `{model}` start with `{start}`: give more digits", more.len()))),
    }
}

fn read_report(file: &std::path::Path) -> Result<Value, Failure> {
    let bad = |error: &dyn std::fmt::Display| Failure::Input(format!("--report `{}`: {error}", file.display()));
    let text = std::fs::read(file).map_err(|error| bad(&error))?;
    serde_json::from_slice(&text).map_err(|error| bad(&error))
}

fn verdict(artifact: &Artifact) -> String {
    let newest = artifact.evaluations.first().map(|it| match it.reason.as_str() {
        "" => format!("the evaluation {}", it.verdict),
        reason => format!("the evaluation {}: {reason}", it.verdict),
    });
    format!("{}; artifact {} is {}", newest.unwrap_or_default(), units::short(&artifact.digest), artifact.state)
}
