//! The price book. Enters: new prices. Leaves: rows. Never: a changed or removed figure.

use akidb_domain::cost::{Price, dollars, parse_dollars};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::{Body, Params, Who};
use super::page::Page;
use super::view;
use crate::clock::rfc3339_ns;
use crate::db::prices::{self, PriceRow};
use crate::ledger::book;

/// Dearest hour: keeps every sum of a day inside an `i64`.
const MAX_PICODOLLARS_PER_HOUR: i64 = 100_000_000_000_000_000;

/// A new price.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPrice {
    sku: String,
    region: String,
    /// USD, e.g. `2.50`; at most 100000.
    price_per_hour: String,
    /// RFC 3339; default now.
    valid_from: Option<String>,
    /// Where the figure comes from.
    source: String,
}

/// A price row.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PriceView {
    sku: String,
    region: String,
    currency: String,
    price_per_hour: String,
    picodollars_per_hour: i64,
    valid_from: String,
    valid_to: Option<String>,
    source: String,
}

/// A page of prices.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Prices {
    prices: Vec<PriceView>,
    next: Option<String>,
}

/// A new price, and how many windows that had none it priced.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Created {
    #[serde(flatten)]
    price: PriceView,
    windows_priced: u64,
}

impl From<PriceRow> for PriceView {
    fn from(it: PriceRow) -> Self {
        Price::from(it).into()
    }
}

impl From<Price> for PriceView {
    fn from(it: Price) -> Self {
        Self {
            price_per_hour: dollars(i128::from(it.picodollars_per_hour)),
            picodollars_per_hour: it.picodollars_per_hour,
            valid_from: rfc3339_ns(i128::from(it.valid_from_ns)),
            valid_to: it.valid_to_ns.map(|it| rfc3339_ns(i128::from(it))),
            sku: it.sku,
            region: it.region,
            currency: it.currency,
            source: it.source,
        }
    }
}

/// Lists price rows.
#[utoipa::path(get, path = "/prices", tag = "money", params(Page), responses((status = 200, body = Prices), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(State(state): State<ApiState>, Params(page): Params<Page>) -> Result<Json<Prices>, ApiError> {
    let mut rows = prices::list(&mut *state.db.reader().await?, page.after_number()?, page.fetch()?).await?;
    let next = page.cut(&mut rows, |it| it.id.to_string())?;
    Ok(Json(Prices { prices: rows.into_iter().map(Into::into).collect(), next }))
}

/// Adds a price; it closes the row before it.
#[utoipa::path(post, path = "/prices", tag = "money", request_body = NewPrice, responses((status = 201, body = Created), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    who: Who,
    Body(new): Body<NewPrice>,
) -> Result<(StatusCode, Json<Created>), ApiError> {
    let price = price(new, state.clock.now_ns())?;
    let mut change = state.change(who.actor()).await?;
    let newest = prices::of(change.conn(), &price.sku, &price.region).await?.pop();
    if let Some(newest) = newest.filter(|it| it.valid_from_ns >= price.valid_from_ns) {
        let from = rfc3339_ns(i128::from(newest.valid_from_ns));
        return Err(ApiError::Conflict(format!(
            "`{}` in `{}` has a price from {from} on: a new one must start after it",
            price.sku, price.region
        )));
    }
    let at = change.at;
    prices::close(change.conn(), &price.sku, &price.region, price.valid_from_ns).await?;
    prices::insert(change.conn(), &price, at).await?;
    let windows_priced = book::price_late(change.conn(), &price.sku, &price.region, price.valid_from_ns).await?;
    change.audit("price.create", &format!("prices/{}/{}", price.sku, price.region), serde_json::json!(price)).await?;
    change.visible();
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(Created { price: price.into(), windows_priced })))
}

fn price(new: NewPrice, now_ns: u64) -> Result<Price, ApiError> {
    for (field, text) in [("sku", &new.sku), ("region", &new.region), ("source", &new.source)] {
        if text.is_empty() || text.len() > 256 {
            return Err(ApiError::Invalid(format!("`{field}` must have 1-256 bytes")));
        }
    }
    let picodollars_per_hour = parse_dollars(&new.price_per_hour).map_err(|e| ApiError::Invalid(e.to_string()))?;
    if picodollars_per_hour > MAX_PICODOLLARS_PER_HOUR {
        return Err(ApiError::Invalid(format!("`price_per_hour` {} is more than 100000", new.price_per_hour)));
    }
    let valid_from_ns = new.valid_from.map_or(Ok(now_ns), |it| view::time("valid_from", &it))?;
    Ok(Price {
        sku: new.sku,
        region: new.region,
        currency: "USD".to_owned(),
        picodollars_per_hour,
        valid_from_ns,
        valid_to_ns: None,
        source: new.source,
    })
}
