//! Aliases of models. Enters: moves already decided. Leaves: rows with the revision that guards the next move. Never: a rule.

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct AliasRow {
    pub(crate) name: String,
    pub(crate) variant_id: i64,
    pub(crate) version: String,
    pub(crate) variant: String,
    pub(crate) revision: i64,
    pub(crate) moved_by_hand: bool,
    pub(crate) updated_at: i64,
}

/// Where an alias is to point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move<'a> {
    pub(crate) model_id: i64,
    pub(crate) name: &'a str,
    pub(crate) variant_id: i64,
    pub(crate) moved_by_hand: bool,
    pub(crate) at: i64,
}

pub(crate) async fn list(conn: &mut Conn, model_id: i64) -> Result<Vec<AliasRow>, Error> {
    sqlx::query_as!(
        AliasRow,
        r#"SELECT aliases.name, aliases.variant_id, versions.name AS version, variants.name AS variant, aliases.revision,
                  aliases.moved_by_hand AS "moved_by_hand: bool", aliases.updated_at
           FROM aliases JOIN variants ON variants.id = aliases.variant_id JOIN versions ON versions.id = variants.version_id
           WHERE aliases.model_id = ? ORDER BY aliases.name LIMIT 1000"#,
        model_id
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn find(conn: &mut Conn, model_id: i64, name: &str) -> Result<Option<AliasRow>, Error> {
    Ok(list(conn, model_id).await?.into_iter().find(|it| it.name == name))
}

/// Creates or moves. The revision is that of the snapshot which will show the move, so none is used twice, also after a delete.
pub(crate) async fn put(conn: &mut Conn, it: Move<'_>) -> Result<i64, Error> {
    sqlx::query_scalar!(
        "INSERT INTO aliases (model_id, name, variant_id, revision, moved_by_hand, updated_at)
         VALUES (?1, ?2, ?3, (SELECT snapshot_n + 1 FROM meta WHERE id = 1), ?4, ?5)
         ON CONFLICT (model_id, name) DO UPDATE SET
             variant_id = excluded.variant_id, revision = excluded.revision, moved_by_hand = excluded.moved_by_hand, updated_at = excluded.updated_at
         RETURNING revision",
        it.model_id,
        it.name,
        it.variant_id,
        it.moved_by_hand,
        it.at
    )
    .fetch_one(conn)
    .await
}

pub(crate) async fn delete(conn: &mut Conn, model_id: i64, name: &str) -> Result<(), Error> {
    sqlx::query!("DELETE FROM aliases WHERE model_id = ? AND name = ?", model_id, name).execute(conn).await?;
    Ok(())
}

/// Names of the aliases that point at a variant.
pub(crate) async fn naming(conn: &mut Conn, variant_id: i64) -> Result<Vec<String>, Error> {
    sqlx::query_scalar!("SELECT name FROM aliases WHERE variant_id = ? ORDER BY name", variant_id).fetch_all(conn).await
}
