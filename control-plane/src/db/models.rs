//! Models. Enters: names already checked. Leaves: rows. Never: a rule.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct ModelRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) created_at: i64,
}

pub(crate) async fn insert(conn: &mut Conn, name: &str, canonical: &str, description: &str, at: i64) -> Result<i64, Error> {
    let row = sqlx::query!(
        "INSERT INTO models (name, canonical_name, description, created_at) VALUES (?, ?, ?, ?)",
        name,
        canonical,
        description,
        at
    )
    .execute(conn)
    .await?;
    Ok(row.last_insert_rowid())
}

pub(crate) async fn find(conn: &mut Conn, canonical: &str) -> Result<Option<ModelRow>, Error> {
    sqlx::query_as!(ModelRow, r#"SELECT id AS "id!", name, description, created_at FROM models WHERE canonical_name = ?"#, canonical)
        .fetch_optional(conn)
        .await
}

pub(crate) async fn list(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<ModelRow>, Error> {
    sqlx::query_as!(
        ModelRow,
        r#"SELECT id AS "id!", name, description, created_at FROM models WHERE id > ? ORDER BY id LIMIT ?"#,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn delete(conn: &mut Conn, id: i64) -> Result<(), Error> {
    sqlx::query!("DELETE FROM models WHERE id = ?", id).execute(conn).await?;
    Ok(())
}
