//! Prices. Enters: a device kind and an amount. Leaves: rows of the price book. Never: an edit of a row; a new one closes it.

use serde::Deserialize;
use serde_json::json;

use crate::Session;
use crate::args::Prices;
use crate::failure::Failure;
use crate::table::Rows;
use crate::units;

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the API")]
struct Price {
    sku: String,
    region: String,
    price_per_hour: String,
    valid_from: String,
    #[serde(default)]
    valid_to: Option<String>,
    #[serde(default)]
    source: String,
}

pub(super) fn run(session: &Session, command: Prices) -> Result<(), Failure> {
    match command {
        Prices::List(page) => super::list(session, "prices", &page, |prices: Vec<Price>| {
            let mut rows = Rows::new(&["SKU", "REGION", ">PER HOUR", "FROM", "TO", "SOURCE"]);
            for it in prices {
                let to = it.valid_to.unwrap_or_else(|| "open".to_owned());
                rows.add([it.sku, it.region, amount(&it.price_per_hour), it.valid_from, to, it.source]);
            }
            rows.text("no prices: `akidb prices set SKU --per-hour USD` sets one; without any, costs are null")
        }),
        Prices::Set { sku, per_hour, region, source, from } => {
            let mut body = json!({"sku": sku, "region": region, "price_per_hour": per_hour, "source": source});
            if let Some(from) = from {
                body["valid_from"] = from.into();
            }
            session.show(&session.client.post("prices", &body)?, |it: Price| {
                format!("{} in {} costs {} an hour from {}", it.sku, it.region, amount(&it.price_per_hour), it.valid_from)
            })
        }
    }
}

fn amount(text: &str) -> String {
    units::picodollars(text).map_or_else(|| text.to_owned(), units::dollars)
}
