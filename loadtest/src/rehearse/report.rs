//! What a rehearsal found, as a table and as JSON.
//!
//! Enters: runs, cell by cell. Leaves: counts, medians, and each expectation that was missed. Never: a rate without its number of runs.

use akidb_domain::decision::Guardrail;
use serde::Serialize;

use super::plan::{Arm, Expect, Plan};
use super::run::{Moment, Run};
use super::usual::Usual;

/// A rehearsal's results.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Plan.
    pub plan: String,
    /// Of all draws.
    pub seed: u64,
    /// Runs a cell.
    pub runs: u64,
    /// Looks a run.
    pub looks: u64,
    /// Whether the share was held in the first phase.
    pub hold: bool,
    /// Chance of a false verdict that was asked for.
    pub alpha: f64,
    /// One an arm and load.
    pub cells: Vec<CellReport>,
    /// Whether the plan's expectations, which are of its number of runs, were held against the results.
    pub judged: bool,
    /// Expectations that were missed, in words.
    pub missed: Vec<String>,
}

/// An arm under a load.
#[derive(Debug, Clone, Serialize)]
pub struct CellReport {
    /// Load.
    pub load: String,
    /// Arm.
    pub arm: String,
    /// Runs promoted.
    pub promoted: u64,
    /// Runs rolled back.
    pub rolled_back: u64,
    /// Of those, by guardrail (`time`: no verdict within twice the planned time).
    pub rolled_back_by: Vec<(String, u64)>,
    /// Runs that ended without either.
    pub undecided: u64,
    /// Runs with an inconclusive look.
    pub inconclusive: u64,
    /// Median run's promotion.
    pub to_promotion: Option<Medians>,
    /// Median run's roll-back.
    pub to_roll_back: Option<Medians>,
    /// Roll-backs within the canary requests that the plan names.
    pub rolled_back_in_time: Option<u64>,
    /// Mean part of the device's time that served requests.
    pub utilisation: f64,
    /// Mean over runs of the control lane's p95, ms.
    pub control_p95_ms: f64,
    /// Mean part of it that went to probes.
    pub probe_share: f64,
    /// Runs that fixed thresholds would have promoted and rolled back.
    pub thresholds: [u64; 2],
    /// Runs that the binomial test against the rest would have promoted and rolled back.
    pub binomial: [u64; 2],
}

/// Medians over runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "see `Moment`")]
pub struct Medians {
    pub looks: u64,
    pub probes: u64,
    pub canary_requests: u64,
    pub ms: u64,
}

