//! Counted windows as they came. Enters: each once. Leaves: those still without a price. Never: a second row for a sequence.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct WindowRow<'a> {
    pub(crate) boot_id: &'a str,
    pub(crate) sequence: u64,
    pub(crate) sidecar_id: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) app: &'a str,
    pub(crate) epoch: u64,
    pub(crate) n: u64,
    pub(crate) sku: &'a str,
    pub(crate) region: &'a str,
    pub(crate) device_uuid: &'a str,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) spend: Option<i64>,
    /// mJ; `None`: nothing was measured.
    pub(crate) energy: Option<i64>,
    pub(crate) received_at: i64,
    pub(crate) payload: Vec<u8>,
}

/// A window that no price covered yet, with the zero of its boot's clock.
#[derive(Debug, Clone)]
pub(crate) struct UnpricedRow {
    pub(crate) boot_id: String,
    pub(crate) sequence: i64,
    pub(crate) sidecar_id: String,
    pub(crate) namespace: String,
    pub(crate) app: String,
    pub(crate) boot_ns: i64,
    pub(crate) payload: Vec<u8>,
}

pub(crate) async fn insert(conn: &mut Conn, it: &WindowRow<'_>) -> Result<(), Error> {
    let (sequence, epoch, n, start, end) = (it.sequence as i64, it.epoch as i64, it.n as i64, it.start_ns as i64, it.end_ns as i64);
    sqlx::query!(
        "INSERT INTO windows (boot_id, sequence, sidecar_id, namespace, app, snapshot_epoch, snapshot_n, sku, region, device_uuid, start_ns, end_ns,
                              spend_picodollars, energy_millijoules, received_at, payload)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        it.boot_id,
        sequence,
        it.sidecar_id,
        it.namespace,
        it.app,
        epoch,
        n,
        it.sku,
        it.region,
        it.device_uuid,
        start,
        end,
        it.spend,
        it.energy,
        it.received_at,
        it.payload
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Windows of a SKU and region without a price that end after a moment, in key order after `(boot_id, sequence)`.
pub(crate) async fn unpriced(
    conn: &mut Conn,
    sku: &str,
    region: &str,
    from_ns: u64,
    after: (&str, i64),
    limit: i64,
) -> Result<Vec<UnpricedRow>, Error> {
    let (from_ns, (boot_id, sequence)) = (from_ns as i64, after);
    sqlx::query_as!(
        UnpricedRow,
        r#"SELECT windows.boot_id, windows.sequence AS "sequence!", windows.sidecar_id, windows.namespace, windows.app, boots.boot_ns AS "boot_ns!", windows.payload
         FROM windows JOIN boots ON boots.boot_id = windows.boot_id
         WHERE windows.sku = ?1 AND windows.region = ?2 AND windows.spend_picodollars IS NULL AND windows.end_ns > ?3
               AND (windows.boot_id, windows.sequence) > (?4, ?5)
         ORDER BY windows.boot_id, windows.sequence LIMIT ?6"#,
        sku,
        region,
        from_ns,
        boot_id,
        sequence,
        limit
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn set_spend(conn: &mut Conn, boot_id: &str, sequence: i64, spend: i64) -> Result<(), Error> {
    sqlx::query!("UPDATE windows SET spend_picodollars = ? WHERE boot_id = ? AND sequence = ?", spend, boot_id, sequence)
        .execute(conn)
        .await?;
    Ok(())
}
