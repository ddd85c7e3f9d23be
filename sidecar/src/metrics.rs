//! Every metric, its one name and its labels. Labels are `model`, `model_version` (the variant) and closed sets of words.
//!
//! long: one file has every name.
//!
//! Enters: facts. Leaves: Prometheus text. Never: a label from a request.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use akidb_domain::snapshot::SnapshotVersion;
use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Codes of errors, as in the bodies; each has its series from the start.
pub const ERROR_CODES: &[&str] = &[
    "malformed",
    "unknown_model",
    "unknown_variant",
    "body_too_large",
    "unsupported_media_type",
    "invalid",
    "queue_full",
    "not_ready",
    "deadline",
    "engine_failed",
    "internal",
    "cancelled",
];

/// What becomes of a paired probe: reported; not made because requests waited or an engine was loaded; an engine failed; its vectors were not
/// compared because those before it still were; there are too few distinct texts to look among.
pub const PROBE_OUTCOMES: &[&str] = &["made", "shed", "failed", "dropped", "few"];

/// Why a batch was cut.
pub const FLUSH_REASONS: &[&str] = &["idle", "size", "tokens", "window", "unbatched"];

const LANE: &[&str] = &["model", "model_version"];
const MEMORY: &[&str] = &["memory"];

/// 0.5 ms to 30 s in steps of 15 %, so that a change of 10 % moves a percentile by most of a bucket: 80 buckets.
const LATENCY_STEP: f64 = 1.15;

/// All of them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    lanes: RwLock<HashMap<String, HashMap<String, Arc<LaneMetrics>>>>,
    latency: HistogramVec,
    batch_size: HistogramVec,
    batch_wait: HistogramVec,
    requests: IntCounterVec,
    errors: IntCounterVec,
    flushes: IntCounterVec,
    tokens: IntCounterVec,
    padded_tokens: IntCounterVec,
    engine_seconds: CounterVec,
    engine_energy: CounterVec,
    cuda_graphs: IntCounterVec,
    queue_depth: IntGaugeVec,
    overhead_seconds: CounterVec,
    loads: IntCounterVec,
    swaps: IntCounterVec,
    fallbacks: IntCounterVec,
    evictions: IntCounterVec,
    engine_memory: IntGaugeVec,
    engine_memory_limit: IntGaugeVec,
    cache_bytes: IntGauge,
    spool_windows: IntGauge,
    lost_observations: IntCounter,
    uncounted_units: IntCounter,
    probes: IntCounterVec,
    lost_windows: IntCounter,
    snapshot_epoch: IntGauge,
    snapshot_number: IntGauge,
    ready: Gauge,
    gpus: Gpus,
}

/// What is measured of each GPU; a series appears when its GPU gives a reading.
#[derive(Debug)]
struct Gpus {
    duty_cycle: GaugeVec,
    memory_used: GaugeVec,
    memory: GaugeVec,
    power: GaugeVec,
    energy: GaugeVec,
    sm_clock: GaugeVec,
    memory_clock: GaugeVec,
    throttle: GaugeVec,
}

/// One GPU at one moment; what it does not measure is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuReading {
    /// Part of the last sample in which a kernel ran, 0 to 100.
    pub duty_cycle: Option<u32>,
    /// Memory in use.
    pub memory_used_bytes: Option<u64>,
    /// Memory in all.
    pub memory_bytes: Option<u64>,
    /// Power drawn.
    pub power_milliwatts: Option<u32>,
    /// Energy drawn since the driver was loaded.
    pub energy_millijoules: Option<u64>,
    /// Clock of the multiprocessors.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory.
    pub memory_clock_mhz: Option<u32>,
    /// Why clocks are lower than they could be: NVML's bits.
    pub throttle_reasons: Option<u64>,
}

