//! Money: spend of a device over time, and how it is divided, in integer picodollars (10^-12 USD).
//!
//! Enters: price rows, nanoseconds, tokens. Leaves: picodollars whose parts sum to the spend exactly. Never: a float.
//!
//! Spend over `[a, b)` is `F(b) - F(a)` with `F(t) = floor(price x share x t / 3.6e18)`, t in ns since an anchor, price in picodollars an
//! hour, share in parts in a million of one device (2,000,000: two whole ones); so adjacent stretches add up to the whole without rounding (it
//! telescopes). What is left of a rounded division goes to the largest remainders (Hamilton's method).

use serde::{Deserialize, Serialize};

/// A price row. Rows are never edited; a new row closes the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Device kind, e.g. `nvidia-h200` or `cpu`.
    pub sku: String,
    /// Cloud region, or `local`.
    pub region: String,
    /// ISO 4217; only `USD` exists so far.
    pub currency: String,
    /// Price of a whole device for an hour.
    pub picodollars_per_hour: i64,
    /// First moment it holds, Unix ns.
    pub valid_from_ns: u64,
    /// First moment it no longer holds, Unix ns.
    pub valid_to_ns: Option<u64>,
    /// Where the figure comes from, e.g. `example`.
    pub source: String,
}

/// One whole device; several count so many times that.
pub const WHOLE_DEVICE_PPM: u32 = 1_000_000;

const DIVISOR: i128 = 3_600_000_000_000 * 1_000_000;

/// `F(t)` of the module's formula.
pub fn spend_until(picodollars_per_hour: i64, share_ppm: u32, elapsed_ns: u64) -> i128 {
    let (rate, elapsed) = (i128::from(picodollars_per_hour) * i128::from(share_ppm), i128::from(elapsed_ns));
    // In two parts, as the product of all three may not fit: floor((q x D + r) x t / D) = q x t + floor(r x t / D).
    rate / DIVISOR * elapsed + rate % DIVISOR * elapsed / DIVISOR
}

/// Spend and the time it covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spend {
    /// Picodollars.
    pub picodollars: i128,
    /// Nanoseconds of the stretch that a price row covers.
    pub priced_ns: u64,
}

/// Spend of a device over `[a, b)` (Unix ns). `F` is anchored at the later of `anchor_ns` (the boot of the sidecar) and the row's start, so
/// that a boot's spend under one price is `floor(price x time)` to the picodollar.
pub fn spend(prices: &[Price], share_ppm: u32, anchor_ns: u64, a: u64, b: u64) -> Spend {
    let mut total = Spend::default();
    for price in prices {
        let zero = price.valid_from_ns.max(anchor_ns);
        let (from, to) = (a.max(zero), b.min(price.valid_to_ns.unwrap_or(u64::MAX)));
        if from < to {
            let until = |t: u64| spend_until(price.picodollars_per_hour, share_ppm, t - zero);
            total.picodollars += until(to) - until(from);
            total.priced_ns += to - from;
        }
    }
    total
}

/// Divides `total` in proportion to `weights`; the parts sum to `total` exactly. All weights zero: everything goes to the last part.
pub fn allocate(total: i128, weights: &[u128]) -> Vec<i128> {
    let sum: u128 = weights.iter().sum();
    let Some(last) = weights.len().checked_sub(1) else { return Vec::new() };
    if sum == 0 {
        let mut parts = vec![0; weights.len()];
        parts[last] = total;
        return parts;
    }
    let (sum, magnitude) = (sum as i128, total);
    let mut parts: Vec<i128> = weights.iter().map(|w| magnitude * (*w as i128) / sum).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    // Largest remainder first; ties by position, so that a replay divides alike.
    order.sort_by_key(|i| (std::cmp::Reverse((magnitude * (weights[*i] as i128)).rem_euclid(sum)), *i));
    let mut left = total - parts.iter().sum::<i128>();
    for i in order.into_iter().cycle() {
        if left == 0 {
            break;
        }
        parts[i] += left.signum();
        left -= left.signum();
    }
    parts
}

/// How what a stretch took divides: its spend, or its energy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Division {
    /// Per lane, in the order given.
    pub direct: Vec<i128>,
    /// Per overhead, in the order given.
    pub overhead: Vec<i128>,
    /// The rest.
    pub idle: i128,
}

/// Divides a stretch's spend over engine time of lanes, overhead and idle time. `length_ns`: device time, of several devices all of it. Streams
/// that overlap (busy > `length_ns`) are scaled down to the stretch, and leave no idle time.
pub fn divide(spend: i128, length_ns: u64, lane_ns: &[u64], overhead_ns: &[u64]) -> Division {
    let used: u128 = lane_ns.iter().chain(overhead_ns).map(|it| u128::from(*it)).sum();
    let idle = u128::from(length_ns).saturating_sub(used);
    let weights: Vec<u128> = lane_ns.iter().chain(overhead_ns).map(|it| u128::from(*it)).chain([idle]).collect();
    let mut direct = allocate(spend, &weights);
    let idle = direct.pop().unwrap_or_default();
    let overhead = direct.split_off(lane_ns.len());
    Division { direct, overhead, idle }
}

/// A decimal dollar string with 12 digits after the point: exact.
pub fn dollars(picodollars: i128) -> String {
    let (sign, magnitude) = (if picodollars < 0 { "-" } else { "" }, picodollars.unsigned_abs());
    format!("{sign}{}.{:012}", magnitude / 1_000_000_000_000, magnitude % 1_000_000_000_000)
}

