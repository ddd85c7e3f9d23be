//! Sums over the hourly tables. Enters: a stretch of hours and what to group by. Leaves: exact sums. Never: a sum of money, of time or of
//! energy in one `i64` (it holds $9.2 M, or 292 device-years): the high and low halves are summed apart and joined here.

use super::{Conn, Error};

/// Hours `[from, to)`, and a SKU or all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch<'a> {
    pub(crate) from_hour: i64,
    pub(crate) to_hour: i64,
    pub(crate) sku: Option<&'a str>,
}

impl Stretch<'_> {
    /// All there is.
    pub(crate) const ALL: Stretch<'static> = Stretch { from_hour: i64::MIN, to_hour: i64::MAX, sku: None };
}

/// What to tell apart.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one flag a column, as the query takes them")]
pub(crate) struct Group {
    pub(crate) model: bool,
    pub(crate) version: bool,
    pub(crate) variant: bool,
    pub(crate) arm: bool,
    pub(crate) app: bool,
    pub(crate) namespace: bool,
    pub(crate) tenant: bool,
    pub(crate) day: bool,
    pub(crate) sku: bool,
}

/// One group's sums; columns not told apart are empty.
#[derive(Debug, Clone)]
pub(crate) struct UsageSum {
    pub(crate) model: String,
    pub(crate) version: String,
    pub(crate) variant: String,
    pub(crate) arm: String,
    pub(crate) app: String,
    pub(crate) namespace: String,
    pub(crate) tenant: String,
    pub(crate) day: i64,
    pub(crate) sku: String,
    pub(crate) requests: i64,
    pub(crate) unpriced_requests: i64,
    pub(crate) tokens: i64,
    engine_high: i64,
    engine_low: i64,
    high: i64,
    low: i64,
    pub(crate) measured_requests: i64,
    energy_high: Option<i64>,
    energy_low: Option<i64>,
}

impl UsageSum {
    /// Direct cost, picodollars.
    pub(crate) fn direct(&self) -> i128 {
        join(self.high, self.low)
    }

    /// Direct energy, mJ; `None`: nothing was measured.
    pub(crate) fn energy(&self) -> Option<i128> {
        join_some(self.energy_high, self.energy_low)
    }

    /// Engine time, ns.
    pub(crate) fn engine_ns(&self) -> i128 {
        join(self.engine_high, self.engine_low)
    }
}

/// Sums of devices.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeviceSum {
    pub(crate) sku: String,
    pub(crate) region: String,
    pub(crate) spend: i128,
    pub(crate) direct: i128,
    pub(crate) overhead: i128,
    pub(crate) idle: i128,
    pub(crate) elapsed_ns: i128,
    pub(crate) unpriced_ns: i128,
    /// First and last priced moment, when there is one.
    pub(crate) priced: Option<(i64, i64)>,
    pub(crate) measured_ns: i128,
    /// `None`: nothing was measured.
    pub(crate) energy: Option<EnergySum>,
}

/// What devices drew, mJ: direct, overhead and idle sum to it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EnergySum {
    pub(crate) drawn: i128,
    pub(crate) direct: i128,
    pub(crate) overhead: i128,
    pub(crate) idle: i128,
}

fn join(high: i64, low: i64) -> i128 {
    (i128::from(high) << 32) + i128::from(low)
}

fn join_some(high: Option<i64>, low: Option<i64>) -> Option<i128> {
    Some(join(high?, low?))
}

/// At most `limit` groups, after skipping `offset`.
pub(crate) async fn usage(conn: &mut Conn, stretch: Stretch<'_>, by: Group, offset: i64, limit: i64) -> Result<Vec<UsageSum>, Error> {
    sqlx::query_as!(
        UsageSum,
        r#"SELECT CASE WHEN ?1 THEN model ELSE '' END AS "model!: String",
                  CASE WHEN ?2 THEN version ELSE '' END AS "version!: String",
                  CASE WHEN ?3 THEN variant ELSE '' END AS "variant!: String",
                  CASE WHEN ?4 THEN arm ELSE '' END AS "arm!: String",
                  CASE WHEN ?5 THEN consumer_app ELSE '' END AS "app!: String",
                  CASE WHEN ?6 THEN namespace ELSE '' END AS "namespace!: String",
                  CASE WHEN ?7 THEN tenant ELSE '' END AS "tenant!: String",
                  CASE WHEN ?8 THEN hour / 24 ELSE 0 END AS "day!: i64",
                  CASE WHEN ?9 THEN sku ELSE '' END AS "sku!: String",
                  SUM(requests) AS "requests!: i64", SUM(unpriced_requests) AS "unpriced_requests!: i64", SUM(tokens) AS "tokens!: i64",
                  SUM(engine_ns >> 32) AS "engine_high!: i64", SUM(engine_ns & 4294967295) AS "engine_low!: i64",
                  SUM(direct_picodollars >> 32) AS "high!: i64", SUM(direct_picodollars & 4294967295) AS "low!: i64",
                  SUM(measured_requests) AS "measured_requests!: i64",
                  SUM(direct_millijoules >> 32) AS "energy_high?: i64", SUM(direct_millijoules & 4294967295) AS "energy_low?: i64"
           FROM usage_hours WHERE hour >= ?10 AND hour < ?11 AND (?12 IS NULL OR usage_hours.sku = ?12)
           GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9 LIMIT ?13 OFFSET ?14"#,
        by.model,
        by.version,
        by.variant,
        by.arm,
        by.app,
        by.namespace,
        by.tenant,
        by.day,
        by.sku,
        stretch.from_hour,
        stretch.to_hour,
        stretch.sku,
        limit,
        offset
    )
    .fetch_all(conn)
    .await
}