/// The series of one variant, found once.
#[derive(Debug, Clone)]
pub struct LaneMetrics {
    /// Seconds from the request read to the answer ready.
    pub latency: Histogram,
    /// Texts in a batch.
    pub batch_size: Histogram,
    /// Seconds a request waited for its batch.
    pub batch_wait: Histogram,
    /// Requests, answered well or not.
    pub requests: IntCounter,
    /// Tokens in batches, padding excluded.
    pub tokens: IntCounter,
    /// Tokens computed.
    pub padded_tokens: IntCounter,
    /// Seconds of batches.
    pub engine_seconds: prometheus::Counter,
    /// Shapes that its engines' contexts recorded.
    pub cuda_graphs: IntCounter,
    /// Texts that wait.
    pub queue_depth: IntGauge,
    errors: Arc<[(&'static str, IntCounter)]>,
    flushes: Arc<[(&'static str, IntCounter)]>,
}

impl LaneMetrics {
    /// Counts an error by its code.
    pub fn error(&self, code: &str) {
        count(&self.errors, code);
    }

    /// Counts a batch by why it was cut.
    pub fn flush(&self, reason: &str) {
        count(&self.flushes, reason);
    }
}

fn count(series: &[(&'static str, IntCounter)], word: &str) {
    if let Some((_, counter)) = series.iter().find(|(it, _)| *it == word) {
        counter.inc();
    }
}

/// A metric that cannot be declared: two of one name.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be declared: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

impl Metrics {
    /// Declares all of them in a registry of their own.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let declare = Declare { registry: &registry };
        let inner = Inner {
            latency: declare.histogram(
                "akidb_embed_latency_seconds",
                "Seconds from an embedding request read to its answer ready",
                latency_buckets(),
            )?,
            batch_size: declare.histogram("akidb_batch_size", "Texts in a batch", BATCH_SIZES.to_vec())?,
            batch_wait: declare.histogram("akidb_batch_wait_time_seconds", "Seconds a request waited for its batch", latency_buckets())?,
            requests: declare.counter("akidb_embed_requests_total", "Embedding requests, answered well or not", LANE)?,
            errors: declare.counter(
                "akidb_embed_errors_total",
                "Embedding requests answered with an error",
                &["model", "model_version", "code"],
            )?,
            flushes: declare.counter("akidb_batch_flush_total", "Batches by why they were cut", &["model", "model_version", "reason"])?,
            tokens: declare.counter("akidb_batch_tokens_total", "Tokens in batches, padding excluded", LANE)?,
            padded_tokens: declare.counter("akidb_batch_padded_tokens_total", "Tokens computed, padding included", LANE)?,
            engine_seconds: declare.floating("akidb_engine_seconds_total", "Seconds that engines ran batches of requests", LANE)?,
            engine_energy: declare.floating(
                "akidb_engine_energy_joules_total",
                "Joules that devices drew while engines ran batches of requests",
                LANE,
            )?,
            cuda_graphs: declare.counter(
                "akidb_engine_cuda_graphs_total",
                "Shapes that contexts of engines recorded as CUDA graphs",
                LANE,
            )?,
            queue_depth: declare.gauges("akidb_queue_depth", "Texts that wait for a batch", LANE)?,
            overhead_seconds: declare.floating(
                "akidb_engine_overhead_seconds_total",
                "Seconds that engines ran for no request",
                &["cause"],
            )?,
            loads: declare.counter("akidb_model_loads_total", "Engines loaded, or not", &["model", "model_version", "outcome"])?,
            swaps: declare.counter("akidb_model_swaps_total", "Engines replaced while serving", LANE)?,
            fallbacks: declare.counter("akidb_provider_fallbacks_total", "Loads that fell back to another provider or artifact", LANE)?,
            evictions: declare.counter("akidb_model_evictions_total", "Engines that left memory for others", LANE)?,
            engine_memory: declare.gauges("akidb_engine_memory_bytes", "Bytes that loaded engines take, by kind of memory", MEMORY)?,
            engine_memory_limit: declare.gauges("akidb_engine_memory_limit_bytes", "Bytes that they may take", MEMORY)?,
            cache_bytes: declare.gauge("akidb_artifact_cache_bytes", "Bytes of artifacts on disk")?,
            spool_windows: declare.gauge("akidb_telemetry_spool_windows", "Telemetry windows not yet acknowledged")?,
            lost_observations: declare.plain("akidb_telemetry_lost_observations_total", "Observations dropped before they were counted")?,
            uncounted_units: declare
                .plain("akidb_experiment_uncounted_units_total", "Requests of sticky units that an experiment had no room left to count")?,
            probes: declare.counter("akidb_probes_total", "Paired probes of experiments by what became of them", &["outcome"])?,
            lost_windows: declare.plain("akidb_telemetry_lost_windows_total", "Telemetry windows dropped from a full spool")?,
            snapshot_epoch: declare.gauge("akidb_snapshot_epoch", "Epoch of the snapshot in force")?,
            snapshot_number: declare.gauge("akidb_snapshot_version", "Number of the snapshot in force, within its epoch")?,
            ready: declare.float("akidb_ready", "1 when the default model is warm")?,
            gpus: Gpus {
                duty_cycle: declare.floats("nvidia_gpu_duty_cycle", "Percent of the last sample in which a kernel ran")?,
                memory_used: declare.floats("akidb_gpu_memory_used_bytes", "Bytes of GPU memory in use, by all processes")?,
                memory: declare.floats("akidb_gpu_memory_bytes", "Bytes of GPU memory")?,
                power: declare.floats("akidb_gpu_power_watts", "Watts that the GPU draws")?,
                energy: declare.floats("akidb_gpu_energy_joules", "Joules that the GPU drew since its driver was loaded")?,
                sm_clock: declare.floats("akidb_gpu_sm_clock_hertz", "Clock of the multiprocessors")?,
                memory_clock: declare.floats("akidb_gpu_memory_clock_hertz", "Clock of the memory")?,
                throttle: declare.floats("akidb_gpu_throttle_reasons", "Why clocks are lower than they could be, as NVML's bits")?,
            },
            lanes: RwLock::default(),
            registry,
        };
        // Errors of requests that never got as far as a variant.
        for code in ERROR_CODES {
            inner.errors.with_label_values(&["", "", code]);
        }
        for outcome in PROBE_OUTCOMES {
            inner.probes.with_label_values(&[outcome]);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The series of a variant; made, at 0, when a variant becomes known.
    pub fn lane(&self, model: &str, variant: &str) -> Arc<LaneMetrics> {
        let lanes = self.inner.lanes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(model).and_then(|it| it.get(variant)) {
            return lane.clone();
        }
        drop(lanes);
        let lane = Arc::new(self.inner.make_lane(model, variant));
        let mut lanes = self.inner.lanes.write().unwrap_or_else(PoisonError::into_inner);
        lanes.entry(model.to_owned()).or_default().insert(variant.to_owned(), lane.clone());
        lane
    }

    /// Counts an error of a request that never got as far as a variant.
    pub fn error_without_variant(&self, code: &str) {
        if ERROR_CODES.contains(&code) {
            self.inner.errors.with_label_values(&["", "", code]).inc();
        }
    }

    /// Adds device time that served no request.
    pub fn overhead(&self, cause: &'static str, took: Duration) {
        self.inner.overhead_seconds.with_label_values(&[cause]).inc_by(took.as_secs_f64());
    }

    /// Adds energy that a variant's batches took; its series appears when something measured it.
    pub fn add_energy(&self, model: &str, variant: &str, joules: f64) {
        self.inner.engine_energy.with_label_values(&[model, variant]).inc_by(joules);
    }

    /// Counts a load.
    pub fn load_finished(&self, model: &str, variant: &str, ok: bool) {
        self.inner.loads.with_label_values(&[model, variant, if ok { "ok" } else { "failed" }]).inc();
    }

    /// Counts an engine replaced while serving.
    pub fn swapped(&self, model: &str, variant: &str) {
        self.inner.swaps.with_label_values(&[model, variant]).inc();
    }

    /// Counts an engine that left memory for another.
    pub fn evicted(&self, model: &str, variant: &str) {
        self.inner.evictions.with_label_values(&[model, variant]).inc();
    }

    /// Bytes that loaded engines take, and may take, of a kind of memory: `host`, or `gpu` for each GPU that serves.
    pub fn set_engine_memory(&self, memory: &str, bytes: u64, limit: u64) {
        self.inner.engine_memory.with_label_values(&[memory]).set(bytes as i64);
        self.inner.engine_memory_limit.with_label_values(&[memory]).set(limit as i64);
    }

    /// Counts a fallback.
    pub fn provider_fallback(&self, model: &str, variant: &str) {
        self.inner.fallbacks.with_label_values(&[model, variant]).inc();
    }

    /// Bytes of artifacts on disk.
    pub fn set_cache_bytes(&self, bytes: u64) {
        self.inner.cache_bytes.set(bytes as i64);
    }

    /// Windows that wait for an acknowledgement.
    pub fn set_spool_windows(&self, windows: u64) {
        self.inner.spool_windows.set(windows as i64);
    }

    /// Adds observations that were dropped.
    pub fn add_lost_observations(&self, count: u64) {
        self.inner.lost_observations.inc_by(count);
    }

    /// Adds requests of units that were not counted.
    pub fn add_uncounted_units(&self, count: u64) {
        self.inner.uncounted_units.inc_by(count);
    }

    /// Counts a probe by what became of it, one of [`PROBE_OUTCOMES`].
    pub fn probe(&self, outcome: &'static str) {
        self.inner.probes.with_label_values(&[outcome]).inc();
    }

    /// Adds windows that were dropped.
    pub fn add_lost_windows(&self, count: u64) {
        self.inner.lost_windows.inc_by(count);
    }

    /// The snapshot in force.
    pub fn set_snapshot(&self, version: SnapshotVersion) {
        self.inner.snapshot_epoch.set(version.epoch as i64);
        self.inner.snapshot_number.set(version.n as i64);
    }

    /// Whether the default model is warm.
    pub fn set_ready(&self, ready: bool) {
        self.inner.ready.set(f64::from(u8::from(ready)));
    }

    /// What a GPU measured.
    pub fn set_gpu(&self, index: u32, reading: &GpuReading) {
        let gpus = &self.inner.gpus;
        let index = index.to_string();
        let set = |series: &GaugeVec, value: Option<f64>| {
            if let Some(value) = value {
                series.with_label_values(&[&index]).set(value);
            }
        };
        set(&gpus.duty_cycle, reading.duty_cycle.map(f64::from));
        set(&gpus.memory_used, reading.memory_used_bytes.map(|it| it as f64));
        set(&gpus.memory, reading.memory_bytes.map(|it| it as f64));
        set(&gpus.power, reading.power_milliwatts.map(|it| f64::from(it) / 1e3));
        set(&gpus.energy, reading.energy_millijoules.map(|it| it as f64 / 1e3));
        set(&gpus.sm_clock, reading.sm_clock_mhz.map(|it| f64::from(it) * 1e6));
        set(&gpus.memory_clock, reading.memory_clock_mhz.map(|it| f64::from(it) * 1e6));
        set(&gpus.throttle, reading.throttle_reasons.map(|it| it as f64));
    }

    /// The registry, for metrics of other rooms' own devices.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Prometheus text.
    pub fn render(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.inner.registry.gather())?)
    }
}

impl Inner {
    fn make_lane(&self, model: &str, variant: &str) -> LaneMetrics {
        let lane: &[&str] = &[model, variant];
        let words = |series: &IntCounterVec, words: &[&'static str]| -> Arc<[(&'static str, IntCounter)]> {
            words.iter().map(|it| (*it, series.with_label_values(&[model, variant, it]))).collect()
        };
        for outcome in ["ok", "failed"] {
            self.loads.with_label_values(&[model, variant, outcome]);
        }
        self.swaps.with_label_values(lane);
        self.evictions.with_label_values(lane);
        self.fallbacks.with_label_values(lane);
        LaneMetrics {
            latency: self.latency.with_label_values(lane),
            batch_size: self.batch_size.with_label_values(lane),
            batch_wait: self.batch_wait.with_label_values(lane),
            requests: self.requests.with_label_values(lane),
            tokens: self.tokens.with_label_values(lane),
            padded_tokens: self.padded_tokens.with_label_values(lane),
            engine_seconds: self.engine_seconds.with_label_values(lane),
            cuda_graphs: self.cuda_graphs.with_label_values(lane),
            queue_depth: self.queue_depth.with_label_values(lane),
            errors: words(&self.errors, ERROR_CODES),
            flushes: words(&self.flushes, FLUSH_REASONS),
        }
    }
}

const BATCH_SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0, 512.0];

fn latency_buckets() -> Vec<f64> {
    let mut edges = vec![0.000_5];
    while let Some(last) = edges.last().copied().filter(|it| *it < 30.0) {
        // Three digits are plenty, and a label that people can read.
        let next = last * LATENCY_STEP;
        let digits = 10f64.powi(2 - next.log10().floor() as i32);
        edges.push((next * digits).round() / digits);
    }
    edges
}

/// Makes a metric and registers it.
struct Declare<'a> {
    registry: &'a Registry,
}

impl Declare<'_> {
    fn add<T: prometheus::core::Collector + Clone + 'static>(&self, metric: T) -> Result<T, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<HistogramVec, prometheus::Error> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), LANE)?)
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn floating(&self, name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, prometheus::Error> {
        self.add(CounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// By GPU.
    fn floats(&self, name: &str, help: &str) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(Opts::new(name, help), &["gpu"])?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn float(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.add(Gauge::new(name, help)?)
    }

    fn plain(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_has_its_series_before_its_first_request() {
        let metrics = Metrics::new().unwrap();
        metrics.lane("m", "fp32");
        let text = metrics.render().unwrap();
        for expected in [
            r#"akidb_embed_latency_seconds_bucket{model="m",model_version="fp32",le="0.0005"} 0"#,
            r#"akidb_batch_size_bucket{model="m",model_version="fp32",le="64"} 0"#,
            r#"akidb_batch_wait_time_seconds_bucket{model="m",model_version="fp32",le="+Inf"} 0"#,
            r#"akidb_embed_requests_total{model="m",model_version="fp32"} 0"#,
            r#"akidb_embed_errors_total{code="queue_full",model="m",model_version="fp32"} 0"#,
            r#"akidb_batch_flush_total{model="m",model_version="fp32",reason="idle"} 0"#,
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn tensorrt_provider_test_a_gpu_shows_what_it_measures_and_nothing_else() {
        let metrics = Metrics::new().unwrap();
        metrics.set_gpu(1, &GpuReading { duty_cycle: Some(87), power_milliwatts: Some(431_500), ..GpuReading::default() });
        let text = metrics.render().unwrap();
        assert!(text.contains("nvidia_gpu_duty_cycle{gpu=\"1\"} 87") && text.contains("akidb_gpu_power_watts{gpu=\"1\"} 431.5"), "{text}");
        assert!(!text.contains("akidb_gpu_memory_used_bytes{"), "{text}");
        assert!(!text.contains("akidb_engine_energy_joules_total{"), "{text}");
        metrics.add_energy("m", "fp8", 1.5);
        metrics.add_energy("m", "fp8", 0.25);
        let text = metrics.render().unwrap();
        assert!(text.contains("akidb_engine_energy_joules_total{model=\"m\",model_version=\"fp8\"} 1.75"), "{text}");
    }

    #[test]
    fn latency_buckets_are_fine_and_bounded() {
        let edges = latency_buckets();
        assert!(edges.len() <= 81 && *edges.last().unwrap() >= 30.0, "{edges:?}");
        assert!(edges.windows(2).all(|it| it[1] / it[0] < 1.16 && it[1] / it[0] > 1.14), "{edges:?}");
    }
}
