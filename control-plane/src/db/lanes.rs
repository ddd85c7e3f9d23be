//! What the decider reads: windows of experiments, and the sidecars that take part. Enters: both, as they come. Leaves: rows. Never: a
//! window twice.

use super::{Conn, Error};

/// A window of an experiment.
#[derive(Debug, Clone)]
pub(crate) struct WindowRow {
    pub(crate) boot_id: String,
    pub(crate) sequence: i64,
    pub(crate) sidecar_id: String,
    pub(crate) start_ns: i64,
    pub(crate) received_at: i64,
    pub(crate) payload: Vec<u8>,
}

pub(crate) async fn insert(conn: &mut Conn, experiment: &str, it: &WindowRow) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO experiment_windows (experiment_id, boot_id, sequence, sidecar_id, start_ns, received_at, payload) VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (experiment_id, boot_id, sequence) DO NOTHING",
        experiment,
        it.boot_id,
        it.sequence,
        it.sidecar_id,
        it.start_ns,
        it.received_at,
        it.payload
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Windows that start in a stretch, in an order that does not depend on how they came.
pub(crate) async fn windows(conn: &mut Conn, experiment: &str, from_ns: u64, to_ns: u64) -> Result<Vec<WindowRow>, Error> {
    let (from_ns, to_ns) = (from_ns as i64, to_ns as i64);
    sqlx::query_as!(
        WindowRow,
        r#"SELECT boot_id, sequence AS "sequence!", sidecar_id, start_ns, received_at, payload FROM experiment_windows
           WHERE experiment_id = ? AND start_ns >= ? AND start_ns < ? ORDER BY start_ns, sidecar_id, sequence"#,
        experiment,
        from_ns,
        to_ns
    )
    .fetch_all(conn)
    .await
}

/// A sidecar with its present boot.
#[derive(Debug, Clone)]
pub(crate) struct SeenRow {
    pub(crate) sidecar_id: String,
    pub(crate) app: String,
    pub(crate) devices: String,
    pub(crate) boot_id: String,
    pub(crate) boot_ns: i64,
    pub(crate) last_end_ns: i64,
    pub(crate) finished: bool,
    pub(crate) active_epoch: i64,
    pub(crate) active_n: i64,
    pub(crate) last_seen_at: i64,
}

pub(crate) async fn seen(conn: &mut Conn) -> Result<Vec<SeenRow>, Error> {
    sqlx::query_as!(
        SeenRow,
        r#"SELECT sidecars.id AS "sidecar_id!", sidecars.app, sidecars.devices, sidecars.boot_id, boots.boot_ns, boots.last_end_ns,
                  boots.finished AS "finished: bool", sidecars.active_epoch, sidecars.active_n, sidecars.last_seen_at
           FROM sidecars JOIN boots ON boots.boot_id = sidecars.boot_id ORDER BY sidecars.id"#
    )
    .fetch_all(conn)
    .await
}

/// A sidecar that takes part, and what became of the boot last seen.
#[derive(Debug, Clone)]
pub(crate) struct MemberRow {
    pub(crate) sidecar_id: String,
    pub(crate) boot_id: String,
    pub(crate) canary: bool,
    pub(crate) finished: bool,
}

pub(crate) async fn members(conn: &mut Conn, experiment: &str) -> Result<Vec<MemberRow>, Error> {
    sqlx::query_as!(
        MemberRow,
        r#"SELECT it.sidecar_id, it.boot_id, it.canary AS "canary: bool", COALESCE(boots.finished, 0) AS "finished!: bool"
           FROM experiment_sidecars AS it LEFT JOIN boots ON boots.boot_id = it.boot_id WHERE it.experiment_id = ? ORDER BY it.sidecar_id"#,
        experiment
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn put_member(conn: &mut Conn, experiment: &str, sidecar_id: &str, boot_id: &str, canary: bool) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO experiment_sidecars (experiment_id, sidecar_id, boot_id, canary) VALUES (?, ?, ?, ?)
         ON CONFLICT (experiment_id, sidecar_id) DO UPDATE SET boot_id = excluded.boot_id, canary = excluded.canary",
        experiment,
        sidecar_id,
        boot_id,
        canary
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn drop_member(conn: &mut Conn, experiment: &str, sidecar_id: &str) -> Result<(), Error> {
    sqlx::query!("DELETE FROM experiment_sidecars WHERE experiment_id = ? AND sidecar_id = ?", experiment, sidecar_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// A boot is over: what it held of each experiment's canary is written down before its artifact states go.
pub(crate) async fn note_canaries(conn: &mut Conn, sidecar_id: &str) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE experiment_sidecars SET canary = 1 WHERE sidecar_id = ?1 AND EXISTS (
             SELECT 1 FROM experiments JOIN artifact_status AS held ON held.sidecar_id = ?1 AND held.model = experiments.model
                 AND held.version = experiments.canary_version AND held.variant = experiments.canary_variant
             WHERE experiments.id = experiment_sidecars.experiment_id AND held.state IN ('loading', 'ready'))",
        sidecar_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What a sidecar does with one variant's artifact.
#[derive(Debug, Clone)]
pub(crate) struct HeldRow {
    pub(crate) sidecar_id: String,
    pub(crate) state: String,
    pub(crate) reason: String,
}

pub(crate) async fn held(conn: &mut Conn, model: &str, version: &str, variant: &str) -> Result<Vec<HeldRow>, Error> {
    sqlx::query_as!(
        HeldRow,
        "SELECT sidecar_id, state, reason FROM artifact_status WHERE model = ? AND version = ? AND variant = ? ORDER BY sidecar_id, digest",
        model,
        version,
        variant
    )
    .fetch_all(conn)
    .await
}

/// Windows given up after a gap's id: the newest id, and each sidecar's number of windows.
#[derive(Debug, Clone)]
pub(crate) struct LostRow {
    pub(crate) id: i64,
    pub(crate) sidecar_id: String,
    pub(crate) windows: i64,
}

pub(crate) async fn lost(conn: &mut Conn, after: i64) -> Result<Vec<LostRow>, Error> {
    sqlx::query_as!(
        LostRow,
        r#"SELECT id AS "id!", sidecar_id, to_sequence - from_sequence + 1 AS "windows!: i64" FROM gaps
           WHERE id > ? AND kind IN ('dropped_windows', 'rejected') ORDER BY id LIMIT 10000"#,
        after
    )
    .fetch_all(conn)
    .await
}

/// The newest of them. Others do not count: one that is forgotten leaves its id to the next.
pub(crate) async fn newest_lost(conn: &mut Conn) -> Result<i64, Error> {
    sqlx::query_scalar!(r#"SELECT COALESCE(MAX(id), 0) AS "id!: i64" FROM gaps WHERE kind IN ('dropped_windows', 'rejected')"#)
        .fetch_one(conn)
        .await
}

/// Requests of a model in the ledger since an hour, and the hours it has any in.
pub(crate) async fn requests_since(conn: &mut Conn, model: &str, hour: i64) -> Result<(i64, i64), Error> {
    let row = sqlx::query!(
        r#"SELECT COALESCE(SUM(requests), 0) AS "requests!: i64", COUNT(DISTINCT hour) AS "hours!: i64" FROM lane_hours WHERE model = ? AND hour >= ?"#,
        model,
        hour
    )
    .fetch_one(conn)
    .await?;
    Ok((row.requests, row.hours))
}
