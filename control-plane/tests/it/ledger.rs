//! Money and energy: parts are the whole, and a late price is as good as an early one, through the real database.

use akidb_proto::v1;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::app::TestApp;
use crate::sidecar::{BOOT_NS, SECOND, Sidecar, lane, window};

const VALID_FROM: &str = "2026-01-01T00:00:03.5Z";

fn price(app: &TestApp, sku: &str, per_hour: &str) -> Value {
    app.post("prices", &json!({"sku": sku, "region": "local", "price_per_hour": per_hour, "valid_from": VALID_FROM, "source": "t"}))
}

#[test]
fn without_a_price_there_is_no_cost_and_with_one_it_is_exact() {
    let app = TestApp::start();
    let sidecar = Sidecar::new(&app, "s", "b1");
    let empty = app.get("cost-per-request");
    assert_eq!((&empty["cost"], &empty["window"], &empty["requests"]), (&json!(null), &json!(null), &json!(0)));
    sidecar.report((1..=10).map(|n| window(n, 3)).collect(), 0).unwrap();
    let before = app.get("cost-per-request");
    assert_eq!((&before["cost"], &before["unpriced_requests"]), (&json!(null), &json!(30)));

    // 3.6 USD an hour is 1e9 picodollars a second; the price holds from 3.5 s on, half of each second is busy.
    assert_eq!(price(&app, "cpu", "3.6")["windows_priced"], 7);
    let after = app.get("cost-per-request");
    assert_eq!(after["unpriced_requests"], 9);
    let (total, idle) = (after["total_picodollars"].as_i64().unwrap(), after["idle_picodollars"].as_i64().unwrap());
    assert_eq!((total + idle, after["spend"][0]["picodollars"].as_i64().unwrap()), (6_500_000_000, 6_500_000_000));
    assert_eq!(total, 3_250_000_000);
    assert_eq!(after["cost"], "0.000154761904");
    assert_eq!((&after["window"]["from"], &after["window"]["to"]), (&json!("2026-01-01T00:00:03.5Z"), &json!("2026-01-01T00:00:10Z")));

    let costs = app.get("costs?group_by=model,day,sku");
    assert_eq!(costs["costs"][0]["day"], "2026-01-01");
    assert_eq!(costs["costs"][0]["direct_picodollars"], 3_250_000_000_i64);
    assert_eq!(app.get("costs?from=2026-01-02T00:00:00Z")["costs"], json!([]));
    app.call("GET", "costs?group_by=colour", None).refused(422, "invalid");
    app.call(
        "POST",
        "prices",
        Some(&json!({"sku": "cpu", "region": "local", "price_per_hour": "1", "valid_from": VALID_FROM, "source": "t"})),
    )
    .refused(409, "conflict");
    app.call("POST", "prices", Some(&json!({"sku": "cpu", "region": "local", "price_per_hour": "1e3", "source": "t"})))
        .refused(422, "invalid");
    price_closes_the_row_before(&app);
}

fn price_closes_the_row_before(app: &TestApp) {
    app.post("prices", &json!({"sku": "cpu", "region": "local", "price_per_hour": "1", "source": "t"}));
    let prices = app.get("prices");
    assert_eq!(prices["prices"][0]["valid_to"], prices["prices"][1]["valid_from"]);
    assert_eq!(prices["prices"][0]["price_per_hour"], "3.600000000000");
}

/// One second-long window's content: lanes as (requests, tokens, engine ns, consumers' tokens), overheads in ns, share and number of devices, mJ.
type Second = (Vec<(u64, u64, u64, Vec<u64>)>, Vec<u64>, (u32, u32), Option<u64>);

fn seconds() -> impl Strategy<Value = Vec<Second>> {
    let lane = (0..50u64, 0..5_000u64, 0..900_000_000u64, prop::collection::vec(0..2_000u64, 0..3));
    let (overheads, energy) = (prop::collection::vec(0..300_000_000u64, 0..2), prop::option::of(0..6_000_000u64));
    let second = (prop::collection::vec(lane, 0..3), overheads, (1..=1_000_000u32, 1..=8u32), energy);
    prop::collection::vec(second, 1..8)
}

