//! Deletes what is past its time, once an hour. Enters: retentions. Leaves: fewer rows. Never: money, prices or the audit log.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config;
use crate::db::{self, Db, maintenance};

const EVERY: Duration = Duration::from_secs(3_600);

/// The task that deletes.
pub(crate) struct Retention {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keep: config::Retention,
}

impl Retention {
    /// Deletes until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut hours = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = hours.tick() => {}
            }
            if let Err(error) = self.once().await {
                tracing::error!(%error, "old rows could not be deleted; trying again in an hour");
            }
        }
    }

    /// Deletes once; small transactions, so that reports pass between them.
    pub(crate) async fn once(&self) -> Result<(), db::Error> {
        let before = |keep: Duration| self.clock.now_ms() - keep.as_millis() as i64;
        loop {
            let mut tx = self.db.begin().await?;
            let gone = maintenance::delete_windows(&mut tx, before(self.keep.windows)).await?;
            tx.commit().await?;
            if gone == 0 {
                break;
            }
        }
        let mut tx = self.db.begin().await?;
        maintenance::delete_stale(&mut tx, before(self.keep.sidecars)).await?;
        tx.commit().await
    }
}
