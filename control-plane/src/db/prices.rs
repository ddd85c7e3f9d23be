//! The price book. Enters: rows that follow the newest of their SKU and region. Leaves: rows and domain prices. Never: an edit of a figure.

use akidb_domain::cost::Price;

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct PriceRow {
    pub(crate) id: i64,
    pub(crate) sku: String,
    pub(crate) region: String,
    pub(crate) currency: String,
    pub(crate) picodollars_per_hour: i64,
    pub(crate) valid_from_ns: i64,
    pub(crate) valid_to_ns: Option<i64>,
    pub(crate) source: String,
}

impl From<PriceRow> for Price {
    fn from(it: PriceRow) -> Self {
        Self {
            sku: it.sku,
            region: it.region,
            currency: it.currency,
            picodollars_per_hour: it.picodollars_per_hour,
            valid_from_ns: it.valid_from_ns as u64,
            valid_to_ns: it.valid_to_ns.map(|it| it as u64),
            source: it.source,
        }
    }
}

pub(crate) async fn insert(conn: &mut Conn, it: &Price, at: i64) -> Result<i64, Error> {
    let from = it.valid_from_ns as i64;
    let row = sqlx::query!(
        "INSERT INTO prices (sku, region, currency, picodollars_per_hour, valid_from_ns, source, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        it.sku,
        it.region,
        it.currency,
        it.picodollars_per_hour,
        from,
        it.source,
        at
    )
    .execute(conn)
    .await?;
    Ok(row.last_insert_rowid())
}

/// Ends the row that has no end yet.
pub(crate) async fn close(conn: &mut Conn, sku: &str, region: &str, at_ns: u64) -> Result<(), Error> {
    let at_ns = at_ns as i64;
    sqlx::query!("UPDATE prices SET valid_to_ns = ? WHERE sku = ? AND region = ? AND valid_to_ns IS NULL", at_ns, sku, region)
        .execute(conn)
        .await?;
    Ok(())
}

/// Rows of a SKU and region, oldest first.
pub(crate) async fn of(conn: &mut Conn, sku: &str, region: &str) -> Result<Vec<Price>, Error> {
    let rows = sqlx::query_as!(
        PriceRow,
        r#"SELECT id AS "id!", sku, region, currency, picodollars_per_hour, valid_from_ns, valid_to_ns, source
           FROM prices WHERE sku = ? AND region = ? ORDER BY valid_from_ns"#,
        sku,
        region
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Rows that are not over at a moment, for every SKU.
pub(crate) async fn not_over(conn: &mut Conn, at_ns: u64) -> Result<Vec<Price>, Error> {
    let at_ns = at_ns as i64;
    let rows = sqlx::query_as!(
        PriceRow,
        r#"SELECT id AS "id!", sku, region, currency, picodollars_per_hour, valid_from_ns, valid_to_ns, source
           FROM prices WHERE valid_to_ns IS NULL OR valid_to_ns > ? ORDER BY sku, region, valid_from_ns LIMIT 10000"#,
        at_ns
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

pub(crate) async fn list(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<PriceRow>, Error> {
    sqlx::query_as!(
        PriceRow,
        r#"SELECT id AS "id!", sku, region, currency, picodollars_per_hour, valid_from_ns, valid_to_ns, source FROM prices WHERE id > ? ORDER BY id LIMIT ?"#,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}
