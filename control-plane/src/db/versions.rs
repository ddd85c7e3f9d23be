//! Versions of models: written once. Enters: a checked card. Leaves: rows. Never: an update.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct VersionRow {
    pub(crate) id: i64,
    pub(crate) model_id: i64,
    pub(crate) name: String,
    pub(crate) dimension: i64,
    pub(crate) max_tokens: i64,
    pub(crate) pooling: String,
    pub(crate) normalized: bool,
    pub(crate) embedding_space: String,
    pub(crate) tokenizer_sha256: String,
    pub(crate) license: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) prompts: String,
    pub(crate) seeded: bool,
    pub(crate) created_at: i64,
}

/// Writes a row; its `id` is ignored. Answers the new id.
pub(crate) async fn insert(conn: &mut Conn, it: &VersionRow) -> Result<i64, Error> {
    let row = sqlx::query!(
        "INSERT INTO versions (model_id, name, dimension, max_tokens, pooling, normalized, embedding_space, tokenizer_sha256, license, source, prompts, seeded, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        it.model_id,
        it.name,
        it.dimension,
        it.max_tokens,
        it.pooling,
        it.normalized,
        it.embedding_space,
        it.tokenizer_sha256,
        it.license,
        it.source,
        it.prompts,
        it.seeded,
        it.created_at
    )
    .execute(conn)
    .await?;
    Ok(row.last_insert_rowid())
}

pub(crate) async fn find(conn: &mut Conn, model_id: i64, name: &str) -> Result<Option<VersionRow>, Error> {
    sqlx::query_as!(
        VersionRow,
        r#"SELECT id AS "id!", model_id, name, dimension, max_tokens, pooling, normalized AS "normalized: bool", embedding_space, tokenizer_sha256,
                  license, source, prompts, seeded AS "seeded: bool", created_at
           FROM versions WHERE model_id = ? AND name = ?"#,
        model_id,
        name
    )
    .fetch_optional(conn)
    .await
}

pub(crate) async fn list(conn: &mut Conn, model_id: i64, after: i64, limit: i64) -> Result<Vec<VersionRow>, Error> {
    sqlx::query_as!(
        VersionRow,
        r#"SELECT id AS "id!", model_id, name, dimension, max_tokens, pooling, normalized AS "normalized: bool", embedding_space, tokenizer_sha256,
                  license, source, prompts, seeded AS "seeded: bool", created_at
           FROM versions WHERE model_id = ? AND id > ? ORDER BY id LIMIT ?"#,
        model_id,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn count(conn: &mut Conn, model_id: i64) -> Result<i64, Error> {
    sqlx::query_scalar!("SELECT COUNT(*) FROM versions WHERE model_id = ?", model_id).fetch_one(conn).await
}

pub(crate) async fn delete(conn: &mut Conn, id: i64) -> Result<(), Error> {
    sqlx::query!("DELETE FROM versions WHERE id = ?", id).execute(conn).await?;
    Ok(())
}
