//! What the work has cost, and drawn; pure. Enters: windows and price rows. Leaves: a [`CostReport`]. Never: a total that shrinks, a picodollar or
//! millijoule that is in no part: direct, overhead and idle sum to the spend, and to the energy, exactly.
//!
//! Price rows are applied once: what was charged stays charged. A row that arrives late is applied back to its start where no price
//! covered that time, else from the last cut on.

use std::collections::{BTreeMap, VecDeque};

use akidb_domain::cost::{self, Price, dollars, per_request};
use akidb_domain::energy::{self, joules_per_request};
use akidb_domain::window::Window;

use super::report::{CostReport, CostWindow, SpendLine, VariantCost};
use super::{Rate, rfc3339};

/// Stretches that wait for a price, each kept apart; more are merged, oldest first.
const WAITING: usize = 4_096;

type Key = (String, String);

/// The figures of a boot.
#[derive(Debug)]
pub struct Meter {
    share_ppm: u32,
    devices: u32,
    boot_ns: u64,
    settled_to: u64,
    rows: Vec<Price>,
    waiting: VecDeque<Stretch>,
    accounts: BTreeMap<Key, Account>,
    idle: i128,
    /// None: nothing was measured yet.
    idle_energy: Option<i128>,
}

/// A time in which the device did something.
#[derive(Debug, Clone, Default)]
struct Stretch {
    from: u64,
    to: u64,
    /// Engine time and requests.
    lanes: BTreeMap<Key, (u64, u64)>,
    overheads: BTreeMap<Key, u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    direct: i128,
    overhead: i128,
    requests: u64,
    priced: u64,
    direct_energy: i128,
    overhead_energy: i128,
    measured: u64,
}

impl Meter {
    /// A share of so many devices, from a boot on.
    pub fn new((share_ppm, devices): (u32, u32), boot_ns: u64) -> Self {
        Self {
            share_ppm,
            devices,
            boot_ns,
            settled_to: boot_ns,
            rows: Vec::new(),
            waiting: VecDeque::new(),
            accounts: BTreeMap::new(),
            idle: 0,
            idle_energy: None,
        }
    }

    /// Unix ns of the last cut.
    pub fn settled_to(&self) -> u64 {
        self.settled_to
    }

    /// Charges a window's work.
    pub fn settle(&mut self, window: &Window) {
        let mut stretch = Stretch { from: self.settled_to, to: window.end_ns, ..Stretch::default() };
        for lane in &window.lanes {
            let entry = stretch.lanes.entry((lane.lane.model.clone(), lane.lane.variant.clone())).or_default();
            entry.0 += lane.engine_ns;
            entry.1 += lane.requests;
            self.accounts.entry((lane.lane.model.clone(), lane.lane.variant.clone())).or_default().requests += lane.requests;
        }
        for overhead in &window.device.overheads {
            *stretch.overheads.entry((overhead.model.clone(), overhead.variant.clone())).or_default() += overhead.device_ns;
        }
        self.push(stretch);
        self.settle_energy(window);
    }

    /// Charges time in which nothing happened, up to `now_ns`, while a window is open.
    pub fn settle_idle(&mut self, now_ns: u64) {
        self.push(Stretch { from: self.settled_to, to: now_ns, ..Stretch::default() });
    }

