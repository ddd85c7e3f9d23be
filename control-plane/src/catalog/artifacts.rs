//! Artifacts, their proofs and their states: `uploaded -> validated -> ready -> retired`.
//!
//! Enters: a checked manifest with a URI a file; an evaluation; a wanted state. Leaves: rows. Never: `ready` without a passed
//! evaluation, or an aliased variant without a ready artifact.

use akidb_domain::bundle::{Evaluation, Lineage, Manifest, Step, Verdict};
use akidb_domain::vocabulary::{ArtifactState, Precision};
use serde_json::json;

use super::find::Place;
use super::{CatalogError, aliases as alias_rules};
use crate::change::Change;
use crate::db::artifacts::{self, ArtifactRow, EvaluationRow, FileRow};
use crate::db::{Conn, aliases, variants};

/// Catalogs the artifact of a manifest; `uris` are of its files, in order.
pub(crate) async fn add(change: &mut Change, place: &Place, manifest: &Manifest, uris: &[String]) -> Result<ArtifactRow, CatalogError> {
    let digest = manifest.digest();
    let mut row = artifact_row(place, manifest, digest, change.at);
    if artifacts::find(change.conn(), &row.digest).await?.is_some() {
        return Err(CatalogError::Conflict(format!("artifact `{}` exists already", row.digest)));
    }
    refuse_second(change.conn(), place, &row).await?;
    let files: Vec<FileRow> = manifest.files.iter().zip(uris).map(file_row).collect();
    artifacts::insert(change.conn(), &row, &files).await?;
    change.audit("artifact.create", &subject(place, &row.digest), json!({"target": manifest.target, "bytes": row.bytes})).await?;
    match &manifest.evaluation {
        Some(evaluation) => evaluate(change, place, &mut row, evaluation).await?,
        None if place.version.seeded => evaluate(change, place, &mut row, &seeded_report()).await?,
        None => {}
    }
    Ok(row)
}

fn artifact_row(place: &Place, manifest: &Manifest, digest: String, at: i64) -> ArtifactRow {
    let target = &manifest.target;
    ArtifactRow {
        digest,
        variant_id: place.variant.id,
        state: ArtifactState::Uploaded.to_string(),
        provider: target.provider.to_string(),
        compute_capability: target.compute_capability.clone().unwrap_or_default(),
        tensorrt_version: target.tensorrt_version.clone().unwrap_or_default(),
        shape_profile: target.shape_profile.clone().unwrap_or_default(),
        graph: json!(manifest.graph).to_string(),
        lineage: json!(manifest.lineage).to_string(),
        parent_digest: manifest.lineage.parent_digest.clone(),
        bytes: manifest.bytes() as i64,
        created_at: at,
    }
}

fn file_row((file, uri): (&akidb_domain::bundle::BundleFile, &String)) -> FileRow {
    FileRow {
        path: file.path.clone(),
        role: file.role.to_string(),
        uri: uri.clone(),
        bytes: file.bytes as i64,
        sha256: file.sha256.clone(),
    }
}

fn seeded_report() -> Evaluation {
    Evaluation {
        kind: "not_applicable".to_owned(),
        dataset_digest: None,
        n: 0,
        mean_cosine: None,
        min_cosine: None,
        recall_at_10: None,
        batch_invariance: None,
        gate: std::collections::BTreeMap::default(),
        passed: false,
        reason: Some("seeded".to_owned()),
        tool: None,
    }
}

/// One live artifact a target.
async fn refuse_second(conn: &mut Conn, place: &Place, row: &ArtifactRow) -> Result<(), CatalogError> {
    match artifacts::live_for_target(conn, row).await? {
        Some(there) if there != row.digest => Err(CatalogError::Conflict(format!(
            "{} has a live artifact `{there}` for target `{}` already: retire it first, or use another version",
            place.path(),
            row.provider
        ))),
        _ => Ok(()),
    }
}

