//! Bearer tokens, by the hash of their secret. Enters: hashes. Leaves: rows. Never: a secret.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) namespace: String,
    pub(crate) app: String,
    pub(crate) secret_sha256: String,
    pub(crate) created_at: i64,
    pub(crate) revoked_at: Option<i64>,
}

pub(crate) async fn insert(conn: &mut Conn, it: &TokenRow) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO tokens (id, name, role, namespace, app, secret_sha256, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        it.id,
        it.name,
        it.role,
        it.namespace,
        it.app,
        it.secret_sha256,
        it.created_at
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn find(conn: &mut Conn, id: &str) -> Result<Option<TokenRow>, Error> {
    sqlx::query_as!(
        TokenRow,
        r#"SELECT id AS "id!", name, role, namespace, app, secret_sha256, created_at, revoked_at FROM tokens WHERE id = ?"#,
        id
    )
    .fetch_optional(conn)
    .await
}

pub(crate) async fn list(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<TokenRow>, Error> {
    sqlx::query_as!(
        TokenRow,
        r#"SELECT id AS "id!", name, role, namespace, app, secret_sha256, created_at, revoked_at FROM tokens WHERE id > ? ORDER BY id LIMIT ?"#,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn revoke(conn: &mut Conn, id: &str, at: i64) -> Result<(), Error> {
    sqlx::query!("UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", at, id).execute(conn).await?;
    Ok(())
}

pub(crate) async fn count_live_admins(conn: &mut Conn) -> Result<i64, Error> {
    sqlx::query_scalar!("SELECT COUNT(*) FROM tokens WHERE role = 'admin' AND revoked_at IS NULL").fetch_one(conn).await
}
