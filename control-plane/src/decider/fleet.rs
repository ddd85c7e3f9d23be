//! Who takes part in an experiment, who has not reported, who was lost.
//!
//! Enters: what the database knows of sidecars, who is connected. Leaves: the missing pieces of a look and its crashes. Never: a sidecar that
//! stopped in good order counted as lost.
//!
//! A sidecar takes part once it is connected and its app is in the scope; it is a *member* until it stops in good order, or is not heard
//! of for so long that it counts as lost. A member whose boot changed without its last window was lost and came back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use akidb_domain::decision::look::{Crashes, Missing};
use akidb_domain::snapshot::SnapshotVersion;

use crate::db::experiments::Experiment;
use crate::db::lanes::{self, MemberRow, SeenRow};
use crate::db::{Conn, Error};
use crate::grpc::connections::Connections;

/// Everything known of the sidecars of an experiment.
#[derive(Debug, Default)]
pub(crate) struct Members {
    sidecars: Vec<Sidecar>,
}

/// A sidecar that takes part.
#[derive(Debug, Clone)]
struct Sidecar {
    seen: SeenRow,
    connected: bool,
    skus: Vec<String>,
    canary: Canary,
    /// As it was last written down; none: it is new.
    known: Option<MemberRow>,
}

/// What it does with the canary's artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Canary {
    Absent,
    Loading,
    Ready,
    Failed(String),
}

impl Canary {
    /// The process may be lost because of it.
    const fn at_risk(&self) -> bool {
        matches!(self, Self::Loading | Self::Ready)
    }
}

/// What changes in the list of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// It is there, with this boot and canary.
    Put(String, String, bool),
    /// It is gone.
    Drop(String),
}

/// How long is too long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) now_ns: u64,
    /// When somebody began to wait.
    pub(crate) since_ns: u64,
    pub(crate) silent_after: Duration,
    pub(crate) lost_after: Duration,
}

/// A look's view of the fleet.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) missing: Missing,
    pub(crate) crashes: Crashes,
    /// Members with the canary ready, and without.
    pub(crate) serving: [u64; 2],
    pub(crate) news: Vec<News>,
}

impl Members {
    /// Reads them as of one moment.
    pub(crate) async fn read(conn: &mut Conn, it: &Experiment, connections: &Connections) -> Result<Self, Error> {
        let mut known: BTreeMap<String, MemberRow> =
            lanes::members(conn, &it.id).await?.into_iter().map(|row| (row.sidecar_id.clone(), row)).collect();
        let canaries = canaries(conn, it).await?;
        let apps = it.scope.served_apps();
        let mut sidecars = Vec::new();
        for seen in lanes::seen(conn).await? {
            let (connected, known) = (connections.is_open(&seen.sidecar_id), known.remove(&seen.sidecar_id));
            let in_scope = apps.is_empty() || apps.contains(&seen.app);
            if known.is_some() || (connected && in_scope) {
                let canary = canaries.get(&seen.sidecar_id).cloned().unwrap_or(Canary::Absent);
                sidecars.push(Sidecar { skus: skus(&seen.devices), seen, connected, canary, known });
            }
        }
        Ok(Self { sidecars })
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.sidecars.is_empty()
    }

    pub(crate) fn has(&self, sidecar_id: &str) -> bool {
        self.sidecars.iter().any(|it| it.seen.sidecar_id == sidecar_id)
    }

    /// What the next look still waits for, in words.
    pub(crate) fn waits_for(&self, it: &Experiment) -> Option<String> {
        let here: Vec<&Sidecar> = self.sidecars.iter().filter(|it| it.connected).collect();
        if here.is_empty() {
            return Some("waiting for a sidecar to take part: none is connected".to_owned());
        }
        let behind = here.iter().filter(|sidecar| active(&sidecar.seen) < it.progress.snapshot).count();
        if behind > 0 {
            return Some(format!("waiting for {behind} of {} sidecars to take the new split", here.len()));
        }
        let loading = here.iter().filter(|it| matches!(it.canary, Canary::Absent | Canary::Loading)).count();
        (loading > 0 && !it.progress.prepared).then(|| format!("waiting for the canary on {loading} of {} sidecars", here.len()))
    }

    /// Members to write down while nothing is looked at yet. A boot that was lost meanwhile is left for the next look to find.
    pub(crate) fn news(&self) -> Vec<News> {
        let same_boot = |it: &Sidecar| it.known.as_ref().is_none_or(|known| known.boot_id == it.seen.boot_id);
        let present = self.sidecars.iter().filter(|it| it.connected && same_boot(it));
        present.filter_map(Sidecar::put).collect()
    }

    /// Writes them down.
    pub(crate) async fn write(&self, conn: &mut Conn, experiment: &str, news: &[News]) -> Result<(), Error> {
        for it in news {
            match it {
                News::Put(sidecar, boot, canary) => lanes::put_member(conn, experiment, sidecar, boot, *canary).await?,
                News::Drop(sidecar) => lanes::drop_member(conn, experiment, sidecar).await?,
            }
        }
        Ok(())
    }