/// Windows of a boot from its first second on.
fn windows(sku: &str, seconds: &[Second]) -> Vec<v1::Window> {
    let mut drawn = 0;
    let one = |(i, it): (usize, &Second)| {
        let mut window = build(sku, i as u64 + 1, it);
        drawn += it.3.unwrap_or(0);
        window.device.as_mut().unwrap().cumulative_energy_millijoules = drawn;
        window
    };
    seconds.iter().enumerate().map(one).collect()
}

/// What the sidecar is charged of the energy.
fn charged(seconds: &[Second]) -> Option<i64> {
    let (mut drawn, mut sum) = (0, None);
    for (_, _, (share_ppm, _), energy) in seconds {
        let Some(energy) = energy else { continue };
        let until = |total: u64| (total * u64::from(*share_ppm) / 1_000_000) as i64;
        *sum.get_or_insert(0) += until(drawn + energy) - until(drawn);
        drawn += energy;
    }
    sum
}

fn build(sku: &str, sequence: u64, (lanes, overheads, (share_ppm, devices), energy): &Second) -> v1::Window {
    let mut window = window(sequence, 0);
    let device = window.device.as_mut().unwrap();
    (device.sku, device.share_ppm, device.devices, device.energy_millijoules) = (sku.to_owned(), *share_ppm, Some(*devices), *energy);
    device.overheads = overheads
        .iter()
        .map(|ns| v1::Overhead {
            cause: "load".into(),
            model: "m".into(),
            variant: "fp32".into(),
            experiment: String::new(),
            device_ns: *ns,
        })
        .collect();
    window.lanes = lanes.iter().enumerate().map(|(i, it)| build_lane(i, it)).collect();
    window
}

fn build_lane(i: usize, (requests, tokens, engine_ns, consumers): &(u64, u64, u64, Vec<u64>)) -> v1::LaneUsage {
    let mut lane = lane(*requests, *tokens, *engine_ns);
    lane.lane.as_mut().unwrap().variant = format!("v{i}");
    let mut left = *tokens;
    for (i, tokens) in consumers.iter().enumerate() {
        let tokens = (*tokens).min(left);
        left -= tokens;
        lane.consumers.push(v1::ConsumerUsage { app: format!("a{i}"), tenant: String::new(), requests: 0, tokens });
    }
    lane
}

/// Everything the money tables say of a SKU.
fn books(app: &TestApp, sku: &str) -> (Value, Value) {
    let mut costs = app.get(&format!("costs?group_by=variant,app,arm&sku={sku}"));
    (costs["costs"].take(), costs["totals"].take())
}

#[test]
fn parts_are_the_whole_and_late_prices_are_exact() {
    let app = TestApp::start();
    let case = std::cell::Cell::new(0);
    let strategy = (seconds(), 1..100_000_000_000_000_000u64);
    let config = Config { cases: 25, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&strategy, |(seconds, rate)| {
        case.set(case.get() + 1);
        let (early, late) = (format!("early-{}", case.get()), format!("late-{}", case.get()));
        let per_hour = format!("{}.{:012}", rate / 1_000_000_000_000, rate % 1_000_000_000_000);
        let send = |sku: &str| {
            Sidecar::new(&app, sku, sku).report(windows(sku, &seconds), 0).unwrap();
        };
        price(&app, &early, &per_hour);
        send(&early);
        send(&late);
        price(&app, &late, &per_hour);
        let (early, late) = (books(&app, &early), books(&app, &late));
        prop_assert_eq!(&early, &late);
        let (rows, totals) = early;
        let part = |name: &str| totals[name].as_i64().unwrap();
        let parts = part("direct_picodollars") + part("overhead_picodollars") + part("idle_picodollars");
        prop_assert_eq!(parts, part("spend_picodollars"));
        let direct: i64 = rows.as_array().unwrap().iter().map(|it| it["direct_picodollars"].as_i64().unwrap()).sum();
        prop_assert_eq!(direct, part("direct_picodollars"));
        let energy = charged(&seconds);
        prop_assert_eq!(totals["energy_millijoules"].as_i64(), energy);
        let parts = ["direct_energy_millijoules", "overhead_energy_millijoules", "idle_energy_millijoules"];
        prop_assert_eq!(parts.iter().map(|it| totals[it].as_i64()).sum::<Option<i64>>(), energy);
        let direct: i64 = rows.as_array().unwrap().iter().filter_map(|it| it["direct_energy_millijoules"].as_i64()).sum();
        prop_assert_eq!(direct, totals["direct_energy_millijoules"].as_i64().unwrap_or(0));
        Ok(())
    });
    outcome.unwrap();
    every_hour_adds_up(&app);
}

