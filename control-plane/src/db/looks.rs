//! Decision records in the making, and sealed ones. Enters: looks with their outcomes. Leaves: them, to the byte. Never: a change of a look.

use akidb_domain::decision::{Look, Outcome, State};

use super::experiments::{read, write};
use super::{Conn, Error};

/// A part of an experiment's record.
#[derive(Debug, Clone)]
pub(crate) struct PartRow {
    pub(crate) part: i64,
    pub(crate) sha256: String,
    pub(crate) opened_at: i64,
    pub(crate) closed_at: Option<i64>,
}

pub(crate) async fn open_part(conn: &mut Conn, experiment: &str, part: i64, before: &State, at: i64) -> Result<(), Error> {
    let before = write(before)?;
    sqlx::query!("INSERT INTO experiment_parts (experiment_id, part, before, opened_at) VALUES (?, ?, ?, ?)", experiment, part, before, at)
        .execute(conn)
        .await?;
    Ok(())
}

/// State before the first look of a part.
pub(crate) async fn before(conn: &mut Conn, experiment: &str, part: i64) -> Result<Option<State>, Error> {
    let text = sqlx::query_scalar!("SELECT before FROM experiment_parts WHERE experiment_id = ? AND part = ?", experiment, part)
        .fetch_optional(conn)
        .await?;
    text.as_deref().map(read).transpose()
}

/// Keeps the sealed record of a part in place of its looks.
pub(crate) async fn seal(conn: &mut Conn, experiment: &str, part: i64, sealed: &str, sha256: &str, at: i64) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE experiment_parts SET sealed = ?, sha256 = ?, closed_at = ? WHERE experiment_id = ? AND part = ?",
        sealed,
        sha256,
        at,
        experiment,
        part
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM experiment_looks WHERE experiment_id = ?", experiment).execute(conn).await?;
    Ok(())
}

/// A sealed record; `None` while its part is open.
pub(crate) async fn sealed(conn: &mut Conn, experiment: &str, part: i64) -> Result<Option<String>, Error> {
    let text = sqlx::query_scalar!("SELECT sealed FROM experiment_parts WHERE experiment_id = ? AND part = ?", experiment, part)
        .fetch_optional(conn)
        .await?;
    Ok(text.flatten())
}

/// All parts, oldest first.
pub(crate) async fn parts(conn: &mut Conn, experiment: &str) -> Result<Vec<PartRow>, Error> {
    sqlx::query_as!(
        PartRow,
        "SELECT part, sha256, opened_at, closed_at FROM experiment_parts WHERE experiment_id = ? ORDER BY part LIMIT 10000",
        experiment
    )
    .fetch_all(conn)
    .await
}

pub(crate) async fn insert(conn: &mut Conn, experiment: &str, look: &Look, outcome: &Outcome, at: i64) -> Result<(), Error> {
    let (number, look, outcome) = (look.number as i64, write(look)?, write(outcome)?);
    sqlx::query!(
        "INSERT INTO experiment_looks (experiment_id, number, at, look, outcome) VALUES (?, ?, ?, ?, ?)",
        experiment,
        number,
        at,
        look,
        outcome
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Looks of the open part, in order.
pub(crate) async fn list(conn: &mut Conn, experiment: &str) -> Result<Vec<(Look, Outcome)>, Error> {
    let rows = sqlx::query!("SELECT look, outcome FROM experiment_looks WHERE experiment_id = ? ORDER BY number", experiment)
        .fetch_all(conn)
        .await?;
    rows.iter().map(|it| Ok((read(&it.look)?, read(&it.outcome)?))).collect()
}

pub(crate) async fn count(conn: &mut Conn, experiment: &str) -> Result<i64, Error> {
    sqlx::query_scalar!("SELECT COUNT(*) FROM experiment_looks WHERE experiment_id = ?", experiment).fetch_one(conn).await
}
