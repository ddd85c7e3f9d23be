//! Rows as callers see them. Enters: rows. Leaves: JSON shapes. Never: a database id.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::catalog::served;
use crate::clock::rfc3339_ms;
use crate::db::aliases::AliasRow;
use crate::db::artifacts::{self, ArtifactRow, EvaluationRow, FileRow};
use crate::db::models::ModelRow;
use crate::db::variants::VariantRow;
use crate::db::versions::VersionRow;
use crate::db::{Conn, Error};

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelView {
    name: String,
    description: String,
    /// RFC 3339.
    created_at: String,
}

impl From<ModelRow> for ModelView {
    fn from(it: ModelRow) -> Self {
        Self { name: it.name, description: it.description, created_at: rfc3339_ms(it.created_at) }
    }
}

/// A version.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionView {
    name: String,
    dimension: i64,
    max_tokens: i64,
    pooling: String,
    normalized: bool,
    embedding_space: String,
    tokenizer_sha256: String,
    license: Option<String>,
    source: Option<String>,
    prompts: BTreeMap<String, String>,
    /// Random weights, for speed tests only.
    seeded: bool,
    created_at: String,
}

impl From<VersionRow> for VersionView {
    fn from(it: VersionRow) -> Self {
        Self {
            name: it.name,
            dimension: it.dimension,
            max_tokens: it.max_tokens,
            pooling: it.pooling,
            normalized: it.normalized,
            embedding_space: it.embedding_space,
            tokenizer_sha256: it.tokenizer_sha256,
            license: it.license,
            source: it.source,
            prompts: serde_json::from_str(&it.prompts).unwrap_or_default(),
            seeded: it.seeded,
            created_at: rfc3339_ms(it.created_at),
        }
    }
}

/// A variant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VariantView {
    name: String,
    precision: String,
    created_at: String,
}

impl From<VariantRow> for VariantView {
    fn from(it: VariantRow) -> Self {
        Self { name: it.name, precision: it.precision, created_at: rfc3339_ms(it.created_at) }
    }
}

/// An artifact with its files and newest evaluations.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ArtifactView {
    digest: String,
    /// `uploaded`, `validated`, `ready` or `retired`.
    state: String,
    #[schema(value_type = Object)]
    target: Value,
    #[schema(value_type = Object)]
    graph: Value,
    #[schema(value_type = Object)]
    lineage: Value,
    bytes: i64,
    files: Vec<FileView>,
    /// Newest first.
    evaluations: Vec<EvaluationView>,
    created_at: String,
}

/// A file of an artifact.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileView {
    path: String,
    role: String,
    uri: String,
    bytes: i64,
    sha256: String,
}

impl From<FileRow> for FileView {
    fn from(it: FileRow) -> Self {
        Self { path: it.path, role: it.role, uri: it.uri, bytes: it.bytes, sha256: it.sha256 }
    }
}

/// A proof and what came of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EvaluationView {
    /// `passed`, `not_applicable` or `failed`.
    verdict: String,
    /// Why it failed or does not apply.
    reason: String,
    #[schema(value_type = Object)]
    report: Value,
    created_at: String,
}

impl From<EvaluationRow> for EvaluationView {
    fn from(it: EvaluationRow) -> Self {
        Self { verdict: it.verdict, reason: it.reason, report: json(&it.report), created_at: rfc3339_ms(it.created_at) }
    }
}

impl ArtifactView {
    /// Reads what belongs to an artifact.
    pub(crate) async fn load(conn: &mut Conn, row: ArtifactRow) -> Result<Self, Error> {
        let files = artifacts::files(conn, &row.digest).await?;
        let evaluations = artifacts::evaluations(conn, &row.digest, 20).await?;
        Ok(Self {
            target: serde_json::json!(served::target(&row)),
            digest: row.digest,
            state: row.state,
            graph: json(&row.graph),
            lineage: json(&row.lineage),
            bytes: row.bytes,
            files: files.into_iter().map(Into::into).collect(),
            evaluations: evaluations.into_iter().map(Into::into).collect(),
            created_at: rfc3339_ms(row.created_at),
        })
    }
}

/// An alias.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AliasView {
    name: String,
    version: String,
    variant: String,
    /// What `If-Match` compares.
    pub(crate) revision: i64,
    /// `default` no longer follows `stable`.
    moved_by_hand: bool,
    updated_at: String,
}

impl From<AliasRow> for AliasView {
    fn from(it: AliasRow) -> Self {
        Self {
            name: it.name,
            version: it.version,
            variant: it.variant,
            revision: it.revision,
            moved_by_hand: it.moved_by_hand,
            updated_at: rfc3339_ms(it.updated_at),
        }
    }
}

/// JSON that was checked before it was written.
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// An RFC 3339 time out of a request.
pub(crate) fn time(field: &str, text: &str) -> Result<u64, ApiError> {
    let bad = || ApiError::Malformed(format!("`{field}`: `{text}` is not an RFC 3339 time such as 2026-01-31T00:00:00Z"));
    crate::clock::parse_rfc3339(text).ok_or_else(bad)
}
