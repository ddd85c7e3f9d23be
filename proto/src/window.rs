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
        if it.lanes.len() > dom::MAX_LANES {
            return Err(WireError::invalid("window.lanes", format!("{} lanes; at most {} are allowed", it.lanes.len(), dom::MAX_LANES)));
        }
        Ok(Self {
            sequence: it.sequence,
            snapshot: it.snapshot.ok_or(WireError::Missing("window.snapshot"))?.into(),
            start_ns: it.start_ns,
            end_ns: it.end_ns,
            device: it.device.ok_or(WireError::Missing("window.device"))?.try_into()?,
            lanes: it.lanes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            lost_observations: it.lost_observations,
            last: it.last,
        })
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
        }
    }
}

impl TryFrom<v1::DeviceUsage> for dom::DeviceUsage {
    type Error = WireError;

    fn try_from(it: v1::DeviceUsage) -> Result<Self, WireError> {
        if it.share_ppm > 1_000_000 {
            return Err(WireError::invalid("device.share_ppm", format!("{} is more than the whole device", it.share_ppm)));
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
        }
    }
}

impl TryFrom<v1::LaneUsage> for dom::LaneUsage {
    type Error = WireError;

    fn try_from(it: v1::LaneUsage) -> Result<Self, WireError> {
        if it.consumers.len() > dom::MAX_CONSUMERS + 1 {
            return Err(WireError::invalid(
                "lane.consumers",
                format!("{} consumers; at most {} are allowed", it.consumers.len(), dom::MAX_CONSUMERS + 1),
            ));
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
