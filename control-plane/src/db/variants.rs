//! Variants of versions. Enters: names already checked. Leaves: rows. Never: a rule.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct VariantRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) precision: String,
    pub(crate) created_at: i64,
}

/// Where a variant is.
#[derive(Debug, Clone)]
pub(crate) struct VariantPath {
    pub(crate) model: String,
    pub(crate) version: String,
    pub(crate) variant: String,
}

pub(crate) async fn insert(conn: &mut Conn, version_id: i64, name: &str, precision: &str, at: i64) -> Result<i64, Error> {
    let row =
        sqlx::query!("INSERT INTO variants (version_id, name, precision, created_at) VALUES (?, ?, ?, ?)", version_id, name, precision, at)
            .execute(conn)
            .await?;
    Ok(row.last_insert_rowid())
}

pub(crate) async fn find(conn: &mut Conn, version_id: i64, name: &str) -> Result<Option<VariantRow>, Error> {
    sqlx::query_as!(
        VariantRow,
        r#"SELECT id AS "id!", name, precision, created_at FROM variants WHERE version_id = ? AND name = ?"#,
        version_id,
        name
    )
    .fetch_optional(conn)
    .await
}

pub(crate) async fn list(conn: &mut Conn, version_id: i64, after: i64, limit: i64) -> Result<Vec<VariantRow>, Error> {
    sqlx::query_as!(
        VariantRow,
        r#"SELECT id AS "id!", name, precision, created_at FROM variants WHERE version_id = ? AND id > ? ORDER BY id LIMIT ?"#,
        version_id,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn path(conn: &mut Conn, id: i64) -> Result<VariantPath, Error> {
    sqlx::query_as!(
        VariantPath,
        r#"SELECT models.name AS model, versions.name AS version, variants.name AS variant
           FROM variants JOIN versions ON versions.id = variants.version_id JOIN models ON models.id = versions.model_id WHERE variants.id = ?"#,
        id
    )
    .fetch_one(conn)
    .await
}

pub(crate) async fn count(conn: &mut Conn, version_id: i64) -> Result<i64, Error> {
    sqlx::query_scalar!("SELECT COUNT(*) FROM variants WHERE version_id = ?", version_id).fetch_one(conn).await
}

pub(crate) async fn delete(conn: &mut Conn, id: i64) -> Result<(), Error> {
    sqlx::query!("DELETE FROM variants WHERE id = ?", id).execute(conn).await?;
    Ok(())
}
