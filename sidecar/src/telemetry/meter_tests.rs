//! The identity: total and idle are the spend, to the picodollar.

use akidb_domain::cost::spend_until;
use akidb_domain::snapshot::SnapshotVersion;
use akidb_domain::window::{DeviceUsage, LaneUsage, Overhead};
use proptest::prelude::*;

use super::*;

const BOOT: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn price(rate: i64, from: u64, to: Option<u64>) -> Price {
    let (sku, region, currency, source) = ("cpu".into(), "local".into(), "USD".into(), "test".into());
    Price { sku, region, currency, picodollars_per_hour: rate, valid_from_ns: from, valid_to_ns: to, source }
}

fn window(start_ns: u64, end_ns: u64, engine_ns: u64, requests: u64, overhead_ns: u64) -> Window {
    let lane = LaneUsage {
        lane: super::super::aggregate::tests::lane("fp32").as_ref().clone(),
        requests,
        texts: requests,
        tokens: requests,
        padded_tokens: requests,
        truncated: 0,
        errors: Vec::new(),
        engine_ns,
        batches: 1,
        latency: akidb_domain::sketch::Sketch::default(),
        queue: akidb_domain::sketch::Sketch::default(),
        engine: akidb_domain::sketch::Sketch::default(),
        consumers: Vec::new(),
        latency_by_length: Vec::new(),
        units: 0,
        first_exceedances: 0,
        first_failures: 0,
        first_requests: 0,
        late_failures: 0,
    };
    let (cause, model, variant, experiment) = ("load".into(), "m".into(), "fp32".into(), String::new());
    let overheads = vec![Overhead { cause, model, variant, experiment, device_ns: overhead_ns }];
    let device = DeviceUsage { overheads, ..DeviceUsage::default() };
    Window {
        sequence: 1,
        snapshot: SnapshotVersion::default(),
        start_ns,
        end_ns,
        device,
        lanes: vec![lane],
        lost_observations: 0,
        last: false,
        probes: Vec::new(),
        lease_gaps: Vec::new(),
    }
}

fn identity(meter: &Meter) -> (i64, i64) {
    let report = meter.report();
    (report.total_picodollars + report.idle_picodollars, report.spend.iter().map(|it| it.picodollars).sum())
}

#[test]
fn a_price_that_comes_late_but_held_before_the_boot_covers_the_whole_boot() {
    let mut meter = Meter::new((500_000, 1), BOOT);
    for i in 0..100 {
        meter.settle(&window(BOOT + i * SECOND, BOOT + (i + 1) * SECOND, SECOND / 3, 2, SECOND / 7));
    }
    assert_eq!((meter.report().cost, meter.report().unpriced_requests, meter.spent()), (None, 200, 0));
    meter.set_prices(&[price(7_777_777_777, BOOT - 5, None)]);
    let expected = spend_until(7_777_777_777, 500_000, 100 * SECOND) as i64;
    assert_eq!(identity(&meter), (expected, expected));
    let report = meter.report();
    assert_eq!((report.unpriced_requests, report.requests, report.spend.len()), (0, 200, 1));
    assert_eq!(report.window.from, rfc3339(BOOT));
    meter.settle_idle(BOOT + 104 * SECOND);
    let expected = spend_until(7_777_777_777, 500_000, 104 * SECOND) as i64;
    assert_eq!(identity(&meter), (expected, expected));
}

#[test]
fn a_snapshot_that_repeats_the_price_does_not_split_it() {
    let mut meter = Meter::new((1_000_000, 1), BOOT);
    for i in 0..10 {
        meter.set_prices(&[price(1_000_000_000_001, BOOT - 5, None)]);
        meter.settle(&window(BOOT + i * SECOND, BOOT + (i + 1) * SECOND, 1, 1, 0));
    }
    let expected = spend_until(1_000_000_000_001, 1_000_000, 10 * SECOND) as i64;
    assert_eq!((identity(&meter), meter.report().spend.len()), ((expected, expected), 1));
}

#[test]
fn a_time_that_was_charged_between_two_waits_is_not_charged_again() {
    let mut meter = Meter::new((1_000_000, 1), BOOT);
    meter.settle_idle(BOOT + SECOND);
    meter.set_prices(&[price(3_600_000_000_000, BOOT + SECOND, None)]);
    meter.settle_idle(BOOT + 2 * SECOND);
    meter.set_prices(&[price(3_600_000_000_000, BOOT + 3 * SECOND, None)]);
    meter.settle_idle(BOOT + 3 * SECOND);
    meter.set_prices(&[price(7_200_000_000_000, BOOT, None)]);
    assert_eq!(identity(&meter), (3_000_000_000, 3_000_000_000));
}

