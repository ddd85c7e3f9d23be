//! The figures that a verdict is about.
//!
//! Enters: two looks at metrics, and answers of the sidecar's API. Leaves: [`Facts`]. Never: a zero for a figure that is missing.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::{Unreachable, get_ok};
use crate::plan::Target;
use crate::quantile::histogram_quantile;
use crate::scrape::{Labels, Scrape};

/// A figure, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// `None`: no data.
    pub value: Option<f64>,
    /// What a reader should know about it; may be empty.
    pub note: String,
}

/// Of the GPUs.
#[derive(Debug, Clone, PartialEq)]
pub enum Gpu {
    /// Nothing says that there is one.
    None,
    /// Mean duty cycle in percent; no data where a model runs on a GPU that nobody measures.
    Used(Reading),
}

/// Everything a verdict is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Seconds.
    pub p95: Reading,
    /// Seconds.
    pub p99: Reading,
    /// Requests a second.
    pub qps: Reading,
    /// Percent.
    pub gpu: Gpu,
    /// USD a request.
    pub cost: Reading,
    /// Listed models.
    pub models: Reading,
}

/// What metrics say.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) p95: Reading,
    pub(super) p99: Reading,
    pub(super) qps: Reading,
    /// Mean of `nvidia_gpu_duty_cycle`.
    pub(super) duty_cycle: Option<f64>,
}

/// What the list of models says.
#[derive(Debug)]
pub(super) struct Listed {
    count: Reading,
    on_gpu: bool,
}

impl Facts {
    pub(super) fn new(metrics: Metrics, cost: Reading, models: Listed) -> Self {
        let gpu = match (metrics.duty_cycle, models.on_gpu) {
            (Some(percent), _) => Gpu::Used(Reading::of(percent)),
            (None, true) => Gpu::Used(Reading::none("a model runs on a GPU, but nvidia_gpu_duty_cycle is not measured")),
            (None, false) => Gpu::None,
        };
        Self { p95: metrics.p95, p99: metrics.p99, qps: metrics.qps, gpu, cost, models: models.count }
    }
}

impl Reading {
    pub(super) fn of(value: f64) -> Self {
        Self { value: Some(value).filter(|it| it.is_finite()), note: String::new() }
    }

    pub(super) fn none(why: &str) -> Self {
        Self { value: None, note: why.to_owned() }
    }

    /// The highest of several series: an objective holds when it holds for each. NaN series, which observed nothing, say nothing.
    pub(super) fn highest(series: impl IntoIterator<Item = (Labels, f64)>) -> Self {
        let mut known: Vec<_> = series.into_iter().filter(|it| !it.1.is_nan()).collect();
        known.sort_by(|a, b| a.1.total_cmp(&b.1));
        let count = known.len();
        let Some((labels, value)) = known.pop() else { return Self::none("no request was observed") };
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let note = if count > 1 { format!("highest of {count} series: {}", labels.join(", ")) } else { String::new() };
        Self { value: Some(value), note }
    }
}

impl Metrics {
    /// As the seed's queries, over the time between two looks.
    pub(super) fn between(before: &Scrape, after: &Scrape, elapsed: Duration) -> Self {
        let latency = after.histograms(before, "akidb_embed_latency_seconds");
        let quantile = |q| Reading::highest(latency.iter().map(|(labels, it)| (labels.clone(), histogram_quantile(q, it))));
        let requests = after.increases(before, "akidb_embed_requests_total");
        let qps = match requests.len() {
            0 => Reading::none("there is no akidb_embed_requests_total"),
            _ => Reading::of(requests.iter().map(|it| it.1).sum::<f64>() / elapsed.as_secs_f64()),
        };
        let gpus: Vec<f64> = after.values("nvidia_gpu_duty_cycle").collect();
        let duty_cycle = (!gpus.is_empty()).then(|| gpus.iter().sum::<f64>() / gpus.len() as f64);
        Self { p95: quantile(0.95), p99: quantile(0.99), qps, duty_cycle }
    }
}

