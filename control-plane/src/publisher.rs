//! Publishes what the catalog, the live experiments and the price book say, once a change.
//!
//! Enters: notices of changes. Leaves: [`Published`], the newest only, from which each sidecar's [`Snapshot`] is cut. Never: a snapshot
//! older than one already published.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use akidb_domain::cost::Price;
use akidb_domain::snapshot::{ServedModel, Snapshot, SnapshotVersion, TrafficSplit};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::served;
use crate::clock::Clock;
use crate::db::{self, Db, experiments, meta, prices};
use crate::experiments::split;
use crate::metrics::Metrics;

/// Says that something changed; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    changes: watch::Sender<u64>,
    events: watch::Sender<u64>,
}

impl Notifier {
    pub(crate) fn new() -> Self {
        Self { changes: watch::Sender::new(0), events: watch::Sender::new(0) }
    }

    /// Sidecars could see a change.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// An experiment has a new event.
    pub(crate) fn told(&self) {
        self.events.send_modify(|n| *n += 1);
    }

    /// Hears of new events.
    pub(crate) fn events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }
}

/// All there is to serve, for every kind of device.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) version: SnapshotVersion,
    models: Vec<ServedModel>,
    splits: Vec<ScopedSplit>,
    prices: Vec<Price>,
}

/// A split, and the apps whose sidecars get it; none: all.
#[derive(Debug)]
struct ScopedSplit {
    apps: Vec<String>,
    split: TrafficSplit,
}

/// A SKU in a region.
pub(crate) type DeviceKind = (String, String);

impl Published {
    /// Reads it as of one moment.
    pub(crate) async fn load(db: &Db, now_ns: u64, lease_ms: u64) -> Result<Self, db::Error> {
        let mut tx = db.begin_read().await?;
        let version = meta::version(&mut tx).await?;
        let models = served::models(&mut tx).await?;
        let prices = prices::not_over(&mut tx, now_ns).await?;
        let live = experiments::live(&mut tx).await?;
        let splits = live.iter().filter_map(|it| Some(ScopedSplit { apps: it.scope.served_apps(), split: split::of(it, lease_ms)? }));
        // One that names what is not served would make the whole snapshot unreadable.
        let splits = splits.filter(|it| is_served(&models, &it.split)).collect();
        Ok(Self { version, models, splits, prices })
    }

    /// What a sidecar of this app with these devices gets.
    pub(crate) fn for_sidecar(&self, app: &str, devices: &BTreeSet<DeviceKind>) -> Snapshot {
        let splits = self.splits.iter().filter(|it| it.apps.is_empty() || it.apps.iter().any(|it| it == app));
        let wanted = |it: &&Price| devices.iter().any(|(sku, region)| *sku == it.sku && *region == it.region);
        Snapshot {
            version: self.version,
            models: self.models.clone(),
            splits: splits.map(|it| it.split.clone()).collect(),
            prices: self.prices.iter().filter(wanted).cloned().collect(),
        }
    }
}

fn is_served(models: &[ServedModel], split: &TrafficSplit) -> bool {
    let model = models.iter().find(|it| it.name == split.model);
    model.is_some_and(|it| it.variant(&split.baseline).is_some() && it.variant(&split.canary).is_some())
}

/// The task that reads the catalog after changes.
pub(crate) struct Publisher {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) debounce: Duration,
    pub(crate) lease: Duration,
    pub(crate) notifier: Notifier,
    pub(crate) published: watch::Sender<Arc<Published>>,
}

impl Publisher {
    /// Publishes until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut changes = self.notifier.changes.subscribe();
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
        let new = Published::load(&self.db, self.clock.now_ns(), self.lease.as_millis() as u64).await?;
        self.metrics.snapshot_epoch.set(new.version.epoch as i64);
        self.metrics.snapshot_n.set(new.version.n as i64);
        self.published.send_replace(Arc::new(new));
        Ok(())
    }
}
