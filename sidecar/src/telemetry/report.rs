//! The body of `GET /api/v1/cost-per-request`. Enters: figures of the meter. Leaves: JSON. Never: a float of money.

use serde::Serialize;
use utoipa::ToSchema;

/// What this sidecar has cost since its start.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CostReport {
    /// Direct cost of a priced request, decimal USD with 12 digits; null without a price or a request.
    pub cost: Option<String>,
    /// Always `USD`.
    pub currency: &'static str,
    /// Direct (padding included) and overhead.
    pub total_picodollars: i64,
    /// The rest of the device's spend.
    pub idle_picodollars: i64,
    /// Requests answered with success.
    pub requests: u64,
    /// Those of them in a time that no price covers.
    pub unpriced_requests: u64,
    /// Direct energy of a measured request, J; null where nothing was measured, or without a request.
    pub energy_joules: Option<f64>,
    /// Direct energy (padding included) and that of overhead, mJ; null where nothing was measured.
    pub total_energy_millijoules: Option<i64>,
    /// The rest of what the devices drew.
    pub idle_energy_millijoules: Option<i64>,
    /// Those of the requests in a time that nothing measured.
    pub unmeasured_requests: u64,
    /// The time that the figures cover.
    pub window: CostWindow,
    /// Always `sidecar`.
    pub scope: &'static str,
    /// Spend by price, in order; the sum is `total_picodollars + idle_picodollars`.
    pub spend: Vec<SpendLine>,
    /// By model and variant.
    pub variants: Vec<VariantCost>,
}

/// A stretch of time, RFC 3339 with nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CostWindow {
    /// Where a price first took effect; the sidecar's start without one.
    pub from: String,
    /// The last telemetry cut.
    pub to: String,
}

/// What a stretch under one price was charged: `floor(price_per_hour x share x devices x (to - from))`, in picodollars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SpendLine {
    /// Price of one whole device, decimal USD.
    pub price_per_hour: String,
    /// Part of each device that this sidecar occupies, in parts in a million.
    pub share_ppm: u32,
    /// How many devices.
    pub devices: u32,
    /// Start, RFC 3339 with nanoseconds.
    pub from: String,
    /// End.
    pub to: String,
    /// The charge.
    pub picodollars: i64,
}

/// What one variant cost.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct VariantCost {
    /// Model.
    pub model: String,
    /// Variant.
    pub variant: String,
    /// Direct cost of a priced request; null without a price or a request.
    pub cost: Option<String>,
    /// Direct and the overhead that it caused.
    pub total_picodollars: i64,
    /// Direct energy of a measured request, J; null without one.
    pub energy_joules: Option<f64>,
    /// Requests answered with success.
    pub requests: u64,
}
