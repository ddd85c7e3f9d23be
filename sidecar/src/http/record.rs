//! One observation a request, whatever becomes of it.
//!
//! Enters: a lane, and how the request went. Leaves: an observation and metrics, exactly once. Never: a request forgotten because its
//! client left or its handler panicked; the record is written when it is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use akidb_domain::window::LaneId;

use super::error::ApiError;
use crate::metrics::Metrics;
use crate::router::Route;
use crate::telemetry::{Consumer, Observation, RequestDone, Telemetry};

/// A request that has a lane.
pub(super) struct Record {
    telemetry: Telemetry,
    metrics: Metrics,
    lane: Arc<LaneId>,
    unit: Option<u64>,
    consumer: Consumer,
    arrived: Instant,
    outcome: Option<Result<(), &'static str>>,
    /// Texts in it.
    pub(super) texts: u64,
    /// Tokens in it.
    pub(super) tokens: u64,
    /// Tokens of its longest text.
    pub(super) longest: u32,
    /// Texts cut.
    pub(super) truncated: u64,
    /// Time in the queue.
    pub(super) queue: Duration,
}

impl Record {
    /// Tells at once that a unit of an experiment was met: before anything can refuse it.
    pub(super) fn open(telemetry: Telemetry, metrics: Metrics, route: &Route, consumer: Consumer, arrived: Instant) -> Self {
        let (lane, unit) = (route.lane.clone(), route.unit);
        if !lane.experiment.is_empty() {
            telemetry.observe(Observation::Met { lane: lane.clone(), unit });
        }
        let (texts, tokens, longest, truncated) = (0, 0, 0, 0);
        Self { telemetry, metrics, lane, unit, consumer, arrived, outcome: None, texts, tokens, longest, truncated, queue: Duration::ZERO }
    }

    /// The request goes to another lane: the first one's engine is gone.
    pub(super) fn reroute(&mut self, route: &Route) {
        (self.lane, self.unit) = (route.lane.clone(), route.unit);
    }

    /// How it went; written now.
    pub(super) fn close<T>(mut self, result: &Result<T, ApiError>) {
        self.outcome = Some(result.as_ref().map(|_| ()).map_err(ApiError::code));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let unfinished = if std::thread::panicking() { "internal" } else { "cancelled" };
        let error = self.outcome.unwrap_or(Err(unfinished)).err();
        let latency = self.arrived.elapsed();
        let metrics = self.metrics.lane(&self.lane.model, &self.lane.variant);
        metrics.requests.inc();
        metrics.latency.observe(latency.as_secs_f64());
        if let Some(code) = error {
            metrics.error(code);
        }
        let (model, variant, texts, tokens) = (&self.lane.model, &self.lane.variant, self.texts, self.tokens);
        let ms = |it: Duration| it.as_secs_f64() * 1e3;
        tracing::debug!(
            model,
            variant,
            texts,
            tokens,
            latency_ms = ms(latency),
            queue_ms = ms(self.queue),
            error,
            "a request was answered"
        );
        self.telemetry.observe(Observation::Request(RequestDone {
            lane: self.lane.clone(),
            consumer: std::mem::take(&mut self.consumer),
            unit: self.unit,
            texts: self.texts,
            tokens: self.tokens,
            longest: self.longest,
            truncated: self.truncated,
            latency,
            queue: self.queue,
            error,
        }));
    }
}
