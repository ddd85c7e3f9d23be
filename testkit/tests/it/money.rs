//! What a request costs, on the sidecar and in the fleet's ledger.

use std::time::Duration;

use akidb_testkit::System;
use serde_json::{Value, json};

use crate::until_counted;

const HOUR_NS: i128 = 3_600_000_000_000;

fn nanos(time: &Value) -> i128 {
    let text = time.as_str().expect("a time");
    let (whole, fraction) = text.trim_end_matches('Z').split_once('.').expect("fractions of a second");
    let (date, clock) = whole.split_once('T').expect("date and time");
    let numbers = |s: &str, by: char| -> Vec<i128> { s.split(by).map(|it| it.parse().expect("a number")).collect() };
    let (date, clock) = (numbers(date, '-'), numbers(clock, ':'));
    // Days since the epoch, after Howard Hinnant's days_from_civil.
    let (y, m) = if date[1] <= 2 { (date[0] - 1, date[1] + 9) } else { (date[0], date[1] - 3) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + date[2] - 1 - 719_468;
    let seconds = ((days * 24 + clock[0]) * 60 + clock[1]) * 60 + clock[2];
    let fraction: i128 = format!("{fraction:0<9}").parse().expect("nanoseconds");
    seconds * 1_000_000_000 + fraction
}

fn integer(value: &Value) -> i128 {
    value
        .as_i64()
        .map(i128::from)
        .or_else(|| value.as_str().and_then(|it| it.parse().ok()))
        .unwrap_or_else(|| panic!("`{value}` is not an integer"))
}

/// total + idle = floor(price x time), for one price over the whole window.
fn check_identity(body: &Value, picodollars_per_hour: i128) {
    let (from, to) = (nanos(&body["window"]["from"]), nanos(&body["window"]["to"]));
    let expected = picodollars_per_hour * (to - from) / HOUR_NS;
    assert_eq!(integer(&body["total_picodollars"]) + integer(&body["idle_picodollars"]), expected, "{body}");
}

#[test]
fn the_sidecar_and_the_fleet_account_for_every_picodollar() {
    let system = System::ready(Some("0.10"));
    for i in 0..30 {
        let (status, body) = system.embed(&json!({"text": format!("text number {i}")}));
        assert_eq!(status, 200, "{body}");
        assert!(body["cost"].as_str().is_some_and(|it| it.starts_with("0.0000")), "{body}");
    }
    system.until(Duration::from_secs(60), |it| match &it.get("/api/v1/cost-per-request").1 {
        body if body["requests"] == 30 => Ok(()),
        body => Err(body.to_string()),
    });
    let body = system.get("/api/v1/cost-per-request").1;
    check_identity(&body, 100_000_000_000);
    assert!(integer(&body["total_picodollars"]) > 0 && integer(&body["idle_picodollars"]) > 0, "{body}");
    assert!(body["cost"].is_string() && body["variants"][0]["variant"] == "fp32", "{body}");

    until_counted(&system, 30);
    let fleet = system.akidb(&["costs", "per-request"]);
    assert_eq!((fleet["scope"].as_str(), fleet["requests"].as_u64()), (Some("fleet"), Some(30)), "{fleet}");
    check_identity(&fleet, 100_000_000_000);
}

#[test]
fn without_a_price_the_cost_is_null_and_with_another_it_moves() {
    let system = System::ready(None);
    let (_, answer) = system.embed(&json!({"text": "hello"}));
    assert!(answer["cost"].is_null(), "{answer}");
    until_counted(&system, 1);
    for body in [system.get("/api/v1/cost-per-request").1, system.akidb(&["costs", "per-request"])] {
        assert!(body["cost"].is_null() && body["requests"] == 1, "{body}");
        assert_eq!((integer(&body["total_picodollars"]), integer(&body["idle_picodollars"])), (0, 0), "{body}");
    }

    let cost_at = |price: &str| {
        system.akidb(&["prices", "set", "cpu", "--per-hour", price, "--region", "local", "--source", "test"]);
        system.until_followed();
        // The least of some: the others may have waited for a core in the middle of their batch.
        let costs = (0..9).map(|_| system.embed(&json!({"text": "the same text every time"})).1["cost"].clone());
        costs.map(|it| it.as_str().expect("a cost").parse::<f64>().expect("a number")).fold(f64::INFINITY, f64::min)
    };
    let (cheap, dear) = (cost_at("0.10"), cost_at("10.00"));
    assert!(dear > cheap * 20.0 && dear < cheap * 500.0, "{cheap} at $0.10, {dear} at $10");
    system.until(Duration::from_secs(60), |it| match &it.get("/api/v1/cost-per-request").1 {
        body if body["requests"] == 19 && body["cost"].is_string() => Ok(()),
        body => Err(body.to_string()),
    });
    let body = system.get("/api/v1/cost-per-request").1;
    let spend: i128 = body["spend"].as_array().expect("two prices").iter().map(|it| integer(&it["picodollars"])).sum();
    assert_eq!(integer(&body["total_picodollars"]) + integer(&body["idle_picodollars"]), spend, "{body}");
    assert_eq!(body["spend"].as_array().map(Vec::len), Some(2), "{body}");
}
