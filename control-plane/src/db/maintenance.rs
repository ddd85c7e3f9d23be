//! Deletes what is past its retention, and copies the whole. Enters: moments. Leaves: counts. Never: a roll-up, a price or an audit row.

use super::{Conn, Error};

/// Rows a transaction deletes, so that reports never wait long.
const BATCH: i64 = 2_000;

/// Deletes a batch of single windows; how many went.
pub(crate) async fn delete_windows(conn: &mut Conn, received_before: i64) -> Result<u64, Error> {
    let done = sqlx::query!(
        "DELETE FROM windows WHERE (boot_id, sequence) IN (SELECT boot_id, sequence FROM windows WHERE received_at < ? LIMIT ?)",
        received_before,
        BATCH
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes a batch of experiments' windows that no look will read; how many went.
pub(crate) async fn delete_lanes(conn: &mut Conn, received_before: i64) -> Result<u64, Error> {
    let done = sqlx::query!(
        "DELETE FROM experiment_windows WHERE (experiment_id, boot_id, sequence) IN
             (SELECT experiment_id, boot_id, sequence FROM experiment_windows WHERE received_at < ? LIMIT ?)",
        received_before,
        BATCH
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes what belongs to sidecars and callers long gone.
pub(crate) async fn delete_stale(conn: &mut Conn, before: i64) -> Result<(), Error> {
    sqlx::query!("DELETE FROM sidecars WHERE last_seen_at < ?", before).execute(&mut *conn).await?;
    sqlx::query!(
        "DELETE FROM boots WHERE created_at < ?1 AND sidecar_id NOT IN (SELECT id FROM sidecars)
         AND NOT EXISTS (SELECT 1 FROM windows WHERE windows.boot_id = boots.boot_id)",
        before
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM gaps WHERE noticed_at < ?1 AND sidecar_id NOT IN (SELECT id FROM sidecars)", before)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM imports WHERE state <> 'running' AND updated_at < ?", before).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM experiment_events WHERE kind = 'look' AND at < ?", before).execute(&mut *conn).await?;
    sqlx::query!(
        "DELETE FROM experiment_sidecars WHERE experiment_id NOT IN (SELECT id FROM experiments WHERE life IN ('running', 'paused'))"
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM tokens WHERE revoked_at < ?", before).execute(conn).await?;
    Ok(())
}

/// Writes a consistent copy while others go on.
pub(crate) async fn copy_to(conn: &mut Conn, path: &str) -> Result<(), Error> {
    sqlx::query!("VACUUM INTO ?", path).execute(conn).await?;
    Ok(())
}

/// What is wrong with the file; `ok` when nothing is.
pub(crate) async fn integrity(conn: &mut Conn) -> Result<String, Error> {
    // A pragma has no columns that the macros could check.
    let (answer,): (String,) = sqlx::query_as("PRAGMA integrity_check(1)").fetch_one(&mut *conn).await?;
    let broken: Option<(String,)> = sqlx::query_as("SELECT \"table\" FROM pragma_foreign_key_check LIMIT 1").fetch_optional(conn).await?;
    Ok(broken.map_or(answer, |(table,)| format!("a row of `{table}` references one that is not there")))
}
