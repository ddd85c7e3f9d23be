//! The figures of an account, and their JSON; [`text`] is for people.
//!
//! Enters: a plan and its account. Leaves: a [`Report`]. Never: a figure over some of the requests without saying which.

mod text;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::account::{Account, RetryAfter};
use crate::plan::Plan;
use crate::scrape::BatchSizes;
use crate::watch::Resources;

/// A p99 of fewer requests rests on fewer than ten of them, and is marked.
pub const ENOUGH_FOR_P99: u64 = 1_000;

/// What is known of a run beside its account.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is that of the report")]
pub struct Beside {
    pub elapsed: Duration,
    pub interrupted: bool,
    pub batches: Option<BatchSizes>,
    pub resources: Option<Resources>,
}

/// What a run showed. `requests = succeeded + failed`, always.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the class, where this is one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Where requests went.
    pub url: String,
    /// `open`, `closed`, or `mixed` of classes of both.
    pub mode: &'static str,
    /// Requests a second asked for in an open loop, of all classes.
    pub rate: Option<f64>,
    /// Connections asked for.
    pub clients: usize,
    /// Words a text; of several classes, each one's.
    pub words: String,
    /// Texts a request; null where classes differ.
    pub batch: Option<u32>,
    /// Model asked for; null for the default, or where classes differ.
    pub model: Option<String>,
    /// `x-akidb-app` sent; null for none, or where classes differ.
    pub app: Option<String>,
    /// Seed of the texts.
    pub seed: u64,
    /// Requests before the measurement, and how many of them failed.
    pub warmup_requests: u64,
    /// See `warmup_requests`.
    pub warmup_failed: u64,
    /// From the first request's time to the last answer.
    pub elapsed_seconds: f64,
    /// Whether Ctrl-C ended it.
    pub interrupted: bool,
    /// All requests that were due.
    pub requests: u64,
    /// Answered with 2xx.
    pub succeeded: u64,
    /// The rest.
    pub failed: u64,
    /// Texts of successes.
    pub texts: u64,
    /// Successes a second.
    pub requests_per_second: f64,
    /// Their texts a second.
    pub texts_per_second: f64,
    /// Of successes: since due in an open loop, since sent in a closed one.
    pub latency_ms: Option<Quantiles>,
    /// Of successes, since sent.
    pub service_ms: Option<Quantiles>,
    /// Of failures, since due.
    pub failed_latency_ms: Option<Quantiles>,
    /// Whether p99 is of fewer than 1,000 successes.
    pub p99_of_few: bool,
    /// Requests that were not refused with 429, and the part of them that ended in 504.
    pub admitted: u64,
    /// See `admitted`.
    pub deadline_share: f64,
    /// Failures by status or by what broke.
    pub errors: BTreeMap<String, u64>,
    /// `retry-after` seen.
    pub retry_after: RetryAfter,
    /// Successes by `x-akidb-variant`.
    pub variants: BTreeMap<String, u64>,
    /// Connections made; more than `clients` means that the server closed some.
    pub connections: u64,
    /// Requests of an open loop that were due before a client was free (by over a millisecond).
    pub started_late: u64,
    /// Bytes of all answers' bodies.
    pub bytes_received: u64,
    /// Batches that the server ran meanwhile, of everybody's requests; null where its metrics could not be read.
    pub batches: Option<BatchSizes>,
    /// Memory and files of `--pid`.
    pub resources: Option<Resources>,
    /// Each class apart, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<Report>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each field is its own name")]
pub struct Quantiles {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

impl Quantiles {
    /// `None` of an empty histogram: there is no such number.
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |q| histogram.value_at_quantile(q) as f64 / 1_000.0;
        (!histogram.is_empty()).then(|| Self {
            mean: histogram.mean().round() / 1_000.0,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max() as f64 / 1_000.0,
        })
    }
}

impl Report {
    /// The report of an account of one or more plans to one server.
    pub fn new(plans: &[&Plan], account: &Account, warmup: &Account, beside: Beside) -> Self {
        let (succeeded, failed, seconds) = (account.latency.len(), account.failed_latency.len(), beside.elapsed.as_secs_f64());
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let status = |key: &str| account.errors.get(key).copied().unwrap_or(0);
        let admitted = succeeded + failed - status("429");
        let mode = match plans.iter().filter(|it| it.rate.is_some()).count() {
            0 => "closed",
            open if open == plans.len() => "open",
            _ => "mixed",
        };
        let words: Vec<_> = plans.iter().map(|it| it.mix.to_string()).collect();
        Self {
            class: same(plans, |it| it.name.clone()).flatten(),
            url: plans.first().map_or_else(String::new, |it| it.target.url.clone()),
            mode,
            rate: plans.iter().map(|it| it.rate).sum(),
            clients: plans.iter().map(|it| it.clients).sum(),
            words: same(&words, String::clone).unwrap_or_else(|| words.join("; ")),
            batch: same(plans, |it| it.batch),
            model: same(plans, |it| it.model.clone()).flatten(),
            app: same(plans, |it| it.app.clone()).flatten(),
            seed: plans.first().map_or(0, |it| it.seed),
            warmup_requests: warmup.latency.len() + warmup.failed_latency.len(),
            warmup_failed: warmup.failed_latency.len(),
            elapsed_seconds: seconds,
            interrupted: beside.interrupted,
            requests: succeeded + failed,
            succeeded,
            failed,
            texts: account.texts,
            requests_per_second: per_second(succeeded),
            texts_per_second: per_second(account.texts),
            latency_ms: Quantiles::of(&account.latency),
            service_ms: Quantiles::of(&account.service),
            failed_latency_ms: Quantiles::of(&account.failed_latency),
            p99_of_few: succeeded < ENOUGH_FOR_P99,
            admitted,
            deadline_share: if admitted > 0 { status("504") as f64 / admitted as f64 } else { 0.0 },
            errors: account.errors.clone(),
            retry_after: account.retry_after,
            variants: account.variants.clone(),
            connections: account.connections,
            started_late: account.started_late,
            bytes_received: account.bytes,
            batches: beside.batches,
            resources: beside.resources,
            classes: Vec::new(),
        }
    }
}

/// Writes any report as JSON.
pub fn write_json(report: &impl Serialize, file: &Path) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(file, json).with_context(|| format!("--json {}: the report cannot be written there", file.display()))
}

/// What all have in common.
fn same<T, U: PartialEq>(all: &[T], of: impl Fn(&T) -> U) -> Option<U> {
    let first = of(all.first()?);
    all.iter().all(|it| of(it) == first).then_some(first)
}
