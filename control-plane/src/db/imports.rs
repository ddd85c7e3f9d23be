//! Imports and their progress. Enters: progress. Leaves: rows. Never: a `running` row after a restart.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct ImportRow {
    pub(crate) id: String,
    pub(crate) uri: String,
    pub(crate) state: String,
    pub(crate) done_bytes: i64,
    pub(crate) total_bytes: i64,
    pub(crate) artifact_digest: Option<String>,
    pub(crate) error: String,
    pub(crate) created_at: i64,
}

pub(crate) async fn insert(conn: &mut Conn, id: &str, uri: &str, at: i64) -> Result<(), Error> {
    sqlx::query!("INSERT INTO imports (id, uri, state, created_at, updated_at) VALUES (?1, ?2, 'running', ?3, ?3)", id, uri, at)
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn find(conn: &mut Conn, id: &str) -> Result<Option<ImportRow>, Error> {
    sqlx::query_as!(
        ImportRow,
        r#"SELECT id AS "id!", uri, state, done_bytes, total_bytes, artifact_digest, error, created_at FROM imports WHERE id = ?"#,
        id
    )
    .fetch_optional(conn)
    .await
}

pub(crate) async fn progress(conn: &mut Conn, id: &str, done: u64, total: u64, at: i64) -> Result<(), Error> {
    let (done, total) = (done as i64, total as i64);
    sqlx::query!(
        "UPDATE imports SET done_bytes = ?, total_bytes = ?, updated_at = ? WHERE id = ? AND state = 'running'",
        done,
        total,
        at,
        id
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn succeed(conn: &mut Conn, id: &str, digest: &str, bytes: u64, at: i64) -> Result<(), Error> {
    let bytes = bytes as i64;
    sqlx::query!(
        "UPDATE imports SET state = 'succeeded', artifact_digest = ?1, done_bytes = ?4, total_bytes = ?4, updated_at = ?2 WHERE id = ?3",
        digest,
        at,
        id,
        bytes
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether it still ran; one that is done stays as it is.
pub(crate) async fn fail(conn: &mut Conn, id: &str, error: &str, at: i64) -> Result<bool, Error> {
    let done =
        sqlx::query!("UPDATE imports SET state = 'failed', error = ?, updated_at = ? WHERE id = ? AND state = 'running'", error, at, id)
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Imports that a stop cut off.
pub(crate) async fn fail_running(conn: &mut Conn, error: &str, at: i64) -> Result<u64, Error> {
    let done = sqlx::query!("UPDATE imports SET state = 'failed', error = ?, updated_at = ? WHERE state = 'running'", error, at)
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;

    #[tokio::test]
    async fn a_stop_after_the_end_does_not_undo_a_success() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("test.db")).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        for id in ["done", "running"] {
            insert(&mut tx, id, "file:///b", 1).await.unwrap();
        }
        succeed(&mut tx, "done", "d", 9, 2).await.unwrap();
        assert!(!fail(&mut tx, "done", "stopped", 3).await.unwrap() && fail(&mut tx, "running", "stopped", 3).await.unwrap());
        let done = find(&mut tx, "done").await.unwrap().unwrap();
        assert_eq!((done.state.as_str(), done.error.as_str()), ("succeeded", ""));
        assert_eq!(find(&mut tx, "running").await.unwrap().unwrap().state, "failed");
    }
}