/// Reads a JSON answer.
pub(super) async fn json<T: DeserializeOwned>(target: &Target) -> Result<T, Unreachable> {
    let body = get_ok(target).await?;
    serde_json::from_slice(&body).map_err(|it| Unreachable::new(target, &format!("its answer is not as expected: {it}")))
}

/// `GET /api/v1/cost-per-request`.
pub(super) async fn cost(target: &Target) -> Result<Reading, Unreachable> {
    #[derive(Deserialize)]
    struct Answer {
        cost: Option<String>,
    }
    let Some(cost) = json::<Answer>(target).await?.cost else { return Ok(Reading::none("no price, or no priced request yet")) };
    match cost.parse::<f64>() {
        Ok(value) => Ok(Reading::of(value)),
        Err(_) => Err(Unreachable::new(target, &format!("its cost `{cost}` is not a number"))),
    }
}

/// `GET /api/v1/models`.
pub(super) async fn models(target: &Target) -> Result<Listed, Unreachable> {
    #[derive(Deserialize)]
    struct Answer {
        models: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(default)]
        variants: Vec<Variant>,
    }
    #[derive(Deserialize)]
    struct Variant {
        state: Option<String>,
        provider: Option<String>,
    }
    let models = json::<Answer>(target).await?.models;
    let ready = |it: &Variant| it.state.as_deref() == Some("ready");
    let loaded = models.iter().filter(|it| it.variants.iter().any(ready)).count();
    let on_gpu = |it: &Variant| ready(it) && matches!(it.provider.as_deref(), Some("cuda" | "tensorrt"));
    let count = Reading { value: Some(models.len() as f64), note: format!("{loaded} with a ready variant") };
    Ok(Listed { count, on_gpu: models.iter().flat_map(|it| &it.variants).any(on_gpu) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(fp32: (u32, u32), int8: (u32, u32)) -> Scrape {
        let lane = |variant: &str, (low, all): (u32, u32)| {
            format!(
                "akidb_embed_latency_seconds_bucket{{model_version=\"{variant}\",le=\"0.01\"}} {low}\n\
                 akidb_embed_latency_seconds_bucket{{model_version=\"{variant}\",le=\"0.02\"}} {all}\n\
                 akidb_embed_latency_seconds_bucket{{model_version=\"{variant}\",le=\"+Inf\"}} {all}\n\
                 akidb_embed_requests_total{{model_version=\"{variant}\"}} {all}\n"
            )
        };
        Scrape::parse(&(lane("fp32", fp32) + &lane("int8", int8))).unwrap()
    }

    #[test]
    fn metrics_are_of_the_window_alone() {
        let metrics = Metrics::between(&scrape((100, 100), (7, 9)), &scrape((190, 200), (7, 9)), Duration::from_secs(10));
        // Rank 95 of 100: 5 of the 10 between 10 and 20 ms. The other series observed nothing in the window.
        assert!(metrics.p95.value.is_some_and(|it| (it - 0.015).abs() < 1e-12), "{metrics:?}");
        assert_eq!((metrics.p95.note.as_str(), metrics.qps.value, metrics.duty_cycle), ("", Some(10.0), None));
    }

    #[test]
    fn without_requests_there_is_no_latency() {
        let metrics = Metrics::between(&scrape((1, 1), (0, 0)), &scrape((1, 1), (0, 0)), Duration::from_secs(10));
        assert_eq!((metrics.p95.value, metrics.p99.value, metrics.qps.value), (None, None, Some(0.0)));
    }

    #[test]
    fn the_slowest_series_is_the_one_that_counts() {
        let metrics = Metrics::between(&scrape((0, 0), (0, 0)), &scrape((100, 100), (0, 100)), Duration::from_secs(10));
        assert!(metrics.p95.value.is_some_and(|it| (it - 0.0195).abs() < 1e-12), "{metrics:?}");
        assert_eq!(metrics.p95.note, "highest of 2 series: model_version=int8");
    }
}
