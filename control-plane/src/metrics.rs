//! Every metric and its name. Enters: counts. Leaves: Prometheus text. Never: a label without a bound.

use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// Counters of this process; cheap to share through an `Arc`.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// By status class.
    pub(crate) rest_requests: IntCounterVec,
    pub(crate) auth_failures: IntCounter,
    pub(crate) windows_counted: IntCounter,
    pub(crate) windows_duplicate: IntCounter,
    pub(crate) windows_rejected: IntCounter,
    pub(crate) windows_lost: IntCounter,
    pub(crate) unclean_ends: IntCounter,
    pub(crate) snapshots_sent: IntCounter,
    pub(crate) nacks: IntCounter,
    pub(crate) imports: IntCounterVec,
    pub(crate) looks: IntCounter,
    pub(crate) leases_sent: IntCounter,
    pub(crate) experiments_live: IntGauge,
    pub(crate) sidecars_connected: IntGauge,
    pub(crate) snapshot_n: IntGauge,
    pub(crate) snapshot_epoch: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("akidb_control_plane".to_owned()), None)?;
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let labelled = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counter = register(&registry, IntCounterVec::new(Opts::new(name, help), &[label])?)?;
            for value in values {
                counter.with_label_values(&[value]);
            }
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Self {
            rest_requests: labelled(
                "rest_requests_total",
                "REST requests answered, by status class",
                "status",
                &["2xx", "3xx", "4xx", "5xx"],
            )?,
            auth_failures: counter("auth_failures_total", "Requests with a missing or bad token")?,
            windows_counted: counter("windows_counted_total", "Telemetry windows added to the ledger")?,
            windows_duplicate: counter("windows_duplicate_total", "Telemetry windows received again and ignored")?,
            windows_rejected: counter("windows_rejected_total", "Telemetry windows refused as invalid")?,
            windows_lost: counter("windows_lost_total", "Telemetry windows that sidecars gave up")?,
            unclean_ends: counter("unclean_ends_total", "Boots of sidecars that ended without their last window")?,
            snapshots_sent: counter("snapshots_sent_total", "Snapshots sent to sidecars")?,
            nacks: counter("nacks_total", "Snapshots that sidecars could not use")?,
            imports: labelled("imports_total", "Imports finished, by result", "result", &["succeeded", "failed"])?,
            looks: counter("looks_total", "Looks that the rollout decider took")?,
            leases_sent: counter("leases_sent_total", "Renewals of experiments' leases sent to sidecars")?,
            experiments_live: gauge("experiments_live", "Experiments that are running or paused")?,
            sidecars_connected: gauge("sidecars_connected", "Sidecars with an open Watch stream")?,
            snapshot_n: gauge("snapshot_n", "Number of the snapshot published last")?,
            snapshot_epoch: gauge("snapshot_epoch", "Epoch of the snapshot published last")?,
            registry,
        })
    }

    /// Prometheus text of everything.
    pub(crate) fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn register<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
