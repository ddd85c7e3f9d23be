//! The outcome of a comparison, as text and JSON.
//!
//! Enters: accounts and slices of both sides. Leaves: a [`Comparison`]. Never: the word "faster" where the interval contains 1.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Compare;
use super::figures::{Figures, Ratio, Slice, ratios};
use crate::account::{Account, RetryAfter};
use crate::plan::Plan;
use crate::report::ENOUGH_FOR_P99;

const METHOD: &str =
    "non-overlapping block bootstrap, percentile interval; a block is a pair of slices (Carlstein 1986; Efron and Tibshirani 1993, ch. 13)";

/// Two sides and their ratios.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// First side.
    pub a: Side,
    /// Second side.
    pub b: Side,
    /// Each figure of B over that of A.
    pub ratios: [Ratio; 4],
    /// Pairs of slices compared.
    pub pairs: usize,
    /// Length of a slice.
    pub slice_seconds: f64,
    /// Of the intervals.
    pub confidence: f64,
    /// How they were made.
    pub method: &'static str,
    /// Of the bootstrap.
    pub resamples: u32,
    /// Of texts, order and bootstrap.
    pub seed: u64,
    /// Whether Ctrl-C ended it.
    pub interrupted: bool,
}

/// One side.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Target.
    pub url: String,
    /// Model asked for.
    pub model: Option<String>,
    /// Application sent.
    pub app: Option<String>,
    /// Connections.
    pub clients: usize,
    /// Requests a second asked for, in an open loop.
    pub rate: Option<f64>,
    /// Words a text.
    pub words: String,
    /// Texts a request.
    pub batch: u32,
    /// Requests of all compared slices.
    pub requests: u64,
    /// Those without a 2xx.
    pub failed: u64,
    /// By status or by what broke.
    pub errors: BTreeMap<String, u64>,
    /// `retry-after` seen.
    pub retry_after: RetryAfter,
    /// Successes by `x-akidb-variant`.
    pub variants: BTreeMap<String, u64>,
    /// Whether p99 is of fewer than 1,000 successes.
    pub p99_of_few: bool,
    /// NaN, null in JSON, without successes.
    pub figures: Figures,
}

impl Side {
    fn new(plan: &Plan, account: &Account, figures: Figures) -> Self {
        let (succeeded, failed) = (account.latency.len(), account.failed_latency.len());
        Self {
            url: plan.target.url.clone(),
            model: plan.model.clone(),
            app: plan.app.clone(),
            clients: plan.clients,
            rate: plan.rate,
            words: plan.mix.to_string(),
            batch: plan.batch,
            requests: succeeded + failed,
            failed,
            errors: account.errors.clone(),
            retry_after: account.retry_after,
            variants: account.variants.clone(),
            p99_of_few: succeeded < ENOUGH_FOR_P99,
            figures,
        }
    }

    fn text(&self, name: char) -> String {
        let model = self.model.as_deref().unwrap_or("default model");
        let loop_ = self.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} requests/s"));
        let counts = |counts: &BTreeMap<String, u64>| counts.iter().fold(String::new(), |all, (key, n)| all + &format!(", {key}: {n}"));
        format!(
            "{name}  {} ({model}; {loop_}, {} clients, {} words): {} requests, {} failed{}{}",
            self.url,
            self.clients,
            self.words,
            self.requests,
            self.failed,
            counts(&self.errors),
            counts(&self.variants)
        )
    }
}

impl Comparison {
    /// Compares what both sides showed.
    pub fn new(compare: &Compare, a: &(Account, Vec<Slice>), b: &(Account, Vec<Slice>), interrupted: bool) -> Self {
        let ratios = ratios(&a.1, &b.1, &compare.bootstrap);
        let [plan_a, plan_b] = &compare.sides;
        let slice_seconds = match plan_a.until {
            crate::plan::Until::Elapsed(length) => length.as_secs_f64(),
            crate::plan::Until::Requests(_) => 0.0,
        };
        Self {
            a: Side::new(plan_a, &a.0, Figures::of(&ratios, |it| it.a)),
            b: Side::new(plan_b, &b.0, Figures::of(&ratios, |it| it.b)),
            pairs: a.1.len(),
            ratios,
            slice_seconds,
            confidence: compare.bootstrap.level,
            method: METHOD,
            resamples: compare.bootstrap.resamples,
            seed: compare.bootstrap.seed,
            interrupted,
        }
    }

    /// Whether requests failed.
    pub fn any_failed(&self) -> bool {
        self.a.failed + self.b.failed > 0 || self.a.requests.min(self.b.requests) == 0
    }

    /// For people.
    pub fn text(&self) -> String {
        let early = if self.interrupted { ", interrupted" } else { "" };
        let mut lines = vec![
            self.a.text('A'),
            self.b.text('B'),
            format!("{} pairs of slices of {} s in random order{early}", self.pairs, self.slice_seconds),
            String::new(),
            format!("{:<12}{:>12}{:>12}{:>9}  {:.0} % interval", "", "A", "B", "B / A", 100.0 * self.confidence),
        ];
        lines.extend(self.ratios.iter().map(Ratio::text));
        if self.a.p99_of_few || self.b.p99_of_few {
            lines.push("p99 of FEW: under 1,000 successes of a side".to_owned());
        }
        lines.push(format!("intervals: {}, {} resamples, seed {}", self.method, self.resamples, self.seed));
        lines.join("\n") + "\n"
    }
}

impl Ratio {
    fn text(&self) -> String {
        let unit = if self.figure == "throughput" { "/s" } else { "ms" };
        let ratio = self.ratio.map_or_else(|| "none".to_owned(), |it| format!("{it:.3}"));
        let interval = self.interval.map_or_else(|| "none".to_owned(), |it| format!("{:.3} to {:.3}", it.low, it.high));
        format!("{:<12}{:>9.2} {unit}{:>9.2} {unit}{ratio:>9}  {interval}{}", self.figure, self.a, self.b, verdict(self))
    }
}

fn verdict(ratio: &Ratio) -> &'static str {
    let higher_is_better = ratio.figure == "throughput";
    match ratio.interval {
        Some(it) if it.low > 1.0 => ["  B slower", "  B faster"][usize::from(higher_is_better)],
        Some(it) if it.high < 1.0 => ["  B faster", "  B slower"][usize::from(higher_is_better)],
        Some(_) => "  no difference shown",
        None => "",
    }
}
