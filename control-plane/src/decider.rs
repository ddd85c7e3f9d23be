//! Decides rollouts: every look length, what the sidecars reported becomes a look, the decision engine judges it, and the verdict is acted on.
//!
//! Enters: windows, artifact states, the clock. Leaves: verdicts with their records, new splits, moved aliases, leases. Never: a look at
//! windows of which some may still come; a verdict of its own.
//!
//! Rooms: [`fleet`] who takes part, who is silent, who was lost; [`look_of`] windows into a look. Both are pure.

pub(crate) mod fleet;
pub(crate) mod look_of;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use akidb_domain::decision::{BadLook, Outcome, step};
use akidb_domain::window::Window;
use akidb_proto::window_from_bytes;
use tokio_util::sync::CancellationToken;

use self::fleet::{Limits, Members};
use self::look_of::{StoredWindow, Stretch};
use crate::catalog::CatalogError;
use crate::change::{Actor, Change};
use crate::clock::Clock;
use crate::config;
use crate::db::experiments::{self, Experiment, Life};
use crate::db::lanes::{self, LostRow, WindowRow};
use crate::db::{self, Db};
use crate::experiments::moves;
use crate::grpc::connections::Connections;
use crate::leases::Renewer;
use crate::metrics::Metrics;
use crate::publisher::Notifier;

/// Looks taken at once by one experiment, when it has to catch up.
const CATCH_UP: usize = 100;
const SECOND_NS: u64 = 1_000_000_000;

/// The task that decides.
pub(crate) struct Decider {
    pub(crate) db: Db,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) notifier: Notifier,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) connections: Connections,
    pub(crate) config: config::Experiments,
    pub(crate) leases: Renewer,
    /// When it began, Unix ns: what came due before waits for the sidecars to come back first.
    pub(crate) since_ns: u64,
}

/// Why an experiment could not be looked at.
#[derive(Debug, thiserror::Error)]
enum DeciderError {
    #[error("the database failed: {0}")]
    Db(#[from] db::Error),
    #[error(transparent)]
    Rule(#[from] CatalogError),
    #[error(transparent)]
    Look(#[from] BadLook),
}

impl Decider {
    /// Decides until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.config.tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewed: Option<(Instant, BTreeSet<String>)> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.tick().await {
                Ok(live) => {
                    let due = renewed.as_ref().is_none_or(|(at, of)| at.elapsed() >= self.leases.every() || *of != live);
                    if due {
                        self.leases.renew(live.clone());
                        renewed = Some((Instant::now(), live));
                    }
                }
                Err(error) => tracing::error!(%error, "experiments could not be read; trying again"),
            }
        }
    }

    /// Looks at every experiment that is due; answers those whose canary may go on.
    async fn tick(&self) -> Result<BTreeSet<String>, db::Error> {
        let all = experiments::live(&mut *self.db.reader().await?).await?;
        self.metrics.experiments_live.set(all.len() as i64);
        for it in &all {
            // One that cannot be looked at holds up no other.
            if let Err(error) = self.experiment(&it.id).await {
                tracing::error!(%error, experiment = it.id, "an experiment could not be looked at; trying again");
            }
        }
        Ok(experiments::live_ids(&mut *self.db.reader().await?).await?.into_iter().collect())
    }