/// The identity holds in each row of the table, not only in the sum.
fn every_hour_adds_up(app: &TestApp) {
    app.runtime.block_on(async {
        use sqlx::Connection;
        let path = app.config.data_dir.join("control-plane.db");
        let mut conn = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        let none = async |conn: &mut sqlx::SqliteConnection, sql: &'static str| {
            assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(conn).await.unwrap(), 0, "{sql}");
        };
        none(
            &mut conn,
            "SELECT COUNT(*) FROM device_hours WHERE spend_picodollars <> direct_picodollars + overhead_picodollars + idle_picodollars",
        )
        .await;
        none(
            &mut conn,
            "SELECT COUNT(*) FROM device_hours WHERE energy_millijoules IS NOT direct_millijoules + overhead_millijoules + idle_millijoules",
        )
        .await;
        // And from table to table.
        none(&mut conn, "SELECT (SELECT SUM(energy_millijoules) FROM windows) <> (SELECT SUM(energy_millijoules) FROM device_hours)").await;
        none(&mut conn, "SELECT (SELECT SUM(direct_millijoules) FROM usage_hours) <> (SELECT SUM(direct_millijoules) FROM device_hours)").await;
        none(&mut conn, "SELECT (SELECT SUM(millijoules) FROM overhead_hours) <> (SELECT SUM(overhead_millijoules) FROM device_hours)").await;
    });
}

#[test]
fn a_total_past_an_i64_is_exact() {
    let app = TestApp::start();
    price(&app, "cpu", "100000");
    let share = |boot: u64, sequence: u64| {
        let mut window = window(sequence, 1);
        window.start_ns = BOOT_NS + 10 * SECOND + boot;
        window.end_ns = window.start_ns + 20 * 3_600 * SECOND;
        window
    };
    for boot in 0..6 {
        Sidecar::new(&app, &format!("s{boot}"), &format!("b{boot}")).report(vec![share(boot, 1)], 0).unwrap();
    }
    let body = app.call("GET", "cost-per-request", None).text;
    assert!(body.contains("\"picodollars\":12000000000000000000"), "{body}");

    // 292 years of devices fill an i64 of nanoseconds: 10,000 of them need 11 days.
    app.runtime.block_on(async {
        use sqlx::Connection;
        let path = app.config.data_dir.join("control-plane.db");
        let mut conn = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        for years in ["UPDATE device_hours SET elapsed_ns = 4000000000000000000", "UPDATE usage_hours SET engine_ns = 9000000000000000000"] {
            sqlx::query(years).execute(&mut conn).await.unwrap();
        }
        let columns = "model, version, variant, precision, arm, experiment, digest, provider, fallback, sku, region, namespace, sidecar_app, \
                       consumer_app, tenant, requests, unpriced_requests, tokens, engine_ns, direct_picodollars";
        let more = format!("INSERT INTO usage_hours (hour, {columns}) SELECT hour + 1, {columns} FROM usage_hours");
        sqlx::query(sqlx::AssertSqlSafe(more)).execute(&mut conn).await.unwrap();
    });
    let costs = app.get("costs");
    assert_eq!((&costs["totals"]["device_seconds"], &costs["costs"][0]["engine_seconds"]), (&json!(24e9), &json!(18e9)), "{costs}");
}
