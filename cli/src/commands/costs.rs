//! Costs. Enters: what to sum by, and when. Leaves: tables with the cost of a request and of a million. Never: a sum of its own.

use serde::Deserialize;
use serde_json::Value;

use crate::Session;
use crate::args::{Costs, CostsCommand};
use crate::failure::Failure;
use crate::table::{Rows, or_dash};
use crate::units;

#[derive(Deserialize)]
struct Report {
    costs: Vec<Row>,
    totals: Totals,
    next: Value,
}

#[derive(Deserialize)]
struct Row {
    requests: u64,
    unpriced_requests: u64,
    tokens: u64,
    engine_seconds: f64,
    direct_picodollars: i128,
    cost_per_request: Option<String>,
    // Not of a control plane of before.
    unmeasured_requests: Option<u64>,
    energy_joules_per_request: Option<f64>,
    model: Option<String>,
    version: Option<String>,
    variant: Option<String>,
    arm: Option<String>,
    app: Option<String>,
    namespace: Option<String>,
    tenant: Option<String>,
    day: Option<String>,
    sku: Option<String>,
}

impl Row {
    /// What a word of `--group-by` is here. Named fields: a flattened map would lose integers past a `u64`.
    fn part(&self, key: &str) -> Option<String> {
        let part = match key {
            "model" => &self.model,
            "version" => &self.version,
            "variant" => &self.variant,
            "arm" => &self.arm,
            "app" => &self.app,
            "namespace" => &self.namespace,
            "tenant" => &self.tenant,
            "day" => &self.day,
            "sku" => &self.sku,
            _ => &None,
        };
        part.clone()
    }
}

#[derive(Deserialize)]
struct Totals {
    spend_picodollars: i128,
    direct_picodollars: i128,
    overhead_picodollars: i128,
    idle_picodollars: i128,
    energy_millijoules: Option<i128>,
    direct_energy_millijoules: Option<i128>,
    overhead_energy_millijoules: Option<i128>,
    idle_energy_millijoules: Option<i128>,
}

#[derive(Deserialize)]
struct PerRequest {
    cost: Option<String>,
    total_picodollars: i128,
    idle_picodollars: i128,
    requests: u64,
    unpriced_requests: u64,
    energy_joules: Option<f64>,
    total_energy_millijoules: Option<i128>,
    idle_energy_millijoules: Option<i128>,
    unmeasured_requests: Option<u64>,
    window: Option<Window>,
    variants: Vec<VariantCost>,
}

#[derive(Deserialize)]
struct Window {
    from: String,
    to: String,
}

#[derive(Deserialize)]
struct VariantCost {
    model: String,
    variant: String,
    cost: Option<String>,
    total_picodollars: i128,
    energy_joules: Option<f64>,
    requests: u64,
}

pub(super) fn run(session: &Session, costs: &Costs) -> Result<(), Failure> {
    if let Some(CostsCommand::PerRequest) = costs.command {
        return session.show(&session.client.get("cost-per-request", &[])?, |it| per_request(&it));
    }
    let group = costs.group_by.join(",");
    let stretch = [("group_by", Some(group)), ("from", costs.from.clone()), ("to", costs.to.clone()), ("sku", costs.sku.clone())];
    let page = [("limit", Some(costs.page.limit.to_string())), ("after", costs.page.after.clone())];
    let answer = session.client.get("costs", &[&stretch[..], &page].concat())?;
    session.show(&answer, |it: Report| {
        super::say_more(&it.next);
        report(&costs.group_by, &it)
    })
}

fn report(group_by: &[String], report: &Report) -> String {
    let headings: Vec<String> = group_by.iter().map(|it| it.to_uppercase()).collect();
    let figures =
        [">REQUESTS", ">UNPRICED", ">TOKENS", ">ENGINE S", ">DIRECT", ">PER REQUEST", ">PER 1M REQUESTS", ">UNMEASURED", ">ENERGY"];
    let headings: Vec<&str> = headings.iter().map(String::as_str).chain(figures).collect();
    let mut rows = Rows::new(&headings);
    for it in &report.costs {
        let group = group_by.iter().map(|key| or_dash(it.part(key)));
        let counts =
            [it.requests.to_string(), it.unpriced_requests.to_string(), it.tokens.to_string(), format!("{:.3}", it.engine_seconds)];
        let [one, million] = each(it.cost_per_request.as_deref());
        let unmeasured = it.unmeasured_requests.unwrap_or(it.requests).to_string();
        let energy = [unmeasured, joules(it.energy_joules_per_request)];
        rows.add(group.chain(counts).chain([units::dollars(it.direct_picodollars), one, million]).chain(energy));
    }
    let t = &report.totals;
    format!(
        "{}\n\ndevices cost {}: direct {}, overhead {}, idle {}{}",
        rows.text("no requests were counted in this time"),
        units::dollars(t.spend_picodollars),
        units::dollars(t.direct_picodollars),
        units::dollars(t.overhead_picodollars),
        units::dollars(t.idle_picodollars),
        drew(t).unwrap_or_default()
    )
}

/// Nothing where nothing was measured.
fn drew(it: &Totals) -> Option<String> {
    let parts = [it.energy_millijoules?, it.direct_energy_millijoules?, it.overhead_energy_millijoules?, it.idle_energy_millijoules?];
    let [all, direct, overhead, idle] = parts.map(units::energy);
    Some(format!("\nand drew {all}: direct {direct}, overhead {overhead}, idle {idle}"))
}

