//! Energy and several devices, as a sidecar reports them.

use akidb_proto::v1;
use serde_json::json;

use crate::app::TestApp;
use crate::sidecar::{SECOND, Sidecar, window};

/// A window of two half GPUs that together worked for one and a half seconds.
fn of_two(sequence: u64, energy: Option<u64>, drawn: u64) -> v1::Window {
    let mut window = window(sequence, 5);
    window.lanes[0].engine_ns = 3 * SECOND / 2;
    let device = window.device.as_mut().unwrap();
    (device.share_ppm, device.devices, device.busy_ns) = (500_000, Some(2), 3 * SECOND / 2);
    (device.energy_millijoules, device.cumulative_energy_millijoules) = (energy, drawn);
    window
}

/// At 1e9 picodollars a second and device.
fn priced() -> TestApp {
    let app = TestApp::start();
    app.post(
        "prices",
        &json!({"sku": "cpu", "region": "local", "price_per_hour": "3.6", "valid_from": "2026-01-01T00:00:00Z", "source": "t"}),
    );
    app
}

#[test]
fn two_devices_cost_twice_and_energy_divides_as_spend_does() {
    let app = priced();
    let sidecar = Sidecar::new(&app, "s", "b");
    sidecar.report(vec![of_two(1, Some(400_000), 400_000), of_two(2, None, 400_000), of_two(3, Some(200_001), 600_001)], 0).unwrap();
    let costs = app.get("costs");
    let (row, totals) = (&costs["costs"][0], &costs["totals"]);
    assert_eq!((totals["spend_picodollars"].as_i64(), totals["device_seconds"].as_f64()), (Some(3_000_000_000), Some(6.0)), "{totals}");
    assert_eq!((totals["direct_picodollars"].as_i64(), totals["idle_picodollars"].as_i64()), (Some(2_250_000_000), Some(750_000_000)));
    // Half of 600,001 mJ, and three quarters of each window's.
    assert_eq!(
        (totals["energy_millijoules"].as_i64(), totals["unmeasured_device_seconds"].as_f64()),
        (Some(300_000), Some(2.0)),
        "{totals}"
    );
    assert_eq!((totals["direct_energy_millijoules"].as_i64(), totals["idle_energy_millijoules"].as_i64()), (Some(225_000), Some(75_000)));
    assert_eq!(totals["overhead_energy_millijoules"], 0);
    assert_eq!((row["direct_energy_millijoules"].as_i64(), row["unmeasured_requests"].as_i64()), (Some(225_000), Some(5)), "{row}");
    assert_eq!(row["energy_joules_per_request"], 22.5);
    let all = app.get("cost-per-request");
    assert_eq!(
        (&all["energy_joules"], &all["variants"][0]["energy_joules"], &all["unmeasured_requests"]),
        (&json!(22.5), &json!(22.5), &json!(5))
    );
    assert_eq!((&all["total_energy_millijoules"], &all["idle_energy_millijoules"]), (&json!(225_000), &json!(75_000)), "{all}");
}

#[test]
fn a_sidecar_of_before_is_of_one_device_and_measured_nothing() {
    let app = priced();
    let old = window(1, 3);
    assert_eq!((old.device.as_ref().unwrap().devices, old.device.as_ref().unwrap().energy_millijoules), (None, None));
    Sidecar::new(&app, "s", "b").report(vec![old], 0).unwrap();
    let costs = app.get("costs");
    let (row, totals) = (&costs["costs"][0], &costs["totals"]);
    assert_eq!((totals["spend_picodollars"].as_i64(), totals["device_seconds"].as_f64()), (Some(1_000_000_000), Some(1.0)));
    for part in ["energy_millijoules", "direct_energy_millijoules", "overhead_energy_millijoules", "idle_energy_millijoules"] {
        assert!(totals[part].is_null() && totals.get(part).is_some(), "{part}: {totals}");
    }
    assert_eq!((row["unmeasured_requests"].as_i64(), totals["unmeasured_device_seconds"].as_f64()), (Some(3), Some(1.0)));
    assert!(row["energy_joules_per_request"].is_null() && row["direct_energy_millijoules"].is_null(), "{row}");
    let all = app.get("cost-per-request");
    assert!(all["energy_joules"].is_null() && all["total_energy_millijoules"].is_null() && all["unmeasured_requests"] == 3, "{all}");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let app = TestApp::start();
    let refused = |window: v1::Window, why: &str| {
        let said = Sidecar::new(&app, "s", "b").report(vec![window], 0).unwrap_err();
        assert!(said.message().contains(why), "{said:?}");
    };
    refused(of_two(1, Some(7), 6), "field `device.cumulative_energy_millijoules`: 6 is less than the window's own 7");
    refused(of_two(1, Some(20_000_000_000_000), 20_000_000_000_000), "field `device.energy_millijoules`: 20000000000000, of");
    let mut none = of_two(1, None, 0);
    none.device.as_mut().unwrap().devices = Some(0);
    refused(none, "field `device.devices`: 0 is not in 1 to 8");
    // A day of eight busy devices is no reason.
    let mut day = of_two(1, None, 0);
    day.end_ns = day.start_ns + 86_400 * SECOND;
    day.device.as_mut().unwrap().devices = Some(8);
    day.lanes[0].engine_ns = 8 * 86_400 * SECOND;
    Sidecar::new(&app, "s", "b").report(vec![day], 0).unwrap();
    assert_eq!(app.get("costs")["totals"]["device_seconds"], 8.0 * 86_400.0);
}