/// A price that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount in USD: write e.g. `2.50`, with at most 12 digits after the point, below 9,000,000")]
pub struct BadAmount(pub String);

/// Reads a decimal dollar amount, 0 or more, exactly.
pub fn parse_dollars(text: &str) -> Result<i64, BadAmount> {
    let bad = || BadAmount(text.chars().take(64).collect());
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 7 || part.len() > 12 || !digits(whole) || !digits(part) || text.ends_with('.') {
        return Err(bad());
    }
    let whole: i64 = whole.parse().map_err(|_| bad())?;
    let part: i64 = format!("{part:0<12}").parse().map_err(|_| bad())?;
    if whole >= 9_000_000 {
        return Err(bad());
    }
    Ok(whole * 1_000_000_000_000 + part)
}

/// Average of a total over requests as a dollar string, rounded down to the picodollar; `None` without a request.
pub fn per_request(direct: i128, requests: u64) -> Option<String> {
    (requests > 0).then(|| dollars(direct / i128::from(requests)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(picodollars_per_hour: i64, from: u64, to: Option<u64>) -> Price {
        Price {
            sku: "cpu".into(),
            region: "local".into(),
            currency: "USD".into(),
            picodollars_per_hour,
            valid_from_ns: from,
            valid_to_ns: to,
            source: "test".into(),
        }
    }

    #[test]
    fn an_hour_costs_its_price() {
        let two_dollars = price(2_000_000_000_000, 0, None);
        let got = spend(&[two_dollars], WHOLE_DEVICE_PPM, 5, 5, 5 + 3_600_000_000_000);
        assert_eq!(got, Spend { picodollars: 2_000_000_000_000, priced_ns: 3_600_000_000_000 });
    }

    #[test]
    fn two_devices_cost_two_prices_and_the_largest_amounts_fit() {
        let rows = [price(2_000_000_000_000, 0, None)];
        let got = spend(&rows, 2 * WHOLE_DEVICE_PPM, 5, 5, 5 + 1_800_000_000_000);
        assert_eq!(got, Spend { picodollars: 2_000_000_000_000, priced_ns: 1_800_000_000_000 });
        let hours = u64::MAX / 3_600_000_000_000;
        let most = spend_until(i64::MAX, 8 * WHOLE_DEVICE_PPM, hours * 3_600_000_000_000);
        assert_eq!(most, i128::from(i64::MAX) * 8 * i128::from(hours));
    }

    #[test]
    fn amounts_read_and_print_exactly() {
        for (text, picodollars) in [("2", 2_000_000_000_000), ("0.10", 100_000_000_000), ("0.000000000001", 1), ("0", 0)] {
            assert_eq!(parse_dollars(text), Ok(picodollars), "{text}");
            assert_eq!(parse_dollars(&dollars(i128::from(picodollars))), Ok(picodollars), "{text}");
        }
        for text in ["", ".", "-1", "1.", "1e3", "0.0000000000001", "9000000", "1,5", "+1"] {
            assert_eq!(parse_dollars(text), Err(BadAmount(text.into())), "{text}");
        }
        assert_eq!(dollars(-1), "-0.000000000001");
    }

    proptest! {
        #[test]
        fn stretches_telescope_across_price_changes(
            rates in prop::collection::vec(1..200_000_000_000_000i64, 1..4),
            share in 1..=WHOLE_DEVICE_PPM,
            cuts in prop::collection::btree_set(0..100_000_000_000_000u64, 2..40),
        ) {
            let step = 20_000_000_000_000u64;
            let rows: Vec<_> = rates.iter().enumerate()
                .map(|(i, rate)| price(*rate, i as u64 * step, (i + 1 < rates.len()).then_some((i as u64 + 1) * step)))
                .collect();
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let (first, last) = (cuts[0], cuts[cuts.len() - 1]);
            let parts: i128 = cuts.windows(2).map(|w| spend(&rows, share, first, w[0], w[1]).picodollars).sum();
            prop_assert_eq!(parts, spend(&rows, share, first, first, last).picodollars);
        }

        #[test]
        fn parts_sum_to_the_whole_and_are_fair(total in 0..1_000_000_000_000_000i128, weights in prop::collection::vec(0..1_000_000_000_000u128, 1..20)) {
            let parts = allocate(total, &weights);
            prop_assert_eq!(parts.iter().sum::<i128>(), total);
            let sum: u128 = weights.iter().sum();
            if sum > 0 {
                for (part, weight) in parts.iter().zip(&weights) {
                    let exact = total as f64 * *weight as f64 / sum as f64;
                    prop_assert!((*part as f64 - exact).abs() <= 1.0 + exact * 1e-9, "{} for {}", part, exact);
                }
            }
        }

        #[test]
        fn direct_overhead_and_idle_are_the_spend(spend in 0..1_000_000_000_000i128, length in 1..10_000_000_000u64,
            lanes in prop::collection::vec(0..4_000_000_000u64, 0..6), overheads in prop::collection::vec(0..1_000_000_000u64, 0..3)) {
            let got = divide(spend, length, &lanes, &overheads);
            prop_assert_eq!(got.direct.iter().sum::<i128>() + got.overhead.iter().sum::<i128>() + got.idle, spend);
            if lanes.iter().chain(&overheads).sum::<u64>() > length {
                prop_assert!(got.idle <= 1);
            }
        }
    }
}
