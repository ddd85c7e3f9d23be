//! Bounds on a window beyond its format. Enters: a domain window. Leaves: it, or the field that is out of bounds. Never: a sum that overflows.

use akidb_domain::window::{DeviceUsage, LaneUsage, Window};

/// Most of anything counted in a window, and most engine time (11 days): keep hourly sums far from the end of an `i64`.
const MOST: u64 = 1_000_000_000_000;
const MOST_NS: u64 = 1_000_000_000_000_000;
/// Most energy of a window, and of a boot: a day of eight devices at ten times what the largest draws, and ten years of that.
const MOST_MILLIJOULES: u64 = 10_000_000_000_000;
const MOST_OF_A_BOOT: u64 = 4_000 * MOST_MILLIJOULES;
/// Longest text of a name in a window.
const MOST_BYTES: usize = 256;
/// Most causes of overhead in a window.
const MOST_OVERHEADS: usize = 256;
/// 2001-09-09, and 2100-01-01: a clock outside is not skewed, it is not set.
const FIRST_NS: u64 = 1_000_000_000_000_000_000;
const LAST_NS: u64 = 4_102_444_800_000_000_000;

/// Checks what the ledger relies on. `Err`: the field and what is wrong with it.
///
/// `oldest_ns`: marks of sidecars not seen since then are gone, so nobody knows whether an older window was counted.
pub(crate) fn window(it: &Window, boot_ns: u64, oldest_ns: u64) -> Result<(), String> {
    time("start_ns", it.start_ns)?;
    time("end_ns", it.end_ns)?;
    if it.end_ns < oldest_ns {
        return Err(format!("field `window.end_ns`: {} is past `sidecar_retention_days`; it may have been counted already", it.end_ns));
    }
    if it.start_ns < boot_ns {
        return Err(format!("field `window.start_ns`: {} lies before the boot at {boot_ns}", it.start_ns));
    }
    count("lost_observations", it.lost_observations)?;
    let device = &it.device;
    for (field, text) in [("uuid", &device.uuid), ("sku", &device.sku), ("region", &device.region)] {
        text_within(&format!("device.{field}"), text)?;
        if text.is_empty() {
            return Err(format!("field `device.{field}` is empty"));
        }
    }
    if device.overheads.len() > MOST_OVERHEADS {
        return Err(format!("field `device.overheads`: {} entries; at most {MOST_OVERHEADS} are allowed", device.overheads.len()));
    }
    let overhead_ns = device.overheads.iter().fold(0, |sum: u64, it| sum.saturating_add(it.device_ns));
    if overhead_ns > MOST_NS {
        return Err(format!("field `overhead.device_ns`: {overhead_ns} in all is more than {MOST_NS}"));
    }
    for overhead in &device.overheads {
        for text in [&overhead.cause, &overhead.model, &overhead.variant, &overhead.experiment] {
            text_within("device.overheads", text)?;
        }
    }
    energy(device)?;
    it.lanes.iter().try_for_each(lane)?;
    totals(&it.lanes)
}

fn energy(it: &DeviceUsage) -> Result<(), String> {
    let (drawn, total) = (it.energy_millijoules.unwrap_or(0), it.cumulative_energy_millijoules);
    if drawn > MOST_MILLIJOULES || total > MOST_OF_A_BOOT {
        return Err(format!(
            "field `device.energy_millijoules`: {drawn}, of {total} since the boot, is more than {MOST_MILLIJOULES} of {MOST_OF_A_BOOT}"
        ));
    }
    if drawn > total {
        return Err(format!("field `device.cumulative_energy_millijoules`: {total} is less than the window's own {drawn}"));
    }
    Ok(())
}

/// What all lanes of a window add up to: a sum past its bound would spoil an hour that other sidecars share.
fn totals(lanes: &[LaneUsage]) -> Result<(), String> {
    let sum = |part: fn(&LaneUsage) -> u64| lanes.iter().map(part).fold(0, u64::saturating_add);
    let sums = [
        ("lane.requests", sum(|it| it.requests), MOST),
        ("lane.texts", sum(|it| it.texts), MOST),
        ("lane.tokens", sum(|it| it.tokens), MOST),
        ("lane.padded_tokens", sum(|it| it.padded_tokens), MOST),
        ("lane.truncated", sum(|it| it.truncated), MOST),
        ("lane.batches", sum(|it| it.batches), MOST),
        ("lane.errors", sum(|it| it.errors.iter().fold(0, |sum, it| sum.saturating_add(it.count))), MOST),
        ("lane.engine_ns", sum(|it| it.engine_ns), MOST_NS),
    ];
    match sums.into_iter().find(|(_, sum, most)| sum > most) {
        Some((field, sum, most)) => Err(format!("field `{field}`: {sum} in all lanes is more than {most}")),
        None => Ok(()),
    }
}

/// Checks the moment a boot's clock starts at.
pub(crate) fn boot_ns(ns: u64) -> Result<(), String> {
    time("boot_unix_ns", ns)
}

fn lane(it: &LaneUsage) -> Result<(), String> {
    for text in [&it.lane.model, &it.lane.version, &it.lane.variant, &it.lane.experiment, &it.lane.digest] {
        text_within("lane", text)?;
    }
    if it.errors.len() > 64 {
        return Err(format!("field `lane.errors`: {} codes; at most 64 are allowed", it.errors.len()));
    }
    let (mut requests, mut tokens) = (0, 0);
    for consumer in &it.consumers {
        text_within("consumer.app", &consumer.app)?;
        text_within("consumer.tenant", &consumer.tenant)?;
        count("consumer.requests", consumer.requests)?;
        count("consumer.tokens", consumer.tokens)?;
        requests += consumer.requests;
        tokens += consumer.tokens;
    }
    if requests > it.requests || tokens > it.tokens {
        return Err(format!(
            "field `lane.consumers`: {requests} requests and {tokens} tokens of a lane with {} and {}",
            it.requests, it.tokens
        ));
    }
    Ok(())
}

fn count(field: &str, value: u64) -> Result<(), String> {
    if value <= MOST { Ok(()) } else { Err(format!("field `{field}`: {value} is more than {MOST}")) }
}

fn time(field: &str, ns: u64) -> Result<(), String> {
    if (FIRST_NS..=LAST_NS).contains(&ns) {
        Ok(())
    } else {
        Err(format!("field `{field}`: {ns} is not a Unix time in ns between 2001 and 2100"))
    }
}

fn text_within(field: &str, text: &str) -> Result<(), String> {
    if text.len() <= MOST_BYTES { Ok(()) } else { Err(format!("field `{field}`: {} bytes; at most {MOST_BYTES} are allowed", text.len())) }
}
