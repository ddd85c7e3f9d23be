//! The ledger's arithmetic: what one window adds to the hourly sums.
//!
//! Enters: a window, whose it is, and the price rows of its SKU and region. Leaves: [`Entries`], whose parts of money and of energy sum to
//! the whole exactly. Never: a float, SQL, a clock. A price that comes late adds `Entries` with it minus `Entries` without.

pub(crate) mod book;
pub(crate) mod check;
pub(crate) mod lanes;

use akidb_domain::cost::{Division, Price, allocate, divide, spend};
use akidb_domain::energy;
use akidb_domain::window::{LaneUsage, Window};

use crate::db::hours::{DeviceEntry, EnergyEntry, Entries, LaneEntry, OverheadEntry, UsageEntry};

/// Nanoseconds in an hour.
pub(crate) const HOUR_NS: u64 = 3_600_000_000_000;

/// What a checked window adds under these prices.
pub(crate) fn entries(window: &Window, boot_ns: u64, prices: &[Price]) -> Entries {
    let device = &window.device;
    let (length, devices) = (window.end_ns - window.start_ns, u64::from(device.devices));
    let got = spend(prices, device.occupied_ppm(), boot_ns, window.start_ns, window.end_ns);
    let covered = got.priced_ns > 0;
    let lane_ns: Vec<u64> = window.lanes.iter().map(|it| it.engine_ns).collect();
    let overhead_ns: Vec<u64> = device.overheads.iter().map(|it| it.device_ns).collect();
    let parts = divide(got.picodollars, window.device_ns(), &lane_ns, &overhead_ns);
    let drawn = energy::divide(window);
    let (first_ns, last_ns) = priced_stretch(window, boot_ns, prices);
    let device_entry = DeviceEntry {
        elapsed_ns: window.device_ns() as i64,
        busy_ns: lane_ns.iter().sum::<u64>() as i64,
        overhead_ns: overhead_ns.iter().sum::<u64>() as i64,
        unpriced_ns: ((length - got.priced_ns) * devices) as i64,
        spend: got.picodollars as i64,
        direct: parts.direct.iter().sum::<i128>() as i64,
        overhead: parts.overhead.iter().sum::<i128>() as i64,
        idle: parts.idle as i64,
        first_ns,
        last_ns,
        energy: drawn.as_ref().map(energy_entry),
        measured_ns: if drawn.is_some() { window.device_ns() as i64 } else { 0 },
    };
    let [direct_energy, overhead_energy] = of_each(drawn.as_ref(), window.lanes.len(), device.overheads.len());
    let overhead = device.overheads.iter().zip(&parts.overhead).zip(overhead_energy).map(|((it, picodollars), energy)| OverheadEntry {
        cause: it.cause.clone(),
        model: it.model.clone(),
        variant: it.variant.clone(),
        experiment: it.experiment.clone(),
        device_ns: it.device_ns as i64,
        picodollars: *picodollars as i64,
        energy: energy.map(|it| it as i64),
    });
    let direct = parts.direct.iter().zip(direct_energy);
    Entries {
        hour: (window.start_ns / HOUR_NS) as i64,
        spend: covered.then_some(got.picodollars as i64),
        device: device_entry,
        usages: window.lanes.iter().zip(direct).flat_map(|(lane, (money, energy))| usages(lane, (*money, covered), energy)).collect(),
        lanes: window.lanes.iter().map(lane_entry).collect(),
        overheads: overhead.collect(),
    }
}

fn energy_entry(parts: &Division) -> EnergyEntry {
    let (direct, overhead): (i128, i128) = (parts.direct.iter().sum(), parts.overhead.iter().sum());
    EnergyEntry {
        drawn: (direct + overhead + parts.idle) as i64,
        direct: direct as i64,
        overhead: overhead as i64,
        idle: parts.idle as i64,
    }
}

/// Energy of each lane and of each overhead; none where nothing was measured.
fn of_each(drawn: Option<&Division>, lanes: usize, overheads: usize) -> [Vec<Option<i128>>; 2] {
    let some = |parts: &[i128]| parts.iter().copied().map(Some).collect();
    drawn.map_or_else(|| [vec![None; lanes], vec![None; overheads]], |it| [some(&it.direct), some(&it.overhead)])
}

