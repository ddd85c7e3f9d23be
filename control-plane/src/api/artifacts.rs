//! Artifacts of variants. Enters: files with their URIs, proofs, wanted states. Leaves: artifacts. Never: one whose files were not read.

use std::sync::atomic::AtomicU64;

use akidb_domain::bundle::{BundleFile, Evaluation, FORMAT, Graph, Lineage, Manifest, ModelCard, VariantCard};
use akidb_domain::vocabulary::{ArtifactState, FileRole, Target};
use akidb_store::ObjectUri;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Who};
use super::page::Page;
use super::view::ArtifactView;
use crate::blobs::{BlobError, Wanted};
use crate::catalog::find::Place;
use crate::catalog::{artifacts as rules, find};
use crate::db::artifacts;
use crate::import::source;

/// A new artifact.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewArtifact {
    #[schema(value_type = Object)]
    target: Target,
    #[schema(value_type = Object)]
    graph: Graph,
    files: Vec<NewFile>,
    #[serde(default)]
    #[schema(value_type = Object)]
    lineage: Lineage,
    #[schema(value_type = Option<Object>)]
    evaluation: Option<Evaluation>,
}

/// A file of a new artifact.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewFile {
    path: String,
    #[schema(value_type = String)]
    role: FileRole,
    bytes: u64,
    sha256: String,
    /// `s3://...` or `file:///...`.
    uri: String,
}

/// A wanted state.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewState {
    /// `ready` or `retired`.
    #[schema(value_type = String)]
    state: ArtifactState,
}

/// A page of artifacts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Artifacts {
    artifacts: Vec<ArtifactView>,
    next: Option<String>,
}

type VariantPath = Path<(String, String, String)>;
type ArtifactPath = Path<(String, String, String, String)>;

/// Lists a variant's artifacts.
#[utoipa::path(get, path = "/models/{model}/versions/{version}/variants/{variant}/artifacts", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), ("variant" = String, Path), Page), responses((status = 200, body = Artifacts), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Path((model, version, variant)): VariantPath,
    Params(page): Params<Page>,
) -> Result<Json<Artifacts>, ApiError> {
    let mut conn = state.db.reader().await?;
    let place = find::variant(&mut conn, &model, &version, &variant).await?;
    let mut rows = artifacts::list(&mut conn, place.variant.id, page.after(), page.fetch()?).await?;
    let next = page.cut(&mut rows, |it| it.digest.clone())?;
    let mut views = Vec::new();
    for row in rows {
        views.push(ArtifactView::load(&mut conn, row).await?);
    }
    Ok(Json(Artifacts { artifacts: views, next }))
}

/// Catalogs an artifact whose files are in place: each is read and its digest checked.
#[utoipa::path(post, path = "/models/{model}/versions/{version}/variants/{variant}/artifacts", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), ("variant" = String, Path)), request_body = NewArtifact, responses((status = 201, body = ArtifactView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    who: Who,
    Path((model, version, variant)): VariantPath,
    Body(new): Body<NewArtifact>,
) -> Result<(StatusCode, Json<ArtifactView>), ApiError> {
    let place = find::variant(&mut *state.db.reader().await?, &model, &version, &variant).await?;
    let uris: Vec<String> = new.files.iter().map(|it| it.uri.clone()).collect();
    let manifest = manifest(&place, new)?;
    verify(&state, &manifest, &uris).await?;
    let mut change = state.change(who.actor()).await?;
    let place = find::variant(change.conn(), &model, &version, &variant).await?;
    let row = rules::add(&mut change, &place, &manifest, &uris).await?;
    let view = ArtifactView::load(change.conn(), row).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// The manifest that a bundle of these files would have: the same rules hold for both.
fn manifest(place: &Place, new: NewArtifact) -> Result<Manifest, ApiError> {
    let (version, unreadable) = (&place.version, |e: &dyn std::fmt::Display| ApiError::Internal(format!("catalog row: {e}")));
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        model: ModelCard {
            name: place.model.name.clone(),
            source: version.source.clone(),
            license: version.license.clone(),
            dimension: version.dimension as u32,
            max_tokens: version.max_tokens as u32,
            pooling: version.pooling.parse().map_err(|e| unreadable(&e))?,
            normalized: version.normalized,
            embedding_space: version.embedding_space.clone(),
            tokenizer_sha256: version.tokenizer_sha256.clone(),
            prompts: serde_json::from_str(&version.prompts).map_err(|e| unreadable(&e))?,
            seeded: version.seeded,
        },
        variant: VariantCard { name: place.variant.name.clone(), precision: place.variant.precision.parse().map_err(|e| unreadable(&e))? },
        target: new.target,
        graph: new.graph,
        files: new.files.into_iter().map(|it| BundleFile { path: it.path, role: it.role, bytes: it.bytes, sha256: it.sha256 }).collect(),
        lineage: new.lineage,
        evaluation: new.evaluation,
        created_at: None,
    };
    let json = serde_json::to_vec(&manifest).map_err(|e| ApiError::Internal(e.to_string()))?;
    Manifest::parse(&json).map_err(|e| ApiError::Invalid(e.to_string()))
}

