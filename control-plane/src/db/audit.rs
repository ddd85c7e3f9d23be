//! The audit log: append-only, each row's hash covers the one before it.
//!
//! Enters: who did what. Leaves: rows, and whether the chain holds. Never: a secret, an update, a delete.

use sha2::{Digest, Sha256};

use super::{Conn, Error};

/// One row.
#[derive(Debug, Clone)]
pub(crate) struct AuditRow {
    pub(crate) sequence: i64,
    pub(crate) at: i64,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) subject: String,
    pub(crate) detail: String,
    pub(crate) previous_hash: String,
    pub(crate) hash: String,
}

/// What is to be written down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) at: i64,
    pub(crate) actor: &'a str,
    pub(crate) action: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) detail: &'a serde_json::Value,
}

impl AuditRow {
    /// SHA-256 over the JSON array of every other field, in column order.
    pub(crate) fn expected_hash(&self) -> String {
        let text = serde_json::json!([self.sequence, self.at, self.actor, self.action, self.subject, self.detail, self.previous_hash]);
        hex::encode(Sha256::digest(text.to_string()))
    }
}

pub(crate) async fn append(conn: &mut Conn, entry: Entry<'_>) -> Result<(), Error> {
    let last = sqlx::query!(r#"SELECT sequence AS "sequence!", hash FROM audit_log ORDER BY sequence DESC LIMIT 1"#)
        .fetch_optional(&mut *conn)
        .await?;
    let (sequence, previous_hash) = last.map_or((1, String::new()), |it| (it.sequence + 1, it.hash));
    let mut row = AuditRow {
        sequence,
        at: entry.at,
        actor: entry.actor.to_owned(),
        action: entry.action.to_owned(),
        subject: entry.subject.to_owned(),
        detail: entry.detail.to_string(),
        previous_hash,
        hash: String::new(),
    };
    row.hash = row.expected_hash();
    sqlx::query!(
        "INSERT INTO audit_log (sequence, at, actor, action, subject, detail, previous_hash, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        row.sequence,
        row.at,
        row.actor,
        row.action,
        row.subject,
        row.detail,
        row.previous_hash,
        row.hash
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Rows after a sequence, oldest first.
pub(crate) async fn list(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<AuditRow>, Error> {
    sqlx::query_as!(
        AuditRow,
        r#"SELECT sequence AS "sequence!", at, actor, action, subject, detail, previous_hash, hash
           FROM audit_log WHERE sequence > ? ORDER BY sequence LIMIT ?"#,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

/// The sequence of the first row that does not fit the chain, and how many rows were read.
pub(crate) async fn verify(conn: &mut Conn) -> Result<(Option<i64>, i64), Error> {
    let (mut previous, mut hash, mut rows) = (0, String::new(), 0);
    loop {
        let page = list(conn, previous, 1_000).await?;
        if page.is_empty() {
            return Ok((None, rows));
        }
        for row in page {
            if row.sequence != previous + 1 || row.previous_hash != hash || row.hash != row.expected_hash() {
                return Ok((Some(row.sequence), rows));
            }
            rows += 1;
            (previous, hash) = (row.sequence, row.hash);
        }
    }
}