fn per_request(it: &PerRequest) -> String {
    let [one, million] = each(it.cost.as_deref());
    let unpriced = if it.unpriced_requests > 0 { format!(", {} of them without a price", it.unpriced_requests) } else { String::new() };
    let window = it.window.as_ref().map(|it| format!(", {} to {}", it.from, it.to)).unwrap_or_default();
    let mut rows = Rows::new(&["MODEL", "VARIANT", ">REQUESTS", ">TOTAL", ">PER REQUEST", ">PER 1M REQUESTS", ">ENERGY"]);
    for it in &it.variants {
        let [one, million] = each(it.cost.as_deref());
        let (total, energy) = (units::dollars(it.total_picodollars), joules(it.energy_joules));
        rows.add([it.model.clone(), it.variant.clone(), it.requests.to_string(), total, one, million, energy]);
    }
    let cost = if it.cost.is_some() {
        format!("{one} a request, {million} per 1M requests")
    } else {
        "no cost: no request with a price yet".to_owned()
    };
    format!(
        "{cost}\n{} requests{unpriced}{window}\ntotal {}, idle {}{}\n\n{}",
        it.requests,
        units::dollars(it.total_picodollars),
        units::dollars(it.idle_picodollars),
        energy(it).unwrap_or_default(),
        rows.text("no variant has served a request")
    )
}

/// Nothing where nothing was measured.
fn energy(it: &PerRequest) -> Option<String> {
    let (one, total, idle) = (joules(it.energy_joules), it.total_energy_millijoules?, it.idle_energy_millijoules?);
    let unmeasured = it.unmeasured_requests.filter(|it| *it > 0).map(|it| format!(", {it} requests not measured")).unwrap_or_default();
    Some(format!("\nenergy {one} a request: total {}, idle {}{unmeasured}", units::energy(total), units::energy(idle)))
}

fn joules(joules: Option<f64>) -> String {
    joules.map_or_else(|| "not measured".to_owned(), units::joules)
}

/// The cost of one request and of a million; `no price` without one.
fn each(cost: Option<&str>) -> [String; 2] {
    match cost.and_then(units::picodollars) {
        Some(cost) => [units::dollars(cost), units::per_million(cost)],
        None => ["no price".to_owned(), "no price".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_both_costs() {
        let json = serde_json::json!({
            "costs": [{"model": "m", "variant": "fp32", "requests": 30, "unpriced_requests": 0, "tokens": 600, "engine_seconds": 0.25,
                      "direct_picodollars": 240_000_000, "cost_per_request": "0.000008000000"}],
            "next": null,
            "totals": {"spend_picodollars": 2_500_000_000_000i64, "direct_picodollars": 240_000_000, "overhead_picodollars": 0,
                       "idle_picodollars": 2_499_760_000_000i64},
        });
        let text = report(&["model".into(), "variant".into()], &serde_json::from_value(json).unwrap());
        assert!(text.contains("$0.000008") && text.contains("$8.00"), "{text}");
        assert!(text.contains("devices cost $2.50: direct $0.00024, overhead $0.00, idle $2.49976"), "{text}");
        assert!(text.contains("30  not measured") && !text.contains("drew"), "{text}");
    }

    #[test]
    fn a_report_shows_energy_where_it_was_measured() {
        let json = serde_json::json!({
            "costs": [{"model": "m", "requests": 30, "unpriced_requests": 30, "tokens": 600, "engine_seconds": 0.25, "direct_picodollars": 0,
                      "cost_per_request": null, "unmeasured_requests": 5, "energy_joules_per_request": 0.03175}],
            "next": null,
            "totals": {"spend_picodollars": 0, "direct_picodollars": 0, "overhead_picodollars": 0, "idle_picodollars": 0,
                       "energy_millijoules": 5_400_000, "direct_energy_millijoules": 794, "overhead_energy_millijoules": 0, "idle_energy_millijoules": 5_399_206},
        });
        let text = report(&["model".into()], &serde_json::from_value(json).unwrap());
        assert!(text.contains("5  31.8 mJ") && text.contains("and drew 1.5 Wh: direct 794 mJ, overhead 0 mJ, idle 1.5 Wh"), "{text}");
        let json = serde_json::json!({"cost": null, "total_picodollars": 0, "idle_picodollars": 0, "requests": 30, "unpriced_requests": 30,
            "energy_joules": 0.5, "total_energy_millijoules": 12_500, "idle_energy_millijoules": 100, "unmeasured_requests": 5, "window": null,
            "variants": [{"model": "m", "variant": "v", "cost": null, "total_picodollars": 0, "energy_joules": 0.5, "requests": 30}]});
        let text = per_request(&serde_json::from_value(json).unwrap());
        assert!(text.contains("energy 500 mJ a request: total 12.5 J, idle 100 mJ, 5 requests not measured"), "{text}");
    }

    #[test]
    fn a_sum_past_a_u64_is_read() {
        let json = r#"{"costs": [{"sku": "h200", "requests": 1, "unpriced_requests": 0, "tokens": 1, "engine_seconds": 1.0,
            "direct_picodollars": 20000000000000000000, "cost_per_request": null}], "next": null, "totals": {"spend_picodollars":
            20000000000000000000, "direct_picodollars": 20000000000000000000, "overhead_picodollars": 0, "idle_picodollars": 0}}"#;
        let text = report(&["sku".into()], &serde_json::from_str(json).unwrap());
        assert!(text.contains("h200") && text.matches("$20000000.00").count() == 3, "{text}");
    }

    #[test]
    fn no_price_is_no_zero() {
        assert_eq!(each(None), ["no price", "no price"]);
    }
}
