//! Telemetry windows, wire to domain and back. Enters and leaves: whole values. Never: a window past the bounds in `domain::window`.

use akidb_domain::sketch::{END_INDEX, MIN_INDEX, Sketch};
use akidb_domain::window as dom;

use crate::error::{WireError, word};
use crate::v1;

/// Longest window accepted: an idle one takes 10 s, a suspended machine may stretch it.
const MAX_WINDOW_NS: u64 = 24 * 3_600 * 1_000_000_000;

impl From<dom::Window> for v1::Window {
    fn from(it: dom::Window) -> Self {
        Self {
            sequence: it.sequence,
            snapshot: Some(it.snapshot.into()),
            start_ns: it.start_ns,
            end_ns: it.end_ns,
            device: Some(it.device.into()),
            lanes: it.lanes.into_iter().map(Into::into).collect(),
            lost_observations: it.lost_observations,
            last: it.last,
            probes: it.probes.into_iter().map(Into::into).collect(),
            lease_gaps: it.lease_gaps.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Window> for dom::Window {
    type Error = WireError;

    fn try_from(it: v1::Window) -> Result<Self, WireError> {
        if it.sequence == 0 {
            return Err(WireError::invalid("window.sequence", "0; sequences start at 1"));
        }
        if it.end_ns < it.start_ns || it.end_ns - it.start_ns > MAX_WINDOW_NS || i64::try_from(it.end_ns).is_err() {
            return Err(WireError::invalid("window.end_ns", format!("{} for a window that starts at {}", it.end_ns, it.start_ns)));
        }
        at_most("window.lanes", it.lanes.len(), dom::MAX_LANES)?;
        at_most("window.probes", it.probes.len(), dom::MAX_PROBES)?;
        at_most("window.lease_gaps", it.lease_gaps.len(), dom::MAX_LEASE_GAPS)?;
        Ok(Self {
            sequence: it.sequence,
            snapshot: it.snapshot.ok_or(WireError::Missing("window.snapshot"))?.into(),
            start_ns: it.start_ns,
            end_ns: it.end_ns,
            device: it.device.ok_or(WireError::Missing("window.device"))?.try_into()?,
            lanes: it.lanes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            lost_observations: it.lost_observations,
            last: it.last,
            probes: it.probes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            lease_gaps: it.lease_gaps.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<dom::ProbeResult> for v1::ProbeResult {
    fn from(it: dom::ProbeResult) -> Self {
        Self {
            experiment: it.experiment,
            phase: it.phase,
            at_ns: it.at_ns,
            canary_ns: it.canary_ns,
            baseline_ns: it.baseline_ns,
            cosine: it.cosine,
            recall: it.recall,
            texts: it.texts,
            tokens: it.tokens,
            canary_first: it.canary_first,
        }
    }
}

impl TryFrom<v1::ProbeResult> for dom::ProbeResult {
    type Error = WireError;

    fn try_from(it: v1::ProbeResult) -> Result<Self, WireError> {
        if it.experiment.is_empty() {
            return Err(WireError::Missing("probe.experiment"));
        }
        // A share of these numbers is bet on: one that cannot be must not come in.
        if !(-1.0..=1.0).contains(&it.cosine) {
            return Err(WireError::invalid("probe.cosine", format!("{} is not in -1 to 1", it.cosine)));
        }
        if !(0.0..=1.0).contains(&it.recall) {
            return Err(WireError::invalid("probe.recall", format!("{} is not in 0 to 1", it.recall)));
        }
        if it.canary_ns == 0 || it.baseline_ns == 0 || it.texts == 0 {
            let (texts, canary, baseline) = (it.texts, it.canary_ns, it.baseline_ns);
            return Err(WireError::invalid("probe", format!("{texts} texts in {canary} and {baseline} ns; none may be 0")));
        }
        Ok(Self {
            experiment: it.experiment,
            phase: it.phase,
            at_ns: it.at_ns,
            canary_ns: it.canary_ns,
            baseline_ns: it.baseline_ns,
            cosine: it.cosine,
            recall: it.recall,
            texts: it.texts,
            tokens: it.tokens,
            canary_first: it.canary_first,
        })
    }
}

impl From<dom::LeaseGap> for v1::LeaseGap {
    fn from(it: dom::LeaseGap) -> Self {
        Self { experiment: it.experiment, phase: it.phase, ns: it.ns }
    }
}

impl TryFrom<v1::LeaseGap> for dom::LeaseGap {
    type Error = WireError;

    fn try_from(it: v1::LeaseGap) -> Result<Self, WireError> {
        if it.experiment.is_empty() {
            return Err(WireError::Missing("lease_gap.experiment"));
        }
        if it.ns > MAX_WINDOW_NS {
            return Err(WireError::invalid("lease_gap.ns", format!("{} is longer than any window", it.ns)));
        }
        Ok(Self { experiment: it.experiment, phase: it.phase, ns: it.ns })
    }
}

impl From<dom::DeviceUsage> for v1::DeviceUsage {
    fn from(it: dom::DeviceUsage) -> Self {
        let overhead = |it: dom::Overhead| v1::Overhead {
            cause: it.cause,
            model: it.model,
            variant: it.variant,
            experiment: it.experiment,
            device_ns: it.device_ns,
        };
        Self {
            uuid: it.uuid,
            sku: it.sku,
            region: it.region,
            share_ppm: it.share_ppm,
            busy_ns: it.busy_ns,
            overheads: it.overheads.into_iter().map(overhead).collect(),
            cumulative_elapsed_ns: it.cumulative_elapsed_ns,
            cumulative_busy_ns: it.cumulative_busy_ns,
            cumulative_spend_picodollars: it.cumulative_spend_picodollars,
            devices: Some(it.devices),
            energy_millijoules: it.energy_millijoules,
            cumulative_energy_millijoules: it.cumulative_energy_millijoules,
        }
    }
}

impl TryFrom<v1::DeviceUsage> for dom::DeviceUsage {
    type Error = WireError;

    fn try_from(it: v1::DeviceUsage) -> Result<Self, WireError> {
        if it.share_ppm > 1_000_000 {
            return Err(WireError::invalid("device.share_ppm", format!("{} is more than the whole device", it.share_ppm)));
        }
        // Sidecars of before said nothing; they billed one.
        let devices = it.devices.unwrap_or(1);
        if !(1..=dom::MAX_DEVICES).contains(&devices) {
            return Err(WireError::invalid("device.devices", format!("{devices} is not in 1 to {}", dom::MAX_DEVICES)));
        }
        let overhead = |it: v1::Overhead| dom::Overhead {
            cause: it.cause,
            model: it.model,
            variant: it.variant,
            experiment: it.experiment,
            device_ns: it.device_ns,
        };
        Ok(Self {
            uuid: it.uuid,
            sku: it.sku,
            region: it.region,
            share_ppm: it.share_ppm,
            busy_ns: it.busy_ns,
            overheads: it.overheads.into_iter().map(overhead).collect(),
            cumulative_elapsed_ns: it.cumulative_elapsed_ns,
            cumulative_busy_ns: it.cumulative_busy_ns,
            cumulative_spend_picodollars: it.cumulative_spend_picodollars,
            devices,
            energy_millijoules: it.energy_millijoules,
            cumulative_energy_millijoules: it.cumulative_energy_millijoules,
        })
    }
}

impl From<dom::LaneUsage> for v1::LaneUsage {
    fn from(it: dom::LaneUsage) -> Self {
        let consumer =
            |it: dom::ConsumerUsage| v1::ConsumerUsage { app: it.app, tenant: it.tenant, requests: it.requests, tokens: it.tokens };
        Self {
            lane: Some(it.lane.into()),
            requests: it.requests,
            texts: it.texts,
            tokens: it.tokens,
            padded_tokens: it.padded_tokens,
            truncated: it.truncated,
            errors: it.errors.into_iter().map(|e| v1::ErrorCount { code: e.code, count: e.count }).collect(),
            engine_ns: it.engine_ns,
            batches: it.batches,
            latency: Some((&it.latency).into()),
            queue: Some((&it.queue).into()),
            engine: Some((&it.engine).into()),
            consumers: it.consumers.into_iter().map(consumer).collect(),
            latency_by_length: it.latency_by_length.iter().map(Into::into).collect(),
            units: it.units,
            first_exceedances: it.first_exceedances,
            first_failures: it.first_failures,
            first_requests: it.first_requests,
            late_failures: it.late_failures,
        }
    }
}

impl TryFrom<v1::LaneUsage> for dom::LaneUsage {
    type Error = WireError;

    fn try_from(it: v1::LaneUsage) -> Result<Self, WireError> {
        at_most("lane.consumers", it.consumers.len(), dom::MAX_CONSUMERS + 1)?;
        if !it.latency_by_length.is_empty() && it.latency_by_length.len() != dom::LENGTH_BUCKETS {
            let (given, needed) = (it.latency_by_length.len(), dom::LENGTH_BUCKETS);
            return Err(WireError::invalid("lane.latency_by_length", format!("{given} sketches; {needed} or none are needed")));
        }
        let consumer =
            |it: v1::ConsumerUsage| dom::ConsumerUsage { app: it.app, tenant: it.tenant, requests: it.requests, tokens: it.tokens };
        let sketch = |it: Option<v1::Sketch>| it.unwrap_or_default().try_into();
        Ok(Self {
            lane: it.lane.ok_or(WireError::Missing("lane"))?.try_into()?,
            requests: it.requests,
            texts: it.texts,
            tokens: it.tokens,
            padded_tokens: it.padded_tokens,
            truncated: it.truncated,
            errors: it.errors.into_iter().map(|e| dom::ErrorCount { code: e.code, count: e.count }).collect(),
            engine_ns: it.engine_ns,
            batches: it.batches,
            latency: sketch(it.latency)?,
            queue: sketch(it.queue)?,
            engine: sketch(it.engine)?,
            consumers: it.consumers.into_iter().map(consumer).collect(),
            latency_by_length: it.latency_by_length.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            units: it.units,
            first_exceedances: it.first_exceedances,
            first_failures: it.first_failures,
            first_requests: it.first_requests,
            late_failures: it.late_failures,
        })
    }
}

impl From<dom::LaneId> for v1::Lane {
    fn from(it: dom::LaneId) -> Self {
        Self {
            model: it.model,
            version: it.version,
            variant: it.variant,
            precision: it.precision.to_string(),
            arm: it.arm.to_string(),
            experiment: it.experiment,
            phase: it.phase,
            digest: it.digest,
            provider: it.provider.to_string(),
            fallback: it.fallback,
        }
    }
}

impl TryFrom<v1::Lane> for dom::LaneId {
    type Error = WireError;

    fn try_from(it: v1::Lane) -> Result<Self, WireError> {
        Ok(Self {
            precision: word("lane.precision", &it.precision)?,
            arm: word("lane.arm", &it.arm)?,
            provider: word("lane.provider", &it.provider)?,
            model: it.model,
            version: it.version,
            variant: it.variant,
            experiment: it.experiment,
            phase: it.phase,
            digest: it.digest,
            fallback: it.fallback,
        })
    }
}

impl From<&Sketch> for v1::Sketch {
    fn from(it: &Sketch) -> Self {
        Self {
            index: it.buckets.keys().copied().collect(),
            count: it.buckets.values().copied().collect(),
            underflow: it.underflow,
            overflow: it.overflow,
            sum_ns: it.sum_ns,
        }
    }
}

impl TryFrom<v1::Sketch> for Sketch {
    type Error = WireError;

    fn try_from(it: v1::Sketch) -> Result<Self, WireError> {
        if it.index.len() != it.count.len() {
            return Err(WireError::invalid("sketch.count", format!("{} counts for {} buckets", it.count.len(), it.index.len())));
        }
        if let Some(bad) = it.index.iter().find(|i| !(MIN_INDEX..END_INDEX).contains(*i)) {
            return Err(WireError::invalid("sketch.index", format!("{bad} is not in {MIN_INDEX}..{END_INDEX}")));
        }
        let buckets = it.index.into_iter().zip(it.count).filter(|(_, n)| *n > 0).collect();
        Ok(Self { buckets, underflow: it.underflow, overflow: it.overflow, sum_ns: it.sum_ns })
    }
}

fn at_most(field: &'static str, given: usize, most: usize) -> Result<(), WireError> {
    if given > most {
        return Err(WireError::invalid(field, format!("there are {given}; at most {most} are allowed")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
