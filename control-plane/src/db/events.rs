//! Events of experiments: append-only, but for old looks. Enters: what happened. Leaves: it, in order. Never: a used id.

use serde_json::Value;

use super::{Conn, Error};

#[derive(Debug, Clone)]
pub(crate) struct EventRow {
    pub(crate) id: i64,
    pub(crate) at: i64,
    pub(crate) kind: String,
    pub(crate) actor: String,
    pub(crate) detail: String,
}

pub(crate) async fn append(conn: &mut Conn, experiment: &str, kind: &str, actor: &str, detail: &Value, at: i64) -> Result<(), Error> {
    let detail = detail.to_string();
    sqlx::query!(
        "INSERT INTO experiment_events (experiment_id, at, kind, actor, detail) VALUES (?, ?, ?, ?, ?)",
        experiment,
        at,
        kind,
        actor,
        detail
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Events after an id, oldest first; without single looks unless they are wanted.
pub(crate) async fn list(conn: &mut Conn, experiment: &str, after: i64, looks: bool, limit: i64) -> Result<Vec<EventRow>, Error> {
    sqlx::query_as!(
        EventRow,
        r#"SELECT id AS "id!", at, kind, actor, detail FROM experiment_events
           WHERE experiment_id = ?1 AND id > ?2 AND (?3 OR kind <> 'look') ORDER BY id LIMIT ?4"#,
        experiment,
        after,
        looks,
        limit
    )
    .fetch_all(conn)
    .await
}
