//! What became of the requests of a run.
//!
//! Enters: outcomes with their times. Leaves: counts and histograms that add up: successes and failures are all the requests. Never: a rate or
//! a quantile; those are the report's.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::{Failure, Outcome};

/// Variants listed by name; answers of further ones are counted under `other`.
const MAX_VARIANTS: usize = 32;

/// What one client, or all together, saw.
#[derive(Debug)]
pub struct Account {
    /// Of successes, in microseconds since they were due.
    pub(crate) latency: Histogram<u64>,
    /// Of successes, in microseconds since they were sent.
    pub(crate) service: Histogram<u64>,
    /// Of everything else, since due.
    pub(crate) failed_latency: Histogram<u64>,
    pub(crate) texts: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) variants: BTreeMap<String, u64>,
    pub(crate) retry_after: RetryAfter,
    /// Requests that no client was free to take when they were due (by over a millisecond).
    pub started_late: u64,
    /// Connections made, those of the warm-up included.
    pub connections: u64,
}

/// What the server said about coming back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RetryAfter {
    /// Answers with a `retry-after` header.
    pub answers: u64,
    /// The longest one, seconds.
    pub max_seconds: u64,
    /// 429 and 503 without it: a client cannot know when to come back.
    pub missing: u64,
}

impl Account {
    /// Nothing seen yet.
    #[expect(clippy::new_without_default, reason = "an empty account is made where a run starts, never by default")]
    pub fn new() -> Self {
        Self {
            latency: histogram(),
            service: histogram(),
            failed_latency: histogram(),
            texts: 0,
            bytes: 0,
            errors: BTreeMap::new(),
            variants: BTreeMap::new(),
            retry_after: RetryAfter::default(),
            started_late: 0,
            connections: 0,
        }
    }

    /// Adds one request of `texts` texts: `latency` since it was due, `service` since it was sent.
    pub fn add(&mut self, outcome: &Outcome, texts: u32, latency: Duration, service: Duration) {
        match outcome {
            Outcome::Answered(answer) => {
                self.bytes += answer.bytes;
                match answer.retry_after_seconds {
                    Some(max_seconds) => self.retry_after.merge(RetryAfter { answers: 1, max_seconds, missing: 0 }),
                    None => self.retry_after.missing += u64::from(matches!(answer.status, 429 | 503)),
                }
                if !(200..300).contains(&answer.status) {
                    return self.fail(answer.status.to_string(), latency);
                }
                self.latency.saturating_record(micros(latency));
                self.service.saturating_record(micros(service));
                self.texts += u64::from(texts);
                if let Some(variant) = &answer.variant {
                    let known = self.variants.len() < MAX_VARIANTS || self.variants.contains_key(variant);
                    *self.variants.entry(if known { variant.clone() } else { "other".to_owned() }).or_default() += 1;
                }
            }
            Outcome::Failed(failure) => self.fail(failure.as_str().to_owned(), latency),
        }
    }

    /// Adds a request that was due but never sent.
    pub fn add_unsent(&mut self, latency: Duration) {
        self.fail(Failure::Unsent.as_str().to_owned(), latency);
    }

    /// Adds another account; sums and histograms lose nothing.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in
            [(&mut self.latency, &other.latency), (&mut self.service, &other.service), (&mut self.failed_latency, &other.failed_latency)]
        {
            *own += others;
        }
        for (own, others) in [(&mut self.errors, &other.errors), (&mut self.variants, &other.variants)] {
            for (key, n) in others {
                *own.entry(key.clone()).or_default() += n;
            }
        }
        self.texts += other.texts;
        self.bytes += other.bytes;
        self.started_late += other.started_late;
        self.connections += other.connections;
        self.retry_after.merge(other.retry_after);
    }

    fn fail(&mut self, key: String, latency: Duration) {
        *self.errors.entry(key).or_default() += 1;
        self.failed_latency.saturating_record(micros(latency));
    }
}

impl RetryAfter {
    fn merge(&mut self, other: Self) {
        self.answers += other.answers;
        self.missing += other.missing;
        self.max_seconds = self.max_seconds.max(other.max_seconds);
    }
}

/// 1 us to 1 h at three significant digits.
fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "constant bounds that the library accepts; every test makes one")]
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds")
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}
