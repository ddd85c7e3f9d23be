//! Publishes what the catalog and the price book say, once a change.
//!
//! Enters: notices of changes. Leaves: [`Published`], the newest only, from which each sidecar's [`Snapshot`] is cut. Never: a snapshot
//! older than one already published.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use akidb_domain::cost::Price;
use akidb_domain::snapshot::{ServedModel, Snapshot, SnapshotVersion};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::served;
use crate::clock::Clock;
use crate::db::{self, Db, meta, prices};
use crate::metrics::Metrics;

/// Says that something changed; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Notifier(watch::Sender<u64>);

impl Notifier {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn changed(&self) {
        self.0.send_modify(|n| *n += 1);
    }
}

/// All there is to serve, for every kind of device.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) version: SnapshotVersion,
    models: Vec<ServedModel>,
    prices: Vec<Price>,
}

/// A SKU in a region.
pub(crate) type DeviceKind = (String, String);

impl Published {
    /// Reads it as of one moment.
    pub(crate) async fn load(db: &Db, now_ns: u64) -> Result<Self, db::Error> {
        let mut tx = db.begin_read().await?;
        let version = meta::version(&mut tx).await?;
        let models = served::models(&mut tx).await?;
        let prices = prices::not_over(&mut tx, now_ns).await?;
        Ok(Self { version, models, prices })
    }

    /// What a sidecar with these devices gets.
    pub(crate) fn for_devices(&self, devices: &BTreeSet<DeviceKind>) -> Snapshot {
        let wanted = |it: &&Price| devices.iter().any(|(sku, region)| *sku == it.sku && *region == it.region);
        Snapshot {
            version: self.version,
            models: self.models.clone(),
            splits: Vec::new(),
            prices: self.prices.iter().filter(wanted).cloned().collect(),
        }
    }
}

/// The task that reads the catalog after changes.
pub(crate) struct Publisher {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) debounce: Duration,
    pub(crate) notifier: Notifier,
    pub(crate) published: watch::Sender<Arc<Published>>,
}

impl Publisher {
    /// Publishes until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut changes = self.notifier.0.subscribe();
        // What changed before this task was listening.
        changes.mark_changed();
        loop {
            let change = tokio::select! {
                () = stop.cancelled() => return,
                change = changes.changed() => change,
            };
            if change.is_err() {
                return;
            }
            tokio::time::sleep(self.debounce).await;
            changes.mark_unchanged();
            while let Err(error) = self.publish().await {
                tracing::error!(%error, "the catalog could not be read; trying again in a second");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        }
    }

    /// Reads and publishes once.
    pub(crate) async fn publish(&self) -> Result<(), db::Error> {
        let new = Published::load(&self.db, self.clock.now_ns()).await?;
        self.metrics.snapshot_epoch.set(new.version.epoch as i64);
        self.metrics.snapshot_n.set(new.version.n as i64);
        self.published.send_replace(Arc::new(new));
        Ok(())
    }
}