    async fn experiment(&self, id: &str) -> Result<(), DeciderError> {
        for _ in 0..CATCH_UP {
            let mut tx = self.db.begin_read().await?;
            let found = experiments::find(&mut tx, id).await?;
            let due = |it: &Experiment| it.progress.cursor_ns == 0 || self.clock.now_ns() >= it.progress.cursor_ns + self.look_ns();
            let Some(it) = found.filter(|it| it.life == Life::Running && due(it)) else { return Ok(()) };
            let members = Members::read(&mut tx, &it, &self.connections).await?;
            let again = match it.progress.cursor_ns {
                0 => {
                    drop(tx);
                    self.settle(it, &members).await?
                }
                from_ns => self.look(tx, it, &members, from_ns).await?,
            };
            if !again {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits until the sidecars have followed; then the next look begins.
    async fn settle(&self, mut it: Experiment, members: &Members) -> Result<bool, DeciderError> {
        let waits_for = members.waits_for(&it);
        let within = if it.progress.prepared { self.config.silent_after } else { self.config.prepare_within };
        let waited = Duration::from_millis((self.clock.now_ms() - it.progress.waiting_since).max(0) as u64);
        let settled = waits_for.is_none() || (waited >= within && !members.is_empty());
        let reason = if settled { format!("the share is {}: looking", share(&it)) } else { waits_for.unwrap_or_default() };
        let news = members.news();
        if !settled && reason == it.reason && news.is_empty() {
            return Ok(false);
        }
        let mut change = self.change().await?;
        members.write(change.conn(), &it.id, &news).await?;
        if settled {
            it.progress.prepared = true;
            it.progress.cursor_ns = self.clock.now_ns().div_ceil(SECOND_NS) * SECOND_NS;
            it.progress.gap = lanes::newest_lost(change.conn()).await?.max(it.progress.gap);
            change.event(&it.id, "settled", &serde_json::json!({"reason": reason})).await?;
        }
        it.reason = reason;
        if experiments::save(change.conn(), &mut it, self.clock.now_ms()).await? {
            change.commit().await?;
        }
        Ok(false)
    }

    /// Takes the next look, if everything that may be in it has come.
    async fn look(&self, mut tx: db::Tx, mut it: Experiment, members: &Members, from_ns: u64) -> Result<bool, DeciderError> {
        let (now_ns, to_ns) = (self.clock.now_ns(), from_ns + self.look_ns());
        let config::Experiments { silent_after, lost_after, .. } = self.config;
        let limits = Limits { now_ns, since_ns: self.since_ns, silent_after, lost_after };
        let Some(fleet) = members.look(&it, to_ns, limits) else { return Ok(false) };
        let windows = stored(lanes::windows(&mut tx, &it.id, from_ns, to_ns).await?);
        let lost = lanes::lost(&mut tx, it.progress.gap).await?;
        drop(tx);
        let number = it.decision.looks + 1;
        let stretch = Stretch { number, from_ns, to_ns };
        let mut look = look_of::look(&it, stretch, &windows, &fleet, lost_of(&lost, members));
        let away = self.was_away(now_ns, to_ns);
        look.missing.lease_expired |= away;
        let mut state = it.decision.clone();
        let outcome = step(&it.config, &mut state, &look)?;
        self.report(&it, &outcome);
        // Nobody renewed the leases meanwhile: that is one look with a gap, and not hours of them.
        it.progress.cursor_ns = if away { 0 } else { to_ns };
        it.progress.waiting_since = self.clock.now_ms();
        it.progress.gap = lost.last().map_or(it.progress.gap, |it| it.id);
        let mut change = self.change().await?;
        members.write(change.conn(), &it.id, &fleet.news).await?;
        let taken = moves::take(&mut change, &mut it, &look, (state, outcome)).await?;
        if taken {
            change.commit().await?;
        }
        // One that was changed meanwhile is read again.
        Ok(it.life == Life::Running)
    }

    fn look_ns(&self) -> u64 {
        self.config.look.as_nanos() as u64
    }

    /// Whether a look is so late that no decider can have lived for longer than a lease.
    fn was_away(&self, now_ns: u64, to_ns: u64) -> bool {
        let longest = self.config.lease + 2 * self.config.silent_after;
        now_ns.saturating_sub(to_ns) > longest.as_nanos() as u64
    }

    fn report(&self, it: &Experiment, outcome: &Outcome) {
        self.metrics.looks.inc();
        let (id, look) = (&it.id, outcome.look);
        tracing::info!(experiment = id, look, reason = outcome.reason, "{}", outcome.sentence);
    }

    async fn change(&self) -> Result<Change, db::Error> {
        Change::begin(&self.db, &self.notifier, Actor::decider(), self.clock.now_ms()).await
    }
}

fn share(it: &Experiment) -> String {
    format!("{} %", f64::from(it.decision.share_ppm(&it.config)) / 1e4)
}

/// Windows given up by sidecars that take part.
fn lost_of(lost: &[LostRow], members: &Members) -> u64 {
    lost.iter().filter(|it| members.has(&it.sidecar_id)).map(|it| it.windows.max(0) as u64).sum()
}

fn stored(rows: Vec<WindowRow>) -> Vec<StoredWindow> {
    let read = |row: WindowRow| {
        let window = window_from_bytes(&row.payload).and_then(|it| Window::try_from(it).ok());
        if window.is_none() {
            tracing::error!(boot = row.boot_id, sequence = row.sequence, "a window that was counted is unreadable: it is left out");
        }
        Some(StoredWindow { sidecar: row.sidecar_id, window: window? })
    };
    rows.into_iter().filter_map(read).collect()
}
