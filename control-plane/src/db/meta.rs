//! The one row that says which database this is and which snapshot it is at. Enters: changes. Leaves: the version. Never: an older version.

use akidb_domain::snapshot::SnapshotVersion;

use super::{Conn, Error};

/// Writes the row of a new database; an old one keeps its own. The first epoch is the Unix second: where a database was lost without a
/// backup, the sidecars hold snapshots of an earlier one.
pub(crate) async fn initialise(conn: &mut Conn, installation: &str, at_ms: i64) -> Result<(), Error> {
    let epoch = at_ms / 1_000;
    sqlx::query!(
        "INSERT INTO meta (id, epoch, snapshot_n, installation) VALUES (1, ?, 1, ?) ON CONFLICT (id) DO NOTHING",
        epoch,
        installation
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn version(conn: &mut Conn) -> Result<SnapshotVersion, Error> {
    let row = sqlx::query!("SELECT epoch, snapshot_n FROM meta WHERE id = 1").fetch_one(conn).await?;
    Ok(SnapshotVersion { epoch: row.epoch as u64, n: row.snapshot_n as u64 })
}

/// A sidecar could see what this transaction changes.
pub(crate) async fn bump_snapshot(conn: &mut Conn) -> Result<(), Error> {
    sqlx::query!("UPDATE meta SET snapshot_n = snapshot_n + 1 WHERE id = 1").execute(conn).await?;
    Ok(())
}

/// A new life of the database: everything a sidecar holds of another epoch is older.
pub(crate) async fn set_epoch(conn: &mut Conn, epoch: u64) -> Result<(), Error> {
    let epoch = epoch as i64;
    sqlx::query!("UPDATE meta SET epoch = ? WHERE id = 1", epoch).execute(conn).await?;
    Ok(())
}
