//! Hourly sums. Enters: what a window adds, once. Leaves: nothing; `costs` reads. Never: a replaced sum, only additions.

use akidb_domain::window::LaneId;

use super::{Conn, Error};

/// Whose window it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) sidecar_id: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) app: &'a str,
    /// Zero of the boot's clock, the anchor of its spend.
    pub(crate) boot_ns: u64,
}

/// What a window adds, by table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entries {
    pub(crate) hour: i64,
    /// `None`: no price row covered any of it.
    pub(crate) spend: Option<i64>,
    pub(crate) device: DeviceEntry,
    pub(crate) usages: Vec<UsageEntry>,
    pub(crate) lanes: Vec<LaneEntry>,
    pub(crate) overheads: Vec<OverheadEntry>,
}

/// For `device_hours`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceEntry {
    pub(crate) elapsed_ns: i64,
    pub(crate) busy_ns: i64,
    pub(crate) overhead_ns: i64,
    pub(crate) unpriced_ns: i64,
    pub(crate) spend: i64,
    pub(crate) direct: i64,
    pub(crate) overhead: i64,
    pub(crate) idle: i64,
    pub(crate) first_ns: i64,
    pub(crate) last_ns: i64,
    /// `None`: nothing was measured.
    pub(crate) energy: Option<EnergyEntry>,
    pub(crate) measured_ns: i64,
}

/// What devices drew, mJ: direct, overhead and idle sum to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EnergyEntry {
    pub(crate) drawn: i64,
    pub(crate) direct: i64,
    pub(crate) overhead: i64,
    pub(crate) idle: i64,
}

/// For `usage_hours`: one consumer of one lane.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UsageEntry {
    pub(crate) lane: LaneId,
    pub(crate) app: String,
    pub(crate) tenant: String,
    pub(crate) requests: i64,
    pub(crate) unpriced_requests: i64,
    pub(crate) tokens: i64,
    pub(crate) engine_ns: i64,
    pub(crate) direct: i64,
    pub(crate) measured_requests: i64,
    pub(crate) energy: Option<i64>,
}

/// For `lane_hours`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LaneEntry {
    pub(crate) lane: LaneId,
    pub(crate) requests: i64,
    pub(crate) texts: i64,
    pub(crate) errors: i64,
    pub(crate) truncated: i64,
    pub(crate) batches: i64,
    pub(crate) tokens: i64,
    pub(crate) padded_tokens: i64,
    pub(crate) engine_ns: i64,
}

/// For `overhead_hours`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OverheadEntry {
    pub(crate) cause: String,
    pub(crate) model: String,
    pub(crate) variant: String,
    pub(crate) experiment: String,
    pub(crate) device_ns: i64,
    pub(crate) picodollars: i64,
    pub(crate) energy: Option<i64>,
}

/// The device a window ran on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device<'a> {
    pub(crate) uuid: &'a str,
    pub(crate) sku: &'a str,
    pub(crate) region: &'a str,
    pub(crate) share_ppm: u32,
}

/// Adds a window's entries to every table.
pub(crate) async fn add(conn: &mut Conn, owner: Owner<'_>, device: Device<'_>, entries: &Entries) -> Result<(), Error> {
    let hour = entries.hour;
    add_device(conn, hour, owner, device, &entries.device).await?;
    for usage in &entries.usages {
        add_usage(conn, hour, owner, device, usage).await?;
    }
    for lane in &entries.lanes {
        add_lane(conn, hour, device.sku, lane).await?;
    }
    for overhead in &entries.overheads {
        add_overhead(conn, hour, device.sku, overhead).await?;
    }
    Ok(())
}