    /// What a look up to `to_ns` misses of them. `None`: something may still come.
    pub(crate) fn look(&self, it: &Experiment, to_ns: u64, limits: Limits) -> Option<Fleet> {
        let patience_over = limits.now_ns >= to_ns.max(limits.since_ns) + limits.silent_after.as_nanos() as u64;
        let mut fleet = Fleet::default();
        let mut by_sku: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for sidecar in &self.sidecars {
            let fate = sidecar.fate(to_ns, limits);
            if fate == Fate::Waited && !patience_over {
                return None;
            }
            sidecar.count_loss(fate, &mut fleet);
            if matches!(fate, Fate::Stopped | Fate::Gone) {
                fleet.news.push(News::Drop(sidecar.seen.sidecar_id.clone()));
                continue;
            }
            fleet.missing.targeted_sidecars += 1;
            if fate == Fate::Waited {
                fleet.missing.silent_sidecars.push(sidecar.seen.sidecar_id.clone());
            }
            let failed = matches!(sidecar.canary, Canary::Failed(_));
            if let Canary::Failed(reason) = &sidecar.canary {
                fleet.missing.failed_artifacts.push(format!("{}: {reason}", sidecar.seen.sidecar_id));
            }
            for sku in &sidecar.skus {
                let (all, bad) = by_sku.entry(sku).or_default();
                (*all, *bad) = (*all + 1, *bad + usize::from(failed));
            }
            fleet.serving[usize::from(sidecar.canary != Canary::Ready)] += 1;
            // While it is silent, what it was is what counts.
            if fate == Fate::Reported {
                fleet.news.extend(sidecar.put());
            }
        }
        fleet.missing.failed_skus = by_sku.into_iter().filter(|(_, (all, bad))| all == bad).map(|(sku, _)| sku.to_owned()).collect();
        if self.sidecars.is_empty() {
            fleet.missing.silent_sidecars.push(format!("every sidecar that serves `{}`", it.model));
        }
        Some(fleet)
    }
}

/// What became of a sidecar by the end of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// All its windows of the look have come.
    Reported,
    /// Some may still come.
    Waited,
    /// It ended in good order.
    Stopped,
    /// It was not heard of for too long.
    Gone,
}

impl Sidecar {
    fn fate(&self, to_ns: u64, limits: Limits) -> Fate {
        // Nobody could be heard before somebody listened.
        let unheard_ns = limits.now_ns.saturating_sub(limits.since_ns.max(self.seen.last_seen_at as u64 * 1_000_000));
        if self.seen.finished && !self.connected {
            return Fate::Stopped;
        }
        if !self.connected && unheard_ns > limits.lost_after.as_nanos() as u64 {
            return Fate::Gone;
        }
        // A boot younger than the look has nothing of it; what its predecessor spooled comes before its own first window.
        let covered = self.seen.last_end_ns as u64 >= to_ns || (self.seen.boot_ns as u64 >= to_ns && self.seen.last_end_ns > 0);
        if covered { Fate::Reported } else { Fate::Waited }
    }

    /// A boot without its last window, whether another one followed or not.
    fn count_loss(&self, fate: Fate, fleet: &mut Fleet) {
        let Some(known) = &self.known else { return };
        let replaced = fate == Fate::Reported && known.boot_id != self.seen.boot_id;
        if known.finished || !(replaced || fate == Fate::Gone) {
            return;
        }
        fleet.missing.lost_windows += 1;
        if known.canary {
            fleet.crashes.canary += 1;
        } else {
            fleet.crashes.control += 1;
        }
    }

    fn put(&self) -> Option<News> {
        let canary = self.canary.at_risk();
        let same = self.known.as_ref().is_some_and(|it| it.boot_id == self.seen.boot_id && it.canary == canary);
        (!same).then(|| News::Put(self.seen.sidecar_id.clone(), self.seen.boot_id.clone(), canary))
    }
}

fn active(it: &SeenRow) -> SnapshotVersion {
    SnapshotVersion { epoch: it.active_epoch as u64, n: it.active_n as u64 }
}

fn skus(devices: &str) -> Vec<String> {
    let devices: Vec<serde_json::Value> = serde_json::from_str(devices).unwrap_or_default();
    let skus: BTreeSet<String> = devices.iter().filter_map(|it| Some(it.get("sku")?.as_str()?.to_owned())).collect();
    skus.into_iter().collect()
}

/// The best state of the canary's artifacts on each sidecar: one of them is enough.
async fn canaries(conn: &mut Conn, it: &Experiment) -> Result<BTreeMap<String, Canary>, Error> {
    let mut canaries: BTreeMap<String, Canary> = BTreeMap::new();
    for row in lanes::held(conn, &it.model, &it.canary.version, &it.canary.variant).await? {
        let state = match row.state.as_str() {
            "ready" => Canary::Ready,
            "loading" => Canary::Loading,
            "failed" => Canary::Failed(row.reason),
            _ => Canary::Absent,
        };
        let best = canaries.entry(row.sidecar_id).or_insert(Canary::Failed(String::new()));
        if rank(&state) >= rank(best) {
            *best = state;
        }
    }
    Ok(canaries)
}

const fn rank(it: &Canary) -> u8 {
    match it {
        Canary::Failed(_) => 0,
        Canary::Absent => 1,
        Canary::Loading => 2,
        Canary::Ready => 3,
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