    /// Takes the price rows that hold from the last cut on.
    pub fn set_prices(&mut self, prices: &[Price]) {
        let now = self.settled_to;
        self.rows.retain(|it| it.valid_from_ns < now);
        for row in &mut self.rows {
            row.valid_to_ns = Some(row.valid_to_ns.unwrap_or(now).min(now));
        }
        let charged_to = self.rows.iter().filter_map(|it| it.valid_to_ns).max();
        let mut prices = prices.to_vec();
        prices.sort_by_key(|it| it.valid_from_ns);
        for mut price in prices {
            let goes_on = |it: &Price| it.valid_to_ns == Some(now) && it.picodollars_per_hour == price.picodollars_per_hour;
            let holds_now = price.valid_from_ns <= now && price.valid_to_ns.is_none_or(|it| it > now);
            if let Some(same) = self.rows.iter_mut().find(|it| holds_now && goes_on(it)) {
                same.valid_to_ns = price.valid_to_ns;
                continue;
            }
            if let Some(charged_to) = charged_to {
                price.valid_from_ns = price.valid_from_ns.max(charged_to);
            }
            if price.valid_to_ns.is_none_or(|it| it > price.valid_from_ns.max(self.boot_ns)) {
                self.rows.push(price);
            }
        }
        for stretch in std::mem::take(&mut self.waiting) {
            self.charge(stretch);
        }
    }

    /// The price now.
    pub fn rate(&self, now_ns: u64) -> Option<Rate> {
        let row = self.rows.iter().find(|it| it.valid_from_ns <= now_ns && it.valid_to_ns.is_none_or(|end| end > now_ns))?;
        Some(Rate { picodollars_per_hour: row.picodollars_per_hour, share_ppm: self.share_ppm })
    }

    /// Everything charged so far.
    pub fn spent(&self) -> i64 {
        bounded(self.accounts.values().map(|it| it.direct + it.overhead).sum::<i128>() + self.idle)
    }

    /// The figures.
    pub fn report(&self) -> CostReport {
        let sum = |of: fn(&Account) -> i128| self.accounts.values().map(of).sum::<i128>();
        let count = |of: fn(&Account) -> u64| self.accounts.values().map(of).sum::<u64>();
        let (requests, priced, measured) = (count(|it| it.requests), count(|it| it.priced), count(|it| it.measured));
        let total_energy = self.idle_energy.map(|_| sum(|it| it.direct_energy + it.overhead_energy));
        let spend = self.spend();
        let from = self.rows.iter().map(|it| it.valid_from_ns.max(self.boot_ns)).min().filter(|it| *it < self.settled_to);
        CostReport {
            cost: per_request(sum(|it| it.direct), priced),
            currency: "USD",
            total_picodollars: bounded(sum(|it| it.direct + it.overhead)),
            idle_picodollars: bounded(self.idle),
            requests,
            unpriced_requests: requests - priced,
            energy_joules: joules_per_request(sum(|it| it.direct_energy), measured),
            total_energy_millijoules: total_energy.map(bounded),
            idle_energy_millijoules: self.idle_energy.map(bounded),
            unmeasured_requests: requests - measured,
            window: CostWindow { from: rfc3339(from.unwrap_or(self.boot_ns)), to: rfc3339(self.settled_to) },
            scope: "sidecar",
            spend,
            variants: self
                .accounts
                .iter()
                .filter(|(_, it)| it.requests > 0 || it.overhead > 0 || it.overhead_energy > 0)
                .map(|(key, it)| it.line(key))
                .collect(),
        }
    }

    fn spend(&self) -> Vec<SpendLine> {
        let line = |row: &Price| {
            let (from, to) = (row.valid_from_ns.max(self.boot_ns), row.valid_to_ns.unwrap_or(u64::MAX).min(self.settled_to));
            (from < to).then(|| SpendLine {
                price_per_hour: dollars(i128::from(row.picodollars_per_hour)),
                share_ppm: self.share_ppm,
                devices: self.devices,
                from: rfc3339(from),
                to: rfc3339(to),
                picodollars: bounded(cost::spend_until(row.picodollars_per_hour, self.occupied_ppm(), to - from)),
            })
        };
        self.rows.iter().filter_map(line).collect()
    }

    fn push(&mut self, stretch: Stretch) {
        if stretch.to <= stretch.from && stretch.lanes.is_empty() && stretch.overheads.is_empty() {
            return;
        }
        self.settled_to = stretch.to.max(self.settled_to);
        self.charge(stretch);
    }