/// Records a proof and moves the artifact as its verdict says. A served artifact that an alias relies on stays ready.
pub(crate) async fn evaluate(
    change: &mut Change,
    place: &Place,
    row: &mut ArtifactRow,
    evaluation: &Evaluation,
) -> Result<(), CatalogError> {
    let lineage: Lineage = serde_json::from_str(&row.lineage).unwrap_or_default();
    let step = step(change.conn(), place, &lineage, &evaluation.kind).await?;
    let verdict = evaluation.verdict(place.version.seeded, step);
    let (word, reason) = match &verdict {
        Verdict::Passed => ("passed", String::new()),
        Verdict::NotApplicable => ("not_applicable", "seeded".to_owned()),
        Verdict::Failed(why) => ("failed", why.clone()),
    };
    let report =
        EvaluationRow { report: json!(evaluation).to_string(), verdict: word.to_owned(), reason: reason.clone(), created_at: change.at };
    artifacts::insert_evaluation(change.conn(), &row.digest, &evaluation.kind, &report).await?;
    change.audit("artifact.evaluate", &subject(place, &row.digest), json!({"verdict": word, "reason": reason})).await?;
    let passed = !matches!(verdict, Verdict::Failed(_));
    let state = if passed { ArtifactState::Ready } else { ArtifactState::Validated };
    let relied_on = row.state == ArtifactState::Ready.as_str() && last_of_aliased(change.conn(), row).await?.is_some();
    if row.state == ArtifactState::Retired.as_str() || (relied_on && !passed) {
        return Ok(());
    }
    write_state(change, place, row, state).await
}

/// Which gate an artifact has to pass, by what it was made of.
async fn step(conn: &mut Conn, place: &Place, lineage: &Lineage, kind: &str) -> Result<Step, CatalogError> {
    let parent = match &lineage.parent_digest {
        Some(digest) => artifacts::find(conn, digest).await?,
        None => None,
    };
    let same = match parent {
        Some(row) => Some(variants::path(conn, row.variant_id).await?.model == place.model.name),
        None => None,
    };
    Ok(Step::of(place.variant.precision.parse().unwrap_or(Precision::Int8), lineage, kind, same))
}

/// Moves an artifact to `ready` or `retired`.
pub(crate) async fn set_state(change: &mut Change, place: &Place, row: &mut ArtifactRow, state: ArtifactState) -> Result<(), CatalogError> {
    match state {
        ArtifactState::Ready => {
            let newest = artifacts::evaluations(change.conn(), &row.digest, 1).await?.into_iter().next();
            match newest {
                Some(it) if it.verdict == "failed" => {
                    return Err(CatalogError::Invalid(format!("artifact `{}` did not pass its evaluation: {}", row.digest, it.reason)));
                }
                None => return Err(CatalogError::Invalid(format!("artifact `{}` has no evaluation: post one first", row.digest))),
                Some(_) => refuse_second(change.conn(), place, row).await?,
            }
        }
        ArtifactState::Retired => {
            if let Some(alias) = last_of_aliased(change.conn(), row).await? {
                return Err(CatalogError::Conflict(format!(
                    "artifact `{}` is the last ready one of a variant that the alias `{alias}` names: move it first",
                    row.digest
                )));
            }
        }
        ArtifactState::Uploaded | ArtifactState::Validated => {
            return Err(CatalogError::Invalid(format!("state `{state}` cannot be set by hand: write `ready` or `retired`")));
        }
    }
    write_state(change, place, row, state).await
}

pub(crate) async fn delete(change: &mut Change, place: &Place, row: &ArtifactRow) -> Result<(), CatalogError> {
    if row.state != ArtifactState::Retired.as_str() {
        return Err(CatalogError::Conflict(format!("artifact `{}` is {}: retire it first", row.digest, row.state)));
    }
    let children = artifacts::children(change.conn(), &row.digest).await?;
    if children > 0 {
        return Err(CatalogError::Conflict(format!("artifact `{}` is the parent of {children} others", row.digest)));
    }
    artifacts::delete(change.conn(), &row.digest).await?;
    change.audit("artifact.delete", &subject(place, &row.digest), json!({})).await?;
    Ok(())
}

async fn write_state(change: &mut Change, place: &Place, row: &mut ArtifactRow, state: ArtifactState) -> Result<(), CatalogError> {
    if row.state == state.as_str() {
        return Ok(());
    }
    artifacts::set_state(change.conn(), &row.digest, state.as_str()).await?;
    change.audit("artifact.state", &subject(place, &row.digest), json!({"from": row.state, "to": state})).await?;
    change.visible();
    state.as_str().clone_into(&mut row.state);
    if state == ArtifactState::Ready {
        alias_rules::adopt_first(change, place).await?;
    }
    Ok(())
}

/// An alias that would point at nothing ready without this artifact.
async fn last_of_aliased(conn: &mut Conn, row: &ArtifactRow) -> Result<Option<String>, CatalogError> {
    let (_, ready) = artifacts::count(conn, row.variant_id).await?;
    if row.state != ArtifactState::Ready.as_str() || ready > 1 {
        return Ok(None);
    }
    Ok(aliases::naming(conn, row.variant_id).await?.into_iter().next())
}

fn subject(place: &Place, digest: &str) -> String {
    format!("{}/artifacts/{digest}", place.path())
}