impl Report {
    pub(super) fn new(name: &str, plan: &Plan, judged: bool) -> Self {
        Self {
            plan: name.to_owned(),
            seed: plan.seed,
            runs: plan.runs,
            looks: plan.looks,
            hold: plan.hold,
            alpha: plan.experiment.alpha,
            cells: Vec::new(),
            judged,
            missed: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, load: &str, arm: &Arm, runs: &[Run]) {
        let count = |of: &dyn Fn(&Run) -> bool| runs.iter().filter(|it| of(it)).count() as u64;
        let usual = |of: fn(&Run) -> Option<Usual>| [Usual::Promoted, Usual::RolledBack].map(|it| count(&|run| of(run) == Some(it)));
        let mean = |of: fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len().max(1) as f64;
        let in_time = |most: u64| count(&|run| run.rolled_back.is_some_and(|it| it.canary_requests <= most));
        let cell = CellReport {
            load: load.to_owned(),
            arm: arm.name.clone(),
            promoted: count(&|it| it.promoted.is_some()),
            rolled_back: count(&|it| it.rolled_back.is_some()),
            rolled_back_by: by_guardrail(runs),
            undecided: count(&|it| it.promoted.is_none() && it.rolled_back.is_none()),
            inconclusive: count(&|it| it.inconclusive > 0),
            to_promotion: medians(runs.iter().filter_map(|it| it.promoted)),
            to_roll_back: medians(runs.iter().filter_map(|it| it.rolled_back)),
            rolled_back_in_time: arm.expect.within_canary_requests.map(in_time),
            utilisation: mean(|it| it.utilisation),
            control_p95_ms: mean(|it| it.control_p95_ms),
            probe_share: mean(|it| it.probe_share),
            thresholds: usual(|it| it.thresholds),
            binomial: usual(|it| it.binomial),
        };
        if self.judged {
            self.missed.extend(missed(&cell, arm.expect).into_iter().map(|it| format!("{load} / {}: {it}", arm.name)));
        }
        self.cells.push(cell);
    }

    /// For people.
    pub fn text(&self) -> String {
        let what = if self.hold { "promoted = all proven at the first share, which is held" } else { "promoted = at 100 %" };
        let mut lines = vec![
            format!(
                "{}: {} runs a cell, {} looks a run, alpha {}, seed {}; {what}",
                self.plan, self.runs, self.looks, self.alpha, self.seed
            ),
            String::new(),
            format!(
                "{:<29} {:>4} {:>6} {:>6} {:>8} {:>8} {:>9}  {:>21} {:>21}  {:>11} {:>11}  rolled back by",
                "arm / load",
                "util",
                "p95",
                "probes",
                "promoted",
                "rolled b",
                "undecided",
                "to promotion p/cr/min",
                "to roll-back p/cr/min",
                "thresholds",
                "binomial"
            ),
        ];
        lines.extend(self.cells.iter().map(CellReport::line));
        lines.push(String::new());
        lines.push(
            "p = probes, cr = canary requests, min = minutes, each in the median run; thresholds and binomial: promoted/rolled back"
                .to_owned(),
        );
        lines.extend(self.missed.iter().map(|it| format!("MISSED {it}")));
        if !self.judged {
            lines.push("the plan's expectations are of its own number of runs: not judged".to_owned());
        } else if self.missed.is_empty() {
            lines.push("every expectation of the plan holds".to_owned());
        }
        lines.join("\n") + "\n"
    }
}

impl CellReport {
    fn line(&self) -> String {
        let medians = |it: Option<Medians>| {
            it.map_or_else(|| "-".to_owned(), |it| format!("{}/{}/{:.1}", it.probes, it.canary_requests, it.ms as f64 / 60_000.0))
        };
        let by: Vec<String> = self.rolled_back_by.iter().map(|(name, n)| format!("{name} {n}")).collect();
        let in_time = self.rolled_back_in_time.map_or_else(String::new, |it| format!(" (in time {it})"));
        format!(
            "{:<29} {:>3.0}% {:>6.0} {:>5.2}% {:>8} {:>8} {:>9}  {:>21} {:>21}  {:>11} {:>11}  {}{in_time}",
            format!("{} / {}", self.arm, self.load),
            100.0 * self.utilisation,
            self.control_p95_ms,
            100.0 * self.probe_share,
            self.promoted,
            self.rolled_back,
            self.undecided,
            medians(self.to_promotion),
            medians(self.to_roll_back),
            format!("{}/{}", self.thresholds[0], self.thresholds[1]),
            format!("{}/{}", self.binomial[0], self.binomial[1]),
            by.join(", "),
        )
    }
}

fn by_guardrail(runs: &[Run]) -> Vec<(String, u64)> {
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for run in runs.iter().filter(|it| it.rolled_back.is_some()) {
        *counts.entry(run.by.map_or("time", Guardrail::as_str)).or_default() += 1;
    }
    counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
}

/// Of each figure by itself; `None` without a moment.
fn medians(moments: impl Iterator<Item = Moment>) -> Option<Medians> {
    let moments: Vec<Moment> = moments.collect();
    let middle = |of: fn(&Moment) -> u64| {
        let mut values: Vec<u64> = moments.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    Some(Medians {
        looks: middle(|it| it.look)?,
        probes: middle(|it| it.probes)?,
        canary_requests: middle(|it| it.canary_requests)?,
        ms: middle(|it| it.ms)?,
    })
}

fn missed(cell: &CellReport, expect: Expect) -> Vec<String> {
    let mut missed = Vec::new();
    let mut most = |what: &str, got: u64, bound: Option<u64>| {
        missed.extend(bound.filter(|it| got > *it).map(|it| format!("{what} {got}, at most {it} expected")));
    };
    most("promoted", cell.promoted, expect.most_promoted);
    most("rolled back", cell.rolled_back, expect.most_rolled_back);
    let decided = if expect.least_promoted.is_some() { cell.to_promotion } else { cell.to_roll_back };
    most("median probes", decided.map_or(0, |it| it.probes), expect.most_probes);
    let mut least = |what: &str, got: u64, bound: Option<u64>| {
        missed.extend(bound.filter(|it| got < *it).map(|it| format!("{what} {got}, at least {it} expected")));
    };
    least("promoted", cell.promoted, expect.least_promoted);
    least("rolled back in time", cell.rolled_back_in_time.unwrap_or(cell.rolled_back), expect.least_rolled_back);
    missed
}
