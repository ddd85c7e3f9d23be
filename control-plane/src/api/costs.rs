//! What requests cost, and what they draw. Enters: a stretch and a grouping. Leaves: exact sums. Never: a float of money.

pub(crate) mod per_request;

use akidb_domain::cost::{self, dollars};
use akidb_domain::energy::joules_per_request;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::Params;
use super::page::Page;
use super::view;
use crate::clock::rfc3339_ms;
use crate::db::costs::{self, DeviceSum, EnergySum, Group, Stretch, UsageSum};
use crate::ledger::HOUR_NS;

const GROUPS: &str = "model, version, variant, arm, app, namespace, tenant, day, sku";

/// Which costs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CostQuery {
    /// Comma-separated, of `model, version, variant, arm, app, namespace, tenant, day, sku`; default `model,variant`.
    group_by: Option<String>,
    /// RFC 3339; the hour it lies in is the first.
    from: Option<String>,
    /// RFC 3339; the hour before it is the last.
    to: Option<String>,
    /// Only this SKU.
    sku: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
}

/// Costs by group.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "lists carry the plural of what they list")]
pub(crate) struct Costs {
    costs: Vec<CostRow>,
    totals: Totals,
    next: Option<String>,
}

/// One group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CostRow {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// `2026-01-31`.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sku: Option<String>,
    requests: i64,
    unpriced_requests: i64,
    tokens: i64,
    engine_seconds: f64,
    #[schema(value_type = i64)]
    direct_picodollars: i128,
    /// USD; null without a priced request.
    cost_per_request: Option<String>,
    /// Those of the requests in a time that nothing measured.
    unmeasured_requests: i64,
    /// Null where nothing was measured.
    #[schema(value_type = Option<i64>)]
    direct_energy_millijoules: Option<i128>,
    /// Direct; null without a measured request.
    energy_joules_per_request: Option<f64>,
}

/// What the devices cost and drew, all groups together.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Totals {
    /// = direct + overhead + idle.
    #[schema(value_type = i64)]
    spend_picodollars: i128,
    #[schema(value_type = i64)]
    direct_picodollars: i128,
    #[schema(value_type = i64)]
    overhead_picodollars: i128,
    #[schema(value_type = i64)]
    idle_picodollars: i128,
    spend: String,
    /// Of several devices of a sidecar, each one's.
    device_seconds: f64,
    unpriced_device_seconds: f64,
    /// = direct + overhead + idle; null where nothing was measured.
    #[schema(value_type = Option<i64>)]
    energy_millijoules: Option<i128>,
    #[schema(value_type = Option<i64>)]
    direct_energy_millijoules: Option<i128>,
    #[schema(value_type = Option<i64>)]
    overhead_energy_millijoules: Option<i128>,
    #[schema(value_type = Option<i64>)]
    idle_energy_millijoules: Option<i128>,
    unmeasured_device_seconds: f64,
}

impl Totals {
    fn of(devices: &[DeviceSum]) -> Self {
        let sum = |part: fn(&DeviceSum) -> i128| devices.iter().map(part).sum::<i128>();
        let seconds = |part: fn(&DeviceSum) -> i128| sum(part) as f64 / 1e9;
        let measured: Vec<EnergySum> = devices.iter().filter_map(|it| it.energy).collect();
        let energy = |part: fn(&EnergySum) -> i128| (!measured.is_empty()).then(|| measured.iter().map(part).sum());
        Self {
            spend_picodollars: sum(|it| it.spend),
            direct_picodollars: sum(|it| it.direct),
            overhead_picodollars: sum(|it| it.overhead),
            idle_picodollars: sum(|it| it.idle),
            spend: dollars(sum(|it| it.spend)),
            device_seconds: seconds(|it| it.elapsed_ns),
            unpriced_device_seconds: seconds(|it| it.unpriced_ns),
            energy_millijoules: energy(|it| it.drawn),
            direct_energy_millijoules: energy(|it| it.direct),
            overhead_energy_millijoules: energy(|it| it.overhead),
            idle_energy_millijoules: energy(|it| it.idle),
            unmeasured_device_seconds: seconds(|it| it.elapsed_ns - it.measured_ns),
        }
    }
}

/// Costs by any of model, version, variant, arm, app, namespace, tenant, day and SKU.
#[utoipa::path(get, path = "/costs", tag = "money", params(CostQuery), responses((status = 200, body = Costs), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn costs(State(state): State<ApiState>, Params(query): Params<CostQuery>) -> Result<Json<Costs>, ApiError> {
    let group = group(query.group_by.as_deref().unwrap_or("model,variant"))?;
    let page = Page::new(query.limit, query.after.clone());
    let hour = |field, text: &Option<String>| text.as_ref().map(|it| view::time(field, it)).transpose();
    let stretch = Stretch {
        from_hour: hour("from", &query.from)?.map_or(i64::MIN, |it| (it / HOUR_NS) as i64),
        to_hour: hour("to", &query.to)?.map_or(i64::MAX, |it| it.div_ceil(HOUR_NS) as i64),
        sku: query.sku.as_deref(),
    };
    let skip = page.after_number()?;
    let mut tx = state.db.begin_read().await?;
    let mut rows = costs::usage(&mut tx, stretch, group, skip, page.fetch()?).await?;
    let totals = Totals::of(&costs::devices(&mut tx, stretch).await?);
    let shown = page.cut(&mut rows, |_| String::new())?.map(|_| (skip + rows.len() as i64).to_string());
    Ok(Json(Costs { costs: rows.into_iter().map(|it| row(group, it)).collect(), totals, next: shown }))
}

fn group(text: &str) -> Result<Group, ApiError> {
    let mut group = Group::default();
    for word in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let flag = match word {
            "model" => &mut group.model,
            "version" => &mut group.version,
            "variant" => &mut group.variant,
            "arm" => &mut group.arm,
            "app" => &mut group.app,
            "namespace" => &mut group.namespace,
            "tenant" => &mut group.tenant,
            "day" => &mut group.day,
            "sku" => &mut group.sku,
            _ => return Err(ApiError::Invalid(format!("`group_by`: `{word}` is not one of {GROUPS}"))),
        };
        *flag = true;
    }
    Ok(group)
}

fn row(by: Group, it: UsageSum) -> CostRow {
    let (direct, engine_ns, energy) = (it.direct(), it.engine_ns(), it.energy());
    CostRow {
        cost_per_request: cost::per_request(direct, priced(&it)),
        unmeasured_requests: it.requests - it.measured_requests,
        direct_energy_millijoules: energy,
        energy_joules_per_request: joules(&it),
        direct_picodollars: direct,
        model: by.model.then_some(it.model),
        version: by.version.then_some(it.version),
        variant: by.variant.then_some(it.variant),
        arm: by.arm.then_some(it.arm),
        app: by.app.then_some(it.app),
        namespace: by.namespace.then_some(it.namespace),
        tenant: by.tenant.then_some(it.tenant),
        day: by.day.then(|| rfc3339_ms(it.day * 86_400_000).chars().take(10).collect()),
        sku: by.sku.then_some(it.sku),
        requests: it.requests,
        unpriced_requests: it.unpriced_requests,
        tokens: it.tokens,
        engine_seconds: engine_ns as f64 / 1e9,
    }
}

fn priced(it: &UsageSum) -> u64 {
    u64::try_from(it.requests - it.unpriced_requests).unwrap_or(0)
}

/// Direct energy of a measured request.
fn joules(it: &UsageSum) -> Option<f64> {
    joules_per_request(it.energy()?, u64::try_from(it.measured_requests).ok()?)
}