async fn add_device(conn: &mut Conn, hour: i64, owner: Owner<'_>, device: Device<'_>, it: &DeviceEntry) -> Result<(), Error> {
    let (drawn, direct) = (it.energy.map(|it| it.drawn), it.energy.map(|it| it.direct));
    let (overhead, idle) = (it.energy.map(|it| it.overhead), it.energy.map(|it| it.idle));
    sqlx::query!(
        "INSERT INTO device_hours (hour, device_uuid, sku, region, sidecar_id, namespace, app, share_ppm, elapsed_ns, busy_ns, overhead_ns, unpriced_ns,
                                   spend_picodollars, direct_picodollars, overhead_picodollars, idle_picodollars, first_ns, last_ns,
                                   measured_ns, energy_millijoules, direct_millijoules, overhead_millijoules, idle_millijoules)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET elapsed_ns = elapsed_ns + excluded.elapsed_ns, busy_ns = busy_ns + excluded.busy_ns,
             overhead_ns = overhead_ns + excluded.overhead_ns, unpriced_ns = unpriced_ns + excluded.unpriced_ns,
             spend_picodollars = spend_picodollars + excluded.spend_picodollars, direct_picodollars = direct_picodollars + excluded.direct_picodollars,
             overhead_picodollars = overhead_picodollars + excluded.overhead_picodollars, idle_picodollars = idle_picodollars + excluded.idle_picodollars,
             first_ns = MIN(first_ns, excluded.first_ns), last_ns = MAX(last_ns, excluded.last_ns), measured_ns = measured_ns + excluded.measured_ns,
             energy_millijoules = COALESCE(energy_millijoules + excluded.energy_millijoules, energy_millijoules, excluded.energy_millijoules),
             direct_millijoules = COALESCE(direct_millijoules + excluded.direct_millijoules, direct_millijoules, excluded.direct_millijoules),
             overhead_millijoules = COALESCE(overhead_millijoules + excluded.overhead_millijoules, overhead_millijoules, excluded.overhead_millijoules),
             idle_millijoules = COALESCE(idle_millijoules + excluded.idle_millijoules, idle_millijoules, excluded.idle_millijoules)",
        hour,
        device.uuid,
        device.sku,
        device.region,
        owner.sidecar_id,
        owner.namespace,
        owner.app,
        device.share_ppm,
        it.elapsed_ns,
        it.busy_ns,
        it.overhead_ns,
        it.unpriced_ns,
        it.spend,
        it.direct,
        it.overhead,
        it.idle,
        it.first_ns,
        it.last_ns,
        it.measured_ns,
        drawn,
        direct,
        overhead,
        idle
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn add_usage(conn: &mut Conn, hour: i64, owner: Owner<'_>, device: Device<'_>, it: &UsageEntry) -> Result<(), Error> {
    let lane = &it.lane;
    let (precision, arm, provider) = (lane.precision.as_str(), lane.arm.as_str(), lane.provider.as_str());
    sqlx::query!(
        "INSERT INTO usage_hours (hour, model, version, variant, precision, arm, experiment, digest, provider, fallback, sku, region, namespace, sidecar_app,
                                  consumer_app, tenant, requests, unpriced_requests, tokens, engine_ns, direct_picodollars,
                                  measured_requests, direct_millijoules)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, unpriced_requests = unpriced_requests + excluded.unpriced_requests,
             tokens = tokens + excluded.tokens, engine_ns = engine_ns + excluded.engine_ns,
             direct_picodollars = direct_picodollars + excluded.direct_picodollars, measured_requests = measured_requests + excluded.measured_requests,
             direct_millijoules = COALESCE(direct_millijoules + excluded.direct_millijoules, direct_millijoules, excluded.direct_millijoules)",
        hour,
        lane.model,
        lane.version,
        lane.variant,
        precision,
        arm,
        lane.experiment,
        lane.digest,
        provider,
        lane.fallback,
        device.sku,
        device.region,
        owner.namespace,
        owner.app,
        it.app,
        it.tenant,
        it.requests,
        it.unpriced_requests,
        it.tokens,
        it.engine_ns,
        it.direct,
        it.measured_requests,
        it.energy
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn add_lane(conn: &mut Conn, hour: i64, sku: &str, it: &LaneEntry) -> Result<(), Error> {
    let (lane, arm) = (&it.lane, it.lane.arm.as_str());
    sqlx::query!(
        "INSERT INTO lane_hours (hour, model, version, variant, arm, experiment, sku, requests, texts, errors, truncated, batches, tokens, padded_tokens, engine_ns)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, texts = texts + excluded.texts, errors = errors + excluded.errors,
             truncated = truncated + excluded.truncated, batches = batches + excluded.batches, tokens = tokens + excluded.tokens,
             padded_tokens = padded_tokens + excluded.padded_tokens, engine_ns = engine_ns + excluded.engine_ns",
        hour,
        lane.model,
        lane.version,
        lane.variant,
        arm,
        lane.experiment,
        sku,
        it.requests,
        it.texts,
        it.errors,
        it.truncated,
        it.batches,
        it.tokens,
        it.padded_tokens,
        it.engine_ns
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn add_overhead(conn: &mut Conn, hour: i64, sku: &str, it: &OverheadEntry) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO overhead_hours (hour, cause, model, variant, experiment, sku, device_ns, picodollars, millijoules) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET device_ns = device_ns + excluded.device_ns, picodollars = picodollars + excluded.picodollars,
             millijoules = COALESCE(millijoules + excluded.millijoules, millijoules, excluded.millijoules)",
        hour,
        it.cause,
        it.model,
        it.variant,
        it.experiment,
        sku,
        it.device_ns,
        it.picodollars,
        it.energy
    )
    .execute(conn)
    .await?;
    Ok(())
}
