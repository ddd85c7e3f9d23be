//! The two forms of an account, text and JSON.
//!
//! Enters: a plan and its account. Leaves: a [`Report`]. Never: a figure over some of the requests without saying which.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::account::{Account, RetryAfter};
use crate::plan::Plan;

/// What a run showed. `requests = succeeded + failed`, always.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where requests went.
    pub url: String,
    /// `open` or `closed`.
    pub mode: &'static str,
    /// Requests a second asked for in an open loop.
    pub rate: Option<f64>,
    /// Connections asked for.
    pub clients: usize,
    /// Words a text.
    pub words: String,
    /// Texts a request.
    pub batch: u32,
    /// Model asked for.
    pub model: Option<String>,
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
    /// The report of an account.
    pub fn new(plan: &Plan, account: &Account, warmup: &Account, elapsed: Duration, interrupted: bool) -> Self {
        let (succeeded, failed, seconds) = (account.latency.len(), account.failed_latency.len(), elapsed.as_secs_f64());
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        Self {
            url: plan.target.url.clone(),
            mode: if plan.rate.is_some() { "open" } else { "closed" },
            rate: plan.rate,
            clients: plan.clients,
            words: plan.mix.to_string(),
            batch: plan.batch,
            model: plan.model.clone(),
            seed: plan.seed,
            warmup_requests: warmup.latency.len() + warmup.failed_latency.len(),
            warmup_failed: warmup.failed_latency.len(),
            elapsed_seconds: seconds,
            interrupted,
            requests: succeeded + failed,
            succeeded,
            failed,
            texts: account.texts,
            requests_per_second: per_second(succeeded),
            texts_per_second: per_second(account.texts),
            latency_ms: Quantiles::of(&account.latency),
            service_ms: Quantiles::of(&account.service),
            failed_latency_ms: Quantiles::of(&account.failed_latency),
            errors: account.errors.clone(),
            retry_after: account.retry_after,
            variants: account.variants.clone(),
            connections: account.connections,
            started_late: account.started_late,
            bytes_received: account.bytes,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let mut line = |text: String| out.extend([text.as_str(), "\n"]);
        let loop_ = self.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("open loop at {rate} requests/s"));
        line(format!("{}: {loop_}, {} clients, {} words a text, {} texts a request", self.url, self.clients, self.words, self.batch));
        if self.warmup_requests > 0 {
            line(format!("warm-up    {} requests, {} failed (in no other figure)", self.warmup_requests, self.warmup_failed));
        }
        let early = if self.interrupted { ", interrupted" } else { "" };
        line(format!(
            "requests   {} in {:.1} s{early}: {} succeeded, {} failed",
            self.requests, self.elapsed_seconds, self.succeeded, self.failed
        ));
        line(format!("throughput {:.1} requests/s, {:.1} texts/s", self.requests_per_second, self.texts_per_second));
        let since = if self.rate.is_some() { "since due" } else { "since sent" };
        let rows = [
            ("latency", since, self.latency_ms),
            ("service", "since sent", self.service_ms.filter(|_| self.rate.is_some())),
            ("failures", since, self.failed_latency_ms),
        ];
        for (name, since, quantiles) in rows {
            let Some(q) = quantiles else { continue };
            line(format!(
                "{name:<10} p50 {:.2}  p90 {:.2}  p95 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms {since}",
                q.p50, q.p90, q.p95, q.p99, q.p99_9, q.max
            ));
        }
        for (what, counts) in [("errors", &self.errors), ("variants", &self.variants)].into_iter().filter(|(_, it)| !it.is_empty()) {
            let counts: Vec<_> = counts.iter().map(|(key, n)| format!("{key}: {n}")).collect();
            line(format!("{what:<10} {}", counts.join(", ")));
        }
        if self.retry_after.answers > 0 {
            line(format!("retry-after in {} answers, at most {} s", self.retry_after.answers, self.retry_after.max_seconds));
        }
        if self.started_late > 0 {
            line(format!(
                "{} requests were due before a client was free: the wait is in their latency; if the server is not the limit, add --clients",
                self.started_late
            ));
        }
        out
    }

    /// Writes it as JSON.
    pub fn write_json(&self, file: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, json).with_context(|| format!("--json {}: the report cannot be written there", file.display()))
    }
}
