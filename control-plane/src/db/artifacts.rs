//! Artifacts, their files and evaluations. Enters: checked values. Leaves: rows. Never: a verdict.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct ArtifactRow {
    pub(crate) digest: String,
    pub(crate) variant_id: i64,
    pub(crate) state: String,
    pub(crate) provider: String,
    pub(crate) compute_capability: String,
    pub(crate) tensorrt_version: String,
    pub(crate) shape_profile: String,
    pub(crate) graph: String,
    pub(crate) lineage: String,
    pub(crate) parent_digest: Option<String>,
    pub(crate) bytes: i64,
    pub(crate) created_at: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct FileRow {
    pub(crate) path: String,
    pub(crate) role: String,
    pub(crate) uri: String,
    pub(crate) bytes: i64,
    pub(crate) sha256: String,
}

#[derive(Debug, Clone)]
pub(crate) struct EvaluationRow {
    pub(crate) report: String,
    pub(crate) verdict: String,
    pub(crate) reason: String,
    pub(crate) created_at: i64,
}

pub(crate) async fn insert(conn: &mut Conn, it: &ArtifactRow, files: &[FileRow]) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO artifacts (digest, variant_id, state, provider, compute_capability, tensorrt_version, shape_profile, graph, lineage, parent_digest, bytes, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        it.digest,
        it.variant_id,
        it.state,
        it.provider,
        it.compute_capability,
        it.tensorrt_version,
        it.shape_profile,
        it.graph,
        it.lineage,
        it.parent_digest,
        it.bytes,
        it.created_at
    )
    .execute(&mut *conn)
    .await?;
    for file in files {
        sqlx::query!(
            "INSERT INTO artifact_files (artifact_digest, path, role, uri, bytes, sha256) VALUES (?, ?, ?, ?, ?, ?)",
            it.digest,
            file.path,
            file.role,
            file.uri,
            file.bytes,
            file.sha256
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

pub(crate) async fn find(conn: &mut Conn, digest: &str) -> Result<Option<ArtifactRow>, Error> {
    sqlx::query_as!(
        ArtifactRow,
        r#"SELECT digest AS "digest!", variant_id, state, provider, compute_capability, tensorrt_version, shape_profile, graph, lineage, parent_digest, bytes, created_at
           FROM artifacts WHERE digest = ?"#,
        digest
    )
    .fetch_optional(conn)
    .await
}

/// The artifact that holds a target's place in a variant, retired ones aside.
pub(crate) async fn live_for_target(conn: &mut Conn, it: &ArtifactRow) -> Result<Option<String>, Error> {
    sqlx::query_scalar!(
        r#"SELECT digest AS "digest!" FROM artifacts
           WHERE variant_id = ? AND provider = ? AND compute_capability = ? AND tensorrt_version = ? AND shape_profile = ? AND state <> 'retired'"#,
        it.variant_id,
        it.provider,
        it.compute_capability,
        it.tensorrt_version,
        it.shape_profile
    )
    .fetch_optional(conn)
    .await
}

pub(crate) async fn list(conn: &mut Conn, variant_id: i64, after: &str, limit: i64) -> Result<Vec<ArtifactRow>, Error> {
    sqlx::query_as!(
        ArtifactRow,
        r#"SELECT digest AS "digest!", variant_id, state, provider, compute_capability, tensorrt_version, shape_profile, graph, lineage, parent_digest, bytes, created_at
           FROM artifacts WHERE variant_id = ? AND digest > ? ORDER BY digest LIMIT ?"#,
        variant_id,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn files(conn: &mut Conn, digest: &str) -> Result<Vec<FileRow>, Error> {
    sqlx::query_as!(FileRow, "SELECT path, role, uri, bytes, sha256 FROM artifact_files WHERE artifact_digest = ? ORDER BY path", digest)
        .fetch_all(conn)
        .await
}

pub(crate) async fn set_state(conn: &mut Conn, digest: &str, state: &str) -> Result<(), Error> {
    sqlx::query!("UPDATE artifacts SET state = ? WHERE digest = ?", state, digest).execute(conn).await?;
    Ok(())
}

pub(crate) async fn delete(conn: &mut Conn, digest: &str) -> Result<(), Error> {
    sqlx::query!("DELETE FROM artifacts WHERE digest = ?", digest).execute(conn).await?;
    Ok(())
}

/// How many artifacts a variant has, and how many of them are ready.
pub(crate) async fn count(conn: &mut Conn, variant_id: i64) -> Result<(i64, i64), Error> {
    let row = sqlx::query!(
        r#"SELECT COUNT(*) AS "all_of_them!: i64", COALESCE(SUM(state = 'ready'), 0) AS "ready!: i64" FROM artifacts WHERE variant_id = ?"#,
        variant_id
    )
    .fetch_one(conn)
    .await?;
    Ok((row.all_of_them, row.ready))
}

pub(crate) async fn children(conn: &mut Conn, digest: &str) -> Result<i64, Error> {
    sqlx::query_scalar!("SELECT COUNT(*) FROM artifacts WHERE parent_digest = ?", digest).fetch_one(conn).await
}

pub(crate) async fn insert_evaluation(conn: &mut Conn, digest: &str, kind: &str, it: &EvaluationRow) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO evaluations (artifact_digest, kind, report, verdict, reason, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        digest,
        kind,
        it.report,
        it.verdict,
        it.reason,
        it.created_at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The newest evaluations, newest first.
pub(crate) async fn evaluations(conn: &mut Conn, digest: &str, limit: i64) -> Result<Vec<EvaluationRow>, Error> {
    sqlx::query_as!(
        EvaluationRow,
        "SELECT report, verdict, reason, created_at FROM evaluations WHERE artifact_digest = ? ORDER BY id DESC LIMIT ?",
        digest,
        limit
    )
    .fetch_all(conn)
    .await
}