/// One row a SKU and region.
pub(crate) async fn devices(conn: &mut Conn, stretch: Stretch<'_>) -> Result<Vec<DeviceSum>, Error> {
    let rows = sqlx::query!(
        r#"SELECT sku AS "sku!", region AS "region!",
                  SUM(elapsed_ns >> 32) AS "elapsed_high!: i64", SUM(elapsed_ns & 4294967295) AS "elapsed_low!: i64",
                  SUM(unpriced_ns >> 32) AS "unpriced_high!: i64", SUM(unpriced_ns & 4294967295) AS "unpriced_low!: i64",
                  SUM(spend_picodollars >> 32) AS "spend_high!: i64", SUM(spend_picodollars & 4294967295) AS "spend_low!: i64",
                  SUM(direct_picodollars >> 32) AS "direct_high!: i64", SUM(direct_picodollars & 4294967295) AS "direct_low!: i64",
                  SUM(overhead_picodollars >> 32) AS "overhead_high!: i64", SUM(overhead_picodollars & 4294967295) AS "overhead_low!: i64",
                  SUM(idle_picodollars >> 32) AS "idle_high!: i64", SUM(idle_picodollars & 4294967295) AS "idle_low!: i64",
                  MIN(first_ns) AS "first!: i64", MAX(last_ns) AS "last!: i64",
                  SUM(measured_ns >> 32) AS "measured_high!: i64", SUM(measured_ns & 4294967295) AS "measured_low!: i64",
                  SUM(energy_millijoules >> 32) AS "drawn_high?: i64", SUM(energy_millijoules & 4294967295) AS "drawn_low?: i64",
                  SUM(direct_millijoules >> 32) AS "direct_mj_high?: i64", SUM(direct_millijoules & 4294967295) AS "direct_mj_low?: i64",
                  SUM(overhead_millijoules >> 32) AS "overhead_mj_high?: i64", SUM(overhead_millijoules & 4294967295) AS "overhead_mj_low?: i64",
                  SUM(idle_millijoules >> 32) AS "idle_mj_high?: i64", SUM(idle_millijoules & 4294967295) AS "idle_mj_low?: i64"
           FROM device_hours WHERE hour >= ?1 AND hour < ?2 AND (?3 IS NULL OR sku = ?3)
           GROUP BY sku, region ORDER BY sku, region LIMIT 10000"#,
        stretch.from_hour,
        stretch.to_hour,
        stretch.sku
    )
    .fetch_all(conn)
    .await?;
    let sum = rows.into_iter().map(|it| DeviceSum {
        measured_ns: join(it.measured_high, it.measured_low),
        energy: join_some(it.drawn_high, it.drawn_low).map(|drawn| EnergySum {
            drawn,
            direct: join_some(it.direct_mj_high, it.direct_mj_low).unwrap_or_default(),
            overhead: join_some(it.overhead_mj_high, it.overhead_mj_low).unwrap_or_default(),
            idle: join_some(it.idle_mj_high, it.idle_mj_low).unwrap_or_default(),
        }),
        sku: it.sku,
        region: it.region,
        spend: join(it.spend_high, it.spend_low),
        direct: join(it.direct_high, it.direct_low),
        overhead: join(it.overhead_high, it.overhead_low),
        idle: join(it.idle_high, it.idle_low),
        elapsed_ns: join(it.elapsed_high, it.elapsed_low),
        unpriced_ns: join(it.unpriced_high, it.unpriced_low),
        priced: (it.first <= it.last).then_some((it.first, it.last)),
    });
    Ok(sum.collect())
}