    fn charge(&mut self, stretch: Stretch) {
        let spend = cost::spend(&self.rows, self.occupied_ppm(), self.boot_ns, stretch.from, stretch.to);
        if spend.priced_ns == 0 {
            self.wait(stretch);
            return;
        }
        let lane_ns: Vec<u64> = stretch.lanes.values().map(|it| it.0).collect();
        let overhead_ns: Vec<u64> = stretch.overheads.values().copied().collect();
        let device_ns = (stretch.to - stretch.from) * u64::from(self.devices);
        let parts = cost::divide(spend.picodollars, device_ns, &lane_ns, &overhead_ns);
        // A stretch that a price covers for the better part counts as priced.
        let priced = spend.priced_ns.saturating_mul(2) >= stretch.to - stretch.from;
        for ((key, (_, requests)), direct) in stretch.lanes.into_iter().zip(parts.direct) {
            let account = self.accounts.entry(key).or_default();
            account.direct += direct;
            account.priced += if priced { requests } else { 0 };
        }
        for (key, overhead) in stretch.overheads.into_keys().zip(parts.overhead) {
            self.accounts.entry(key).or_default().overhead += overhead;
        }
        self.idle += parts.idle;
    }

    /// Needs no price, and is of the whole window, whatever was charged while it was open.
    fn settle_energy(&mut self, window: &Window) {
        let Some(parts) = energy::divide(window) else { return };
        let mut account = |model: &str, variant: &str, add: &dyn Fn(&mut Account)| {
            add(self.accounts.entry((model.to_owned(), variant.to_owned())).or_default());
        };
        for (lane, millijoules) in window.lanes.iter().zip(parts.direct) {
            account(&lane.lane.model, &lane.lane.variant, &|it| {
                it.direct_energy += millijoules;
                it.measured += lane.requests;
            });
        }
        for (overhead, millijoules) in window.device.overheads.iter().zip(parts.overhead) {
            account(&overhead.model, &overhead.variant, &|it| it.overhead_energy += millijoules);
        }
        *self.idle_energy.get_or_insert(0) += parts.idle;
    }

    fn occupied_ppm(&self) -> u32 {
        self.share_ppm * self.devices
    }

    fn wait(&mut self, stretch: Stretch) {
        match self.waiting.back_mut() {
            Some(last) if last.is_idle() && stretch.is_idle() && last.to == stretch.from => last.to = stretch.to,
            _ => self.waiting.push_back(stretch),
        }
        if self.waiting.len() > WAITING
            && let (Some(mut oldest), Some(next)) = (self.waiting.pop_front(), self.waiting.pop_front())
        {
            // Where a charged time lies between them, the older one stays unpriced for good.
            let kept = if oldest.to == next.from {
                oldest.merge(next);
                oldest
            } else {
                next
            };
            self.waiting.push_front(kept);
        }
    }
}

impl Stretch {
    fn is_idle(&self) -> bool {
        self.lanes.is_empty() && self.overheads.is_empty()
    }

    fn merge(&mut self, next: Self) {
        self.to = next.to;
        for (key, (engine_ns, requests)) in next.lanes {
            let lane = self.lanes.entry(key).or_default();
            lane.0 += engine_ns;
            lane.1 += requests;
        }
        for (key, device_ns) in next.overheads {
            *self.overheads.entry(key).or_default() += device_ns;
        }
    }
}

impl Account {
    fn line(&self, (model, variant): &Key) -> VariantCost {
        VariantCost {
            model: model.clone(),
            variant: variant.clone(),
            cost: per_request(self.direct, self.priced),
            total_picodollars: bounded(self.direct + self.overhead),
            energy_joules: joules_per_request(self.direct_energy, self.measured),
            requests: self.requests,
        }
    }
}

/// An i64 holds $9.2 million: a thousand years of a sidecar.
fn bounded(amount: i128) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
