//! Writes windows into the ledger, each exactly once.
//!
//! Enters: a report whose sender is known; a price that came late. Leaves: the boot's new high-water mark. Never: a part of a report: the
//! caller's transaction holds the mark, the windows and every sum.
//!
//! A window is counted when its sequence is the mark + 1. One at or below the mark is ignored. A hole ends the report, unless
//! `lost_through` says that it will never be filled: then it becomes a gap and the mark moves over it. A window that cannot be
//! counted as it is refuses the whole report by its sequence; the sender drops it and names it in `lost_through`.

use akidb_domain::cost::Price;
use akidb_domain::window::Window;
use akidb_proto::{v1, window_from_bytes, window_to_bytes};

use super::{check, entries, lanes};
use crate::db::boots::{self, BootRow, GapRow};
use crate::db::hours::{self, Device, Entries, Owner};
use crate::db::windows::{self, WindowRow};
use crate::db::{self, Conn, experiments, prices};

/// A report of one boot.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) windows: Vec<v1::Window>,
    pub(crate) lost_through: u64,
}

/// Whose report it is.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    pub(crate) namespace: String,
    pub(crate) app: String,
    pub(crate) received_at: i64,
    /// Windows that ended before are refused.
    pub(crate) oldest_ns: u64,
}

/// What became of a report.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) mark: u64,
    pub(crate) counted: u64,
    pub(crate) duplicates: u64,
    pub(crate) lost: u64,
}

/// Why a report counts for nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    /// A window that cannot be counted.
    #[error("window {sequence}: {problem}")]
    Rejected { sequence: u64, problem: String },
    /// Windows out of order, or a mark out of range.
    #[error("{0}")]
    Malformed(String),
    #[error(transparent)]
    Db(#[from] db::Error),
}

/// Counts what is new in a report.
pub(crate) async fn count(conn: &mut Conn, boot: &mut BootRow, sender: &Sender, report: Report) -> Result<Outcome, BookError> {
    if report.lost_through > 1 << 53 || report.windows.last().is_some_and(|it| it.sequence > 1 << 53) {
        return Err(BookError::Malformed("field `lost_through` or `window.sequence` is more than 2^53".to_owned()));
    }
    if !report.windows.is_sorted_by(|a, b| a.sequence < b.sequence) {
        return Err(BookError::Malformed("field `windows`: sequences must ascend".to_owned()));
    }
    let mut outcome = Outcome { mark: boot.high_water_mark as u64, ..Outcome::default() };
    let (mut rates, live) = (PriceCache::default(), experiments::live_ids(conn).await?);
    for wire in report.windows {
        if wire.sequence <= outcome.mark {
            outcome.duplicates += 1;
            continue;
        }
        if wire.sequence > outcome.mark + 1 {
            let through = report.lost_through.min(wire.sequence - 1);
            give_up(conn, boot, sender, &mut outcome, through).await?;
        }
        if wire.sequence > outcome.mark + 1 {
            break;
        }
        add(conn, boot, sender, (wire, &live), &mut rates).await?;
        outcome.mark += 1;
        outcome.counted += 1;
    }
    give_up(conn, boot, sender, &mut outcome, report.lost_through).await?;
    boot.high_water_mark = outcome.mark as i64;
    boots::update(conn, boot).await?;
    Ok(outcome)
}

/// Moves the mark over windows that will never come.
async fn give_up(conn: &mut Conn, boot: &BootRow, sender: &Sender, outcome: &mut Outcome, through: u64) -> Result<(), db::Error> {
    if through <= outcome.mark {
        return Ok(());
    }
    let (from, to) = (outcome.mark as i64 + 1, through as i64);
    let rejected = (from..=to).contains(&boot.rejected_sequence);
    let gap = GapRow {
        boot_id: boot.boot_id.clone(),
        kind: if rejected { "rejected" } else { "dropped_windows" }.to_owned(),
        from_sequence: from,
        to_sequence: to,
        noticed_at: sender.received_at,
    };
    boots::insert_gap(conn, &boot.sidecar_id, &gap).await?;
    outcome.lost += through - outcome.mark;
    outcome.mark = through;
    Ok(())
}

