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
    pub(crate) experiment_windows: Duration,
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
        loop {
            let mut tx = self.db.begin().await?;
            let gone = maintenance::delete_lanes(&mut tx, before(self.experiment_windows)).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::boots;
    use crate::db::windows::{self, WindowRow};

    const DAY_MS: i64 = 86_400_000;

    struct Stopped(i64);

    impl Clock for Stopped {
        fn now_ns(&self) -> u64 {
            self.0 as u64 * 1_000_000
        }
    }

    #[tokio::test]
    async fn windows_go_after_their_time_and_marks_stay_with_them_that_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("test.db")).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        for (boot_id, day) in [("old", 0), ("new", 35)] {
            boots::ensure(&mut tx, boot_id, "s", 0, day * DAY_MS).await.unwrap();
            let row = WindowRow {
                boot_id,
                sequence: 1,
                sidecar_id: "s",
                namespace: "",
                app: "",
                epoch: 1,
                n: 1,
                sku: "cpu",
                region: "local",
                device_uuid: "d",
                start_ns: 1,
                end_ns: 2,
                spend: None,
                energy: None,
                received_at: day * DAY_MS,
                payload: Vec::new(),
            };
            windows::insert(&mut tx, &row).await.unwrap();
        }
        tx.commit().await.unwrap();
        let days = |n: u64| Duration::from_secs(n * 86_400);
        let keep = config::Retention { windows: days(7), sidecars: days(30) };
        Retention { db: db.clone(), clock: Arc::new(Stopped(40 * DAY_MS)), keep, experiment_windows: days(1) }.once().await.unwrap();
        let mut conn = db.reader().await.unwrap();
        let left = windows::unpriced(&mut conn, "cpu", "local", 0, ("", 0), 10).await.unwrap();
        assert_eq!(left.iter().map(|it| it.boot_id.as_str()).collect::<Vec<_>>(), ["new"]);
        assert!(boots::find(&mut conn, "old").await.unwrap().is_none() && boots::find(&mut conn, "new").await.unwrap().is_some());
    }
}
