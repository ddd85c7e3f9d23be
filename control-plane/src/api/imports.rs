//! Imports. Enters: a URI or a manifest. Leaves: an import to ask about. Never: a wait for a large file.

use akidb_domain::bundle::Manifest;
use akidb_domain::vocabulary::ArtifactState;
use akidb_store::ObjectUri;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Who};
use crate::catalog::register::Wish;
use crate::clock::rfc3339_ms;
use crate::db::{artifacts, imports, variants};

/// What to import: `uri` or `manifest`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewImport {
    /// `s3://bucket/prefix` or `file:///folder`.
    uri: Option<String>,
    /// A `manifest.json` whose files were uploaded as blobs.
    #[schema(value_type = Option<Object>)]
    manifest: Option<Value>,
    /// Default: the version of the artifact that it was made from, where that is catalogued and of the same model, else `1`.
    version: Option<String>,
    /// Move `stable` and `default` to it.
    #[serde(default)]
    set_default: bool,
}

/// An import, as far as it has come.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ImportView {
    id: String,
    /// `running`, `succeeded` or `failed`.
    state: String,
    uri: String,
    done_bytes: i64,
    total_bytes: i64,
    model: Option<String>,
    version: Option<String>,
    variant: Option<String>,
    digest: Option<String>,
    artifact_state: Option<String>,
    /// One sentence, when its evaluation failed: it is catalogued and not served.
    evaluation_error: Option<String>,
    /// One sentence, when it failed.
    error: Option<String>,
    created_at: String,
}

/// Imports a bundle: 202 from a URI, 201 from blobs.
#[utoipa::path(post, path = "/imports", tag = "imports", request_body = NewImport, responses((status = 202, body = ImportView), (status = 201, body = ImportView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    who: Who,
    Body(new): Body<NewImport>,
) -> Result<(StatusCode, Json<ImportView>), ApiError> {
    let wish = Wish { version: new.version, set_default: new.set_default };
    let (status, id) = match (new.uri, new.manifest) {
        (Some(uri), None) => {
            let uri: ObjectUri = uri.parse().map_err(|e| ApiError::Invalid(format!("`uri`: {e}")))?;
            (StatusCode::ACCEPTED, state.importer.start(uri, wish, who.actor()).await?)
        }
        (None, Some(manifest)) => {
            let manifest = Manifest::parse(manifest.to_string().as_bytes()).map_err(|e| ApiError::Invalid(e.to_string()))?;
            (StatusCode::CREATED, state.importer.import_blobs(&manifest, wish, who.actor()).await?)
        }
        _ => return Err(ApiError::Invalid("send either `uri` or `manifest`".to_owned())),
    };
    Ok((status, Json(load(&state, &id).await?)))
}

/// An import, as far as it has come.
#[utoipa::path(get, path = "/imports/{id}", tag = "imports", params(("id" = String, Path)), responses((status = 200, body = ImportView), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn get(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<ImportView>, ApiError> {
    Ok(Json(load(&state, &id).await?))
}

async fn load(state: &ApiState, id: &str) -> Result<ImportView, ApiError> {
    let mut tx = state.db.begin_read().await?;
    let row = imports::find(&mut tx, id).await?.ok_or_else(|| ApiError::NotFound(format!("import `{id}` does not exist")))?;
    let mut view = ImportView {
        id: row.id,
        state: row.state,
        uri: row.uri,
        done_bytes: row.done_bytes,
        total_bytes: row.total_bytes,
        digest: row.artifact_digest,
        error: (!row.error.is_empty()).then_some(row.error),
        created_at: rfc3339_ms(row.created_at),
        ..ImportView::default()
    };
    let artifact = match &view.digest {
        Some(digest) => artifacts::find(&mut tx, digest).await?,
        None => None,
    };
    if let Some(artifact) = artifact {
        let path = variants::path(&mut tx, artifact.variant_id).await?;
        (view.model, view.version, view.variant) = (Some(path.model), Some(path.version), Some(path.variant));
        if artifact.state == ArtifactState::Validated.as_str() {
            view.evaluation_error = artifacts::evaluations(&mut tx, &artifact.digest, 1).await?.into_iter().next().map(|it| it.reason);
        }
        view.artifact_state = Some(artifact.state);
    }
    Ok(view)
}