/// First and last priced moment; the greatest and least `i64` without one, so that MIN and MAX pass over it.
fn priced_stretch(window: &Window, boot_ns: u64, prices: &[Price]) -> (i64, i64) {
    let mut stretch = (i64::MAX, i64::MIN);
    for price in prices {
        let from = window.start_ns.max(price.valid_from_ns).max(boot_ns);
        let to = window.end_ns.min(price.valid_to_ns.unwrap_or(u64::MAX));
        if from < to {
            stretch = (stretch.0.min(from as i64), stretch.1.max(to as i64));
        }
    }
    stretch
}

/// A lane's cost, energy and engine time by consumer. What the consumers leave over belongs to the nameless one.
fn usages(lane: &LaneUsage, (direct, priced): (i128, bool), energy: Option<i128>) -> Vec<UsageEntry> {
    let mut consumers: Vec<(String, String, u64, u64)> =
        lane.consumers.iter().map(|it| (it.app.clone(), it.tenant.clone(), it.requests, it.tokens)).collect();
    let requests = lane.requests.saturating_sub(consumers.iter().map(|it| it.2).sum());
    let tokens = lane.tokens.saturating_sub(consumers.iter().map(|it| it.3).sum());
    if requests > 0 || tokens > 0 || consumers.is_empty() {
        consumers.push((String::new(), String::new(), requests, tokens));
    }
    let weights: Vec<u128> = consumers.iter().map(|it| u128::from(it.3)).collect();
    let money = allocate(direct, &weights);
    let engine = allocate(i128::from(lane.engine_ns), &weights);
    let energy = energy.map_or_else(|| vec![None; weights.len()], |it| allocate(it, &weights).into_iter().map(Some).collect());
    consumers
        .into_iter()
        .zip(money.into_iter().zip(engine).zip(energy))
        .map(|((app, tenant, requests, tokens), ((direct, engine_ns), energy))| UsageEntry {
            lane: lane.lane.clone(),
            app,
            tenant,
            requests: requests as i64,
            unpriced_requests: if priced { 0 } else { requests as i64 },
            tokens: tokens as i64,
            engine_ns: engine_ns as i64,
            direct: direct as i64,
            measured_requests: if energy.is_some() { requests as i64 } else { 0 },
            energy: energy.map(|it| it as i64),
        })
        .collect()
}

fn lane_entry(it: &LaneUsage) -> LaneEntry {
    LaneEntry {
        lane: it.lane.clone(),
        requests: it.requests as i64,
        texts: it.texts as i64,
        errors: it.errors.iter().map(|it| it.count as i64).sum(),
        truncated: it.truncated as i64,
        batches: it.batches as i64,
        tokens: it.tokens as i64,
        padded_tokens: it.padded_tokens as i64,
        engine_ns: it.engine_ns as i64,
    }
}

impl Entries {
    /// What these entries add beyond `counted`, which are of the same window under fewer prices: money, and no count and no energy.
    pub(crate) fn beyond(mut self, counted: &Self) -> Self {
        let (new, old) = (&mut self.device, &counted.device);
        new.elapsed_ns -= old.elapsed_ns;
        new.busy_ns -= old.busy_ns;
        new.overhead_ns -= old.overhead_ns;
        new.unpriced_ns -= old.unpriced_ns;
        new.spend -= old.spend;
        new.direct -= old.direct;
        new.overhead -= old.overhead;
        new.idle -= old.idle;
        (new.energy, new.measured_ns) = (None, 0);
        for (new, old) in self.usages.iter_mut().zip(&counted.usages) {
            new.requests -= old.requests;
            new.unpriced_requests -= old.unpriced_requests;
            new.tokens -= old.tokens;
            new.engine_ns -= old.engine_ns;
            new.direct -= old.direct;
            (new.energy, new.measured_requests) = (None, 0);
        }
        for (new, old) in self.overheads.iter_mut().zip(&counted.overheads) {
            new.device_ns -= old.device_ns;
            new.picodollars -= old.picodollars;
            new.energy = None;
        }
        self.lanes.clear();
        self
    }
}
