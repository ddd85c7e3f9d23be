//! Boots with their high-water marks, and gaps. Enters: marks that only grow. Leaves: rows. Never: a window counted twice.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct BootRow {
    pub(crate) boot_id: String,
    pub(crate) sidecar_id: String,
    pub(crate) boot_ns: i64,
    pub(crate) high_water_mark: i64,
    pub(crate) finished: bool,
    pub(crate) lost_observations: i64,
    pub(crate) last_end_ns: i64,
    pub(crate) rejected_sequence: i64,
    pub(crate) created_at: i64,
}

/// Something known to be missing.
#[derive(Debug, Clone)]
pub(crate) struct GapRow {
    pub(crate) boot_id: String,
    pub(crate) kind: String,
    pub(crate) from_sequence: i64,
    pub(crate) to_sequence: i64,
    pub(crate) noticed_at: i64,
}

/// A row for a boot; an old one is left alone. Whether it is new.
pub(crate) async fn ensure(conn: &mut Conn, boot_id: &str, sidecar_id: &str, boot_ns: u64, at: i64) -> Result<bool, Error> {
    let boot_ns = boot_ns as i64;
    let done = sqlx::query!(
        "INSERT INTO boots (boot_id, sidecar_id, boot_ns, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (boot_id) DO NOTHING",
        boot_id,
        sidecar_id,
        boot_ns,
        at
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn find(conn: &mut Conn, boot_id: &str) -> Result<Option<BootRow>, Error> {
    sqlx::query_as!(
        BootRow,
        r#"SELECT boot_id AS "boot_id!", sidecar_id, boot_ns, high_water_mark, finished AS "finished: bool", lost_observations, last_end_ns, rejected_sequence, created_at
           FROM boots WHERE boot_id = ?"#,
        boot_id
    )
    .fetch_optional(conn)
    .await
}

/// The newest boots of a sidecar, newest first.
pub(crate) async fn of_sidecar(conn: &mut Conn, sidecar_id: &str, limit: i64) -> Result<Vec<BootRow>, Error> {
    sqlx::query_as!(
        BootRow,
        r#"SELECT boot_id AS "boot_id!", sidecar_id, boot_ns, high_water_mark, finished AS "finished: bool", lost_observations, last_end_ns, rejected_sequence, created_at
           FROM boots WHERE sidecar_id = ? ORDER BY created_at DESC, boot_ns DESC LIMIT ?"#,
        sidecar_id,
        limit
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn update(conn: &mut Conn, it: &BootRow) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE boots SET high_water_mark = ?, finished = ?, lost_observations = ?, last_end_ns = ? WHERE boot_id = ?",
        it.high_water_mark,
        it.finished,
        it.lost_observations,
        it.last_end_ns,
        it.boot_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Remembers which window was refused, so that the gap it leaves gets its right name.
pub(crate) async fn reject(conn: &mut Conn, boot_id: &str, sequence: u64) -> Result<(), Error> {
    let sequence = sequence as i64;
    sqlx::query!("UPDATE boots SET rejected_sequence = ? WHERE boot_id = ?", sequence, boot_id).execute(conn).await?;
    Ok(())
}

pub(crate) async fn insert_gap(conn: &mut Conn, sidecar_id: &str, it: &GapRow) -> Result<bool, Error> {
    let done = sqlx::query!(
        "INSERT INTO gaps (sidecar_id, boot_id, kind, from_sequence, to_sequence, noticed_at) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (boot_id, kind, from_sequence) DO NOTHING",
        sidecar_id,
        it.boot_id,
        it.kind,
        it.from_sequence,
        it.to_sequence,
        it.noticed_at
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Every earlier boot of a sidecar that never said it ended gets its gap; how many are new.
pub(crate) async fn note_unclean_ends(conn: &mut Conn, sidecar_id: &str, boot_id: &str, at: i64) -> Result<u64, Error> {
    let done = sqlx::query!(
        "INSERT INTO gaps (sidecar_id, boot_id, kind, from_sequence, to_sequence, noticed_at)
         SELECT sidecar_id, boot_id, 'unclean_end', 0, 0, ?1 FROM boots WHERE sidecar_id = ?2 AND boot_id <> ?3 AND finished = 0
         ON CONFLICT (boot_id, kind, from_sequence) DO NOTHING",
        at,
        sidecar_id,
        boot_id
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Its last window came after all, out of the spool.
pub(crate) async fn forget_unclean_end(conn: &mut Conn, boot_id: &str) -> Result<(), Error> {
    sqlx::query!("DELETE FROM gaps WHERE boot_id = ? AND kind = 'unclean_end'", boot_id).execute(conn).await?;
    Ok(())
}

/// The newest gaps of a sidecar, newest first.
pub(crate) async fn gaps(conn: &mut Conn, sidecar_id: &str, limit: i64) -> Result<Vec<GapRow>, Error> {
    sqlx::query_as!(
        GapRow,
        "SELECT boot_id, kind, from_sequence, to_sequence, noticed_at FROM gaps WHERE sidecar_id = ? ORDER BY id DESC LIMIT ?",
        sidecar_id,
        limit
    )
    .fetch_all(conn)
    .await
}