#[test]
fn a_price_change_known_ahead_takes_effect_inside_a_window() {
    let mut meter = Meter::new((1_000_000, 1), BOOT);
    let change = BOOT + SECOND / 2;
    meter.set_prices(&[price(3_600, BOOT - 5, Some(change)), price(7_200_000_000_000, change, None)]);
    meter.settle(&window(BOOT, BOOT + SECOND, SECOND, 1, 0));
    assert_eq!(meter.report().total_picodollars, 1_000_000_000);
    assert_eq!(meter.rate(BOOT + SECOND).unwrap().picodollars_per_hour, 7_200_000_000_000);
}

#[test]
fn two_devices_cost_twice_and_may_be_busy_twice_as_long() {
    let mut meter = Meter::new((500_000, 2), BOOT);
    meter.set_prices(&[price(3_600_000_000_000, BOOT - 5, None)]);
    let mut busy = window(BOOT, BOOT + SECOND, 3 * SECOND / 2, 3, 0);
    busy.device = DeviceUsage { devices: 2, share_ppm: 500_000, ..busy.device };
    meter.settle(&busy);
    // 1e9 picodollars a second for each; half of each.
    let report = meter.report();
    assert_eq!((report.total_picodollars, report.idle_picodollars, meter.spent()), (750_000_000, 250_000_000, 1_000_000_000));
    assert_eq!((report.spend[0].devices, report.spend[0].picodollars), (2, 1_000_000_000));
    assert_eq!(meter.rate(BOOT + 1).unwrap(), Rate { picodollars_per_hour: 3_600_000_000_000, share_ppm: 500_000 });
}

#[test]
fn energy_needs_no_price_and_divides_as_spend_does() {
    let mut meter = Meter::new((500_000, 2), BOOT);
    meter.settle(&window(BOOT, BOOT + SECOND, SECOND / 2, 4, 0));
    let report = meter.report();
    assert_eq!((report.energy_joules, report.total_energy_millijoules, report.idle_energy_millijoules), (None, None, None));
    // 800 J of two devices, half of each; lanes 1/2 s, overhead 1/4 s, of 2 s.
    let mut measured = window(BOOT + SECOND, BOOT + 2 * SECOND, SECOND / 2, 5, SECOND / 4);
    let (energy_millijoules, cumulative_energy_millijoules) = (Some(800_000), 900_000);
    measured.device = DeviceUsage { devices: 2, share_ppm: 500_000, energy_millijoules, cumulative_energy_millijoules, ..measured.device };
    meter.settle(&measured);
    let report = meter.report();
    assert_eq!((report.total_energy_millijoules, report.idle_energy_millijoules), (Some(150_000), Some(250_000)));
    assert_eq!((report.energy_joules, report.unmeasured_requests, report.unpriced_requests), (Some(20.0), 4, 9));
    assert_eq!((report.variants[0].energy_joules, report.cost.as_deref()), (Some(20.0), None));
}

proptest! {
    #[test]
    fn total_and_idle_are_the_spend_and_never_shrink(
        steps in prop::collection::vec((1..20_000_000_000u64, 0..20_000_000_000u64, 0..5u64, 0..1_000_000_000u64, prop::option::of((1..9_000_000_000_000i64, -30..30i64))), 1..60),
        (share, devices) in (1..=1_000_000u32, 1..=8u32),
    ) {
        let (mut meter, mut at, mut before) = (Meter::new((share, devices), BOOT), BOOT, (0, 0));
        for (length, engine_ns, requests, overhead_ns, new_price) in steps {
            if let Some((rate, offset)) = new_price {
                meter.set_prices(&[price(rate, at.saturating_add_signed(offset * SECOND as i64), None)]);
            }
            if requests == 0 {
                meter.settle_idle(at + length);
            } else {
                meter.settle(&window(at, at + length, engine_ns, requests, overhead_ns));
            }
            at += length;
            let (parts, spend) = identity(&meter);
            prop_assert_eq!(parts, spend);
            prop_assert_eq!(meter.spent(), spend);
            let report = meter.report();
            prop_assert!(report.total_picodollars >= before.0 && report.idle_picodollars >= before.1);
            before = (report.total_picodollars, report.idle_picodollars);
        }
    }
}
