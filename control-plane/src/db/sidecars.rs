//! Sidecars and what each does with each artifact. Enters: identities and reports. Leaves: rows. Never: who is connected now.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct SidecarRow {
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) app: String,
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) version: String,
    pub(crate) devices: String,
    pub(crate) providers: String,
    pub(crate) boot_id: String,
    pub(crate) active_epoch: i64,
    pub(crate) active_n: i64,
    pub(crate) nack_reason: String,
    pub(crate) first_seen_at: i64,
    pub(crate) last_seen_at: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct StatusRow {
    pub(crate) digest: String,
    pub(crate) model: String,
    pub(crate) version: String,
    pub(crate) variant: String,
    pub(crate) state: String,
    pub(crate) provider: String,
    pub(crate) reason: String,
    pub(crate) done_bytes: i64,
    pub(crate) total_bytes: i64,
    pub(crate) updated_at: i64,
}

/// Most artifacts one sidecar may report on.
const MAX_STATUS_ROWS: i64 = 1_024;

pub(crate) async fn register(conn: &mut Conn, it: &SidecarRow) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO sidecars (id, namespace, app, pod, node, version, devices, providers, boot_id, active_epoch, active_n, first_seen_at, last_seen_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12)
         ON CONFLICT (id) DO UPDATE SET namespace = excluded.namespace, app = excluded.app, pod = excluded.pod, node = excluded.node,
             version = excluded.version, devices = excluded.devices, providers = excluded.providers, boot_id = excluded.boot_id,
             active_epoch = excluded.active_epoch, active_n = excluded.active_n, nack_reason = '', last_seen_at = excluded.last_seen_at",
        it.id,
        it.namespace,
        it.app,
        it.pod,
        it.node,
        it.version,
        it.devices,
        it.providers,
        it.boot_id,
        it.active_epoch,
        it.active_n,
        it.last_seen_at
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn find(conn: &mut Conn, id: &str) -> Result<Option<SidecarRow>, Error> {
    sqlx::query_as!(
        SidecarRow,
        r#"SELECT id AS "id!", namespace, app, pod, node, version, devices, providers, boot_id, active_epoch, active_n, nack_reason, first_seen_at, last_seen_at
           FROM sidecars WHERE id = ?"#,
        id
    )
    .fetch_optional(conn)
    .await
}

pub(crate) async fn list(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<SidecarRow>, Error> {
    sqlx::query_as!(
        SidecarRow,
        r#"SELECT id AS "id!", namespace, app, pod, node, version, devices, providers, boot_id, active_epoch, active_n, nack_reason, first_seen_at, last_seen_at
           FROM sidecars WHERE id > ? ORDER BY id LIMIT ?"#,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn seen(conn: &mut Conn, id: &str, at: i64) -> Result<(), Error> {
    sqlx::query!("UPDATE sidecars SET last_seen_at = MAX(last_seen_at, ?) WHERE id = ?", at, id).execute(conn).await?;
    Ok(())
}

/// What the sidecar serves now, and why not something newer (empty: it does).
pub(crate) async fn active(conn: &mut Conn, id: &str, epoch: u64, n: u64, nack_reason: &str, at: i64) -> Result<(), Error> {
    let (epoch, n) = (epoch as i64, n as i64);
    sqlx::query!(
        "UPDATE sidecars SET active_epoch = ?, active_n = ?, nack_reason = ?, last_seen_at = ? WHERE id = ?",
        epoch,
        n,
        nack_reason,
        at,
        id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A new boot starts with nothing loaded.
pub(crate) async fn clear_statuses(conn: &mut Conn, id: &str) -> Result<(), Error> {
    sqlx::query!("DELETE FROM artifact_status WHERE sidecar_id = ?", id).execute(conn).await?;
    Ok(())
}

/// Writes a status; past the bound on rows a new one is dropped.
pub(crate) async fn put_status(conn: &mut Conn, id: &str, it: &StatusRow) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO artifact_status (sidecar_id, digest, model, version, variant, state, provider, reason, done_bytes, total_bytes, updated_at)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 WHERE (SELECT COUNT(*) FROM artifact_status WHERE sidecar_id = ?1) < ?12
         ON CONFLICT (sidecar_id, digest, model, variant) DO UPDATE SET version = excluded.version, state = excluded.state, provider = excluded.provider,
             reason = excluded.reason, done_bytes = excluded.done_bytes, total_bytes = excluded.total_bytes, updated_at = excluded.updated_at",
        id,
        it.digest,
        it.model,
        it.version,
        it.variant,
        it.state,
        it.provider,
        it.reason,
        it.done_bytes,
        it.total_bytes,
        it.updated_at,
        MAX_STATUS_ROWS
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn statuses(conn: &mut Conn, id: &str) -> Result<Vec<StatusRow>, Error> {
    sqlx::query_as!(
        StatusRow,
        "SELECT digest, model, version, variant, state, provider, reason, done_bytes, total_bytes, updated_at
         FROM artifact_status WHERE sidecar_id = ? ORDER BY model, version, variant, digest",
        id
    )
    .fetch_all(conn)
    .await
}