async fn add(
    conn: &mut Conn,
    boot: &mut BootRow,
    sender: &Sender,
    (wire, live): (v1::Window, &[String]),
    rates: &mut PriceCache,
) -> Result<(), BookError> {
    let (sequence, payload, of_experiments) = (wire.sequence, window_to_bytes(&wire), lanes::of(&wire, live));
    let rejected = |problem: String| BookError::Rejected { sequence, problem };
    let window = Window::try_from(wire).map_err(|e| rejected(e.to_string()))?;
    check::window(&window, boot.boot_ns as u64, sender.oldest_ns).map_err(rejected)?;
    let prices = rates.of(conn, &window.device.sku, &window.device.region).await?;
    let owner = owner(boot, sender);
    let entries = entries(&window, owner.boot_ns, prices);
    windows::insert(conn, &window_row(boot, sender, &window, &entries, payload)).await?;
    hours::add(conn, owner, device(&window), &entries).await?;
    for (experiment, payload) in of_experiments {
        let row = db::lanes::WindowRow {
            boot_id: boot.boot_id.clone(),
            sequence: sequence as i64,
            sidecar_id: boot.sidecar_id.clone(),
            start_ns: window.start_ns as i64,
            received_at: sender.received_at,
            payload,
        };
        db::lanes::insert(conn, &experiment, &row).await?;
    }
    if window.lost_observations > 0 {
        note_lost_observations(conn, boot, sender, sequence as i64).await?;
        boot.lost_observations += window.lost_observations as i64;
    }
    if window.last {
        boot.finished = true;
        boots::forget_unclean_end(conn, &boot.boot_id).await?;
    }
    boot.last_end_ns = boot.last_end_ns.max(window.end_ns as i64);
    Ok(())
}

async fn note_lost_observations(conn: &mut Conn, boot: &BootRow, sender: &Sender, sequence: i64) -> Result<(), db::Error> {
    let gap = GapRow {
        boot_id: boot.boot_id.clone(),
        kind: "lost_observations".to_owned(),
        from_sequence: sequence,
        to_sequence: sequence,
        noticed_at: sender.received_at,
    };
    boots::insert_gap(conn, &boot.sidecar_id, &gap).await?;
    Ok(())
}

/// Prices what was counted without a price; how many windows that was.
pub(crate) async fn price_late(conn: &mut Conn, sku: &str, region: &str, from_ns: u64) -> Result<u64, db::Error> {
    const BATCH: i64 = 500;
    let rows = prices::of(conn, sku, region).await?;
    let (mut after, mut priced) = ((String::new(), 0), 0);
    loop {
        let page = windows::unpriced(conn, sku, region, from_ns, (&after.0, after.1), BATCH).await?;
        let Some(last) = page.last() else { return Ok(priced) };
        after = (last.boot_id.clone(), last.sequence);
        for row in page {
            // It was decoded when it was counted; one that no longer is keeps its NULL.
            let Some(window) = window_from_bytes(&row.payload).and_then(|it| Window::try_from(it).ok()) else {
                tracing::error!(boot_id = row.boot_id, sequence = row.sequence, "a counted window is unreadable: it stays without a price");
                continue;
            };
            let owner = Owner { sidecar_id: &row.sidecar_id, namespace: &row.namespace, app: &row.app, boot_ns: row.boot_ns as u64 };
            let with: Entries = entries(&window, owner.boot_ns, &rows);
            let Some(spend) = with.spend else { continue };
            let added = with.beyond(&entries(&window, owner.boot_ns, &[]));
            hours::add(conn, owner, device(&window), &added).await?;
            windows::set_spend(conn, &row.boot_id, row.sequence, spend).await?;
            priced += 1;
        }
    }
}

fn owner<'a>(boot: &'a BootRow, sender: &'a Sender) -> Owner<'a> {
    Owner { sidecar_id: &boot.sidecar_id, namespace: &sender.namespace, app: &sender.app, boot_ns: boot.boot_ns as u64 }
}

fn device(window: &Window) -> Device<'_> {
    let it = &window.device;
    Device { uuid: &it.uuid, sku: &it.sku, region: &it.region, share_ppm: it.share_ppm }
}

fn window_row<'a>(boot: &'a BootRow, sender: &'a Sender, window: &'a Window, entries: &Entries, payload: Vec<u8>) -> WindowRow<'a> {
    WindowRow {
        boot_id: &boot.boot_id,
        sequence: window.sequence,
        sidecar_id: &boot.sidecar_id,
        namespace: &sender.namespace,
        app: &sender.app,
        epoch: window.snapshot.epoch,
        n: window.snapshot.n,
        sku: &window.device.sku,
        region: &window.device.region,
        device_uuid: &window.device.uuid,
        start_ns: window.start_ns,
        end_ns: window.end_ns,
        spend: entries.spend,
        energy: entries.device.energy.map(|it| it.drawn),
        received_at: sender.received_at,
        payload,
    }
}

/// Price rows read in this report.
#[derive(Default)]
struct PriceCache(Vec<((String, String), Vec<Price>)>);

impl PriceCache {
    async fn of(&mut self, conn: &mut Conn, sku: &str, region: &str) -> Result<&[Price], db::Error> {
        let known = self.0.iter().position(|((a, b), _)| a == sku && b == region);
        let at = if let Some(at) = known {
            at
        } else {
            let rows = prices::of(conn, sku, region).await?;
            self.0.push(((sku.to_owned(), region.to_owned()), rows));
            self.0.len() - 1
        };
        Ok(&self.0[at].1)
    }
}
