//! One change of what this control plane knows: a write transaction with its audit row and its effect on snapshots.
//!
//! Enters: who changes. Leaves: a commit that the publisher hears of. Never: a change without an audit row.

use akidb_domain::snapshot::SnapshotVersion;
use serde_json::Value;

use crate::db::audit::{self, Entry};
use crate::db::{self, Conn, Db, Tx, events, meta};
use crate::publisher::Notifier;

/// Who acts, as the audit log names it.
#[derive(Debug, Clone)]
pub(crate) struct Actor(pub(crate) String);

impl Actor {
    /// The program itself.
    pub(crate) fn system() -> Self {
        Self("system".to_owned())
    }

    /// What decides rollouts.
    pub(crate) fn decider() -> Self {
        Self("decider".to_owned())
    }

    /// Whoever runs commands on this machine.
    pub(crate) fn cli() -> Self {
        Self("cli".to_owned())
    }
}

/// An open change; dropped without [`Change::commit`] it never was.
#[derive(Debug)]
pub(crate) struct Change {
    tx: Tx,
    actor: Actor,
    /// When, Unix ms.
    pub(crate) at: i64,
    visible: bool,
    told: bool,
    notifier: Notifier,
}

impl Change {
    pub(crate) async fn begin(db: &Db, notifier: &Notifier, actor: Actor, at: i64) -> Result<Self, db::Error> {
        Ok(Self { tx: db.begin().await?, actor, at, visible: false, told: false, notifier: notifier.clone() })
    }

    /// The connection that holds the write lock.
    pub(crate) fn conn(&mut self) -> &mut Conn {
        &mut self.tx
    }

    /// Writes down what is done to what.
    pub(crate) async fn audit(&mut self, action: &str, subject: &str, detail: Value) -> Result<(), db::Error> {
        let entry = Entry { at: self.at, actor: &self.actor.0, action, subject, detail: &detail };
        audit::append(&mut self.tx, entry).await
    }

    /// Writes down what happened to an experiment, for whoever follows it.
    pub(crate) async fn event(&mut self, experiment: &str, kind: &str, detail: &Value) -> Result<(), db::Error> {
        self.told = true;
        events::append(&mut self.tx, experiment, kind, &self.actor.0, detail, self.at).await
    }

    /// A sidecar could see this change.
    pub(crate) fn visible(&mut self) {
        self.visible = true;
    }

    /// Makes it true and tells the publisher.
    pub(crate) async fn commit(mut self) -> Result<SnapshotVersion, db::Error> {
        if self.visible {
            meta::bump_snapshot(&mut self.tx).await?;
        }
        let version = meta::version(&mut self.tx).await?;
        self.tx.commit().await?;
        if self.visible {
            self.notifier.changed();
        }
        if self.told {
            self.notifier.told();
        }
        Ok(version)
    }
}