async fn verify(state: &ApiState, manifest: &Manifest, uris: &[String]) -> Result<(), ApiError> {
    for (file, uri) in manifest.files.iter().zip(uris) {
        let uri: ObjectUri = uri.parse().map_err(|e| ApiError::Invalid(format!("`{}`: {e}", file.path)))?;
        let wanted = Wanted { path: &file.path, bytes: file.bytes, sha256: &file.sha256 };
        state.blobs.verify(&uri, wanted, None, &AtomicU64::default()).await.map_err(|error| match error {
            // What the caller named cannot be read: its mistake as likely as ours.
            BlobError::Store(it) => ApiError::Invalid(it.to_string()),
            other => other.into(),
        })?;
    }
    Ok(source::check_reference(&state.blobs, manifest, uris).await?)
}

/// An artifact.
#[utoipa::path(get, path = "/models/{model}/versions/{version}/variants/{variant}/artifacts/{digest}", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), ("variant" = String, Path), ("digest" = String, Path)), responses((status = 200, body = ArtifactView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    Path((model, version, variant, digest)): ArtifactPath,
) -> Result<Json<ArtifactView>, ApiError> {
    let mut conn = state.db.reader().await?;
    let place = find::variant(&mut conn, &model, &version, &variant).await?;
    let row = find::artifact(&mut conn, &place, &digest).await?;
    Ok(Json(ArtifactView::load(&mut conn, row).await?))
}

/// Deletes a retired artifact that is the parent of none.
#[utoipa::path(delete, path = "/models/{model}/versions/{version}/variants/{variant}/artifacts/{digest}", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), ("variant" = String, Path), ("digest" = String, Path)), responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    who: Who,
    Path((model, version, variant, digest)): ArtifactPath,
) -> Result<StatusCode, ApiError> {
    let mut change = state.change(who.actor()).await?;
    let place = find::variant(change.conn(), &model, &version, &variant).await?;
    let row = find::artifact(change.conn(), &place, &digest).await?;
    rules::delete(&mut change, &place, &row).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Attaches a proof: past its gate the artifact becomes `ready`, else `validated`.
#[utoipa::path(post, path = "/models/{model}/versions/{version}/variants/{variant}/artifacts/{digest}/evaluations", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), ("variant" = String, Path), ("digest" = String, Path)), request_body = Object, responses((status = 201, body = ArtifactView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn evaluate(
    State(state): State<ApiState>,
    who: Who,
    Path((model, version, variant, digest)): ArtifactPath,
    Body(evaluation): Body<Evaluation>,
) -> Result<(StatusCode, Json<ArtifactView>), ApiError> {
    let mut change = state.change(who.actor()).await?;
    let place = find::variant(change.conn(), &model, &version, &variant).await?;
    let mut row = find::artifact(change.conn(), &place, &digest).await?;
    rules::evaluate(&mut change, &place, &mut row, &evaluation).await?;
    let view = ArtifactView::load(change.conn(), row).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Takes an artifact out of service, or back.
#[utoipa::path(put, path = "/models/{model}/versions/{version}/variants/{variant}/artifacts/{digest}/state", tag = "catalog", params(("model" = String, Path), ("version" = String, Path), ("variant" = String, Path), ("digest" = String, Path)), request_body = NewState, responses((status = 200, body = ArtifactView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn set_state(
    State(state): State<ApiState>,
    who: Who,
    Path((model, version, variant, digest)): ArtifactPath,
    Body(new): Body<NewState>,
) -> Result<Json<ArtifactView>, ApiError> {
    let mut change = state.change(who.actor()).await?;
    let place = find::variant(change.conn(), &model, &version, &variant).await?;
    let mut row = find::artifact(change.conn(), &place, &digest).await?;
    rules::set_state(&mut change, &place, &mut row, new.state).await?;
    let view = ArtifactView::load(change.conn(), row).await?;
    change.commit().await?;
    Ok(Json(view))
}
