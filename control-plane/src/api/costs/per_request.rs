//! What a request costs over the whole fleet since the ledger began. Enters: nothing. Leaves: exact sums. Never: a float of money.

use akidb_domain::cost::per_request;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::ApiState;
use super::super::error::{ApiError, ErrorBody};
use super::{Totals, joules, priced};
use crate::clock::rfc3339_ns;
use crate::db::costs::{self, Group, Stretch, UsageSum};

/// The fleet's cost of a request since the ledger began.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CostPerRequest {
    /// Direct cost / priced requests, USD; null without one.
    cost: Option<String>,
    currency: &'static str,
    /// Direct + overhead.
    #[schema(value_type = i64)]
    total_picodollars: i128,
    #[schema(value_type = i64)]
    idle_picodollars: i128,
    requests: i64,
    unpriced_requests: i64,
    /// Direct energy of a measured request, J; null without one.
    energy_joules: Option<f64>,
    /// Direct + overhead; null where nothing was measured.
    #[schema(value_type = Option<i64>)]
    total_energy_millijoules: Option<i128>,
    #[schema(value_type = Option<i64>)]
    idle_energy_millijoules: Option<i128>,
    unmeasured_requests: i64,
    /// First and last priced moment; null without a price.
    window: Option<Window>,
    scope: &'static str,
    /// Total + idle, by SKU and region.
    spend: Vec<SpendView>,
    variants: Vec<VariantCost>,
}

/// A stretch of time.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Window {
    from: String,
    to: String,
}

/// What the devices of a SKU cost.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SpendView {
    sku: String,
    region: String,
    #[schema(value_type = i64)]
    picodollars: i128,
}

/// Cost of a variant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VariantCost {
    model: String,
    variant: String,
    cost: Option<String>,
    /// Direct.
    #[schema(value_type = i64)]
    total_picodollars: i128,
    /// Direct; null without a measured request.
    energy_joules: Option<f64>,
    requests: i64,
}

/// What a request costs, over the whole fleet.
#[utoipa::path(get, path = "/cost-per-request", tag = "money", responses((status = 200, body = CostPerRequest), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn cost_per_request(State(state): State<ApiState>) -> Result<Json<CostPerRequest>, ApiError> {
    let mut tx = state.db.begin_read().await?;
    let by = Group { model: true, variant: true, ..Group::default() };
    let variants = costs::usage(&mut tx, Stretch::ALL, by, 0, 10_000).await?;
    let whole = costs::usage(&mut tx, Stretch::ALL, Group::default(), 0, 1).await?.pop();
    let devices = costs::devices(&mut tx, Stretch::ALL).await?;
    let totals = Totals::of(&devices);
    let priced_from = devices.iter().filter_map(|it| it.priced).map(|it| it.0).min();
    let priced_to = devices.iter().filter_map(|it| it.priced).map(|it| it.1).max();
    let time = |ns: i64| rfc3339_ns(i128::from(ns));
    Ok(Json(CostPerRequest {
        cost: whole.as_ref().and_then(|it| per_request(it.direct(), priced(it))),
        currency: "USD",
        total_picodollars: totals.direct_picodollars + totals.overhead_picodollars,
        idle_picodollars: totals.idle_picodollars,
        requests: whole.as_ref().map_or(0, |it| it.requests),
        unpriced_requests: whole.as_ref().map_or(0, |it| it.unpriced_requests),
        energy_joules: whole.as_ref().and_then(joules),
        total_energy_millijoules: totals.direct_energy_millijoules.zip(totals.overhead_energy_millijoules).map(|it| it.0 + it.1),
        idle_energy_millijoules: totals.idle_energy_millijoules,
        unmeasured_requests: whole.as_ref().map_or(0, |it| it.requests - it.measured_requests),
        window: priced_from.zip(priced_to).map(|(from, to)| Window { from: time(from), to: time(to) }),
        scope: "fleet",
        spend: devices.into_iter().map(|it| SpendView { sku: it.sku, region: it.region, picodollars: it.spend }).collect(),
        variants: variants.into_iter().map(variant).collect(),
    }))
}

fn variant(it: UsageSum) -> VariantCost {
    VariantCost {
        cost: per_request(it.direct(), priced(&it)),
        total_picodollars: it.direct(),
        energy_joules: joules(&it),
        model: it.model,
        variant: it.variant,
        requests: it.requests,
    }
}
