//! Energy of a window: what of it is its sidecar's, and how it divides, in integer millijoules.
//!
//! Enters: a window. Leaves: millijoules whose parts sum to the window's exactly, or none where nothing was measured; joules of a request.
//! Never: a price.
//!
//! What is measured is of whole devices. A sidecar that occupies a share of them is charged `E(c2) - E(c1)` with `E(c) = floor(share x c)`, c being
//! what they drew since its boot, so that windows add up without rounding, as spend does ([`cost`]). It divides as spend does, by device time: in a window that
//! is idle in part, a request is charged the window's mean power, not that of a device at work.

use crate::cost::{self, Division, WHOLE_DEVICE_PPM};
use crate::window::{DeviceUsage, Window};

/// What a sidecar is charged of what its devices drew.
pub fn charged(device: &DeviceUsage) -> Option<i128> {
    let drawn = device.energy_millijoules?;
    let until = |whole: u64| i128::from(whole) * i128::from(device.share_ppm) / i128::from(WHOLE_DEVICE_PPM);
    let total = device.cumulative_energy_millijoules;
    Some(until(total) - until(total.saturating_sub(drawn)))
}

/// A window's energy by lane and overhead, in their order, and the rest.
pub fn divide(window: &Window) -> Option<Division> {
    let lane_ns: Vec<u64> = window.lanes.iter().map(|it| it.engine_ns).collect();
    let overhead_ns: Vec<u64> = window.device.overheads.iter().map(|it| it.device_ns).collect();
    Some(cost::divide(charged(&window.device)?, window.device_ns(), &lane_ns, &overhead_ns))
}

/// Mean of so many millijoules over requests, in joules; none without a request.
pub fn joules_per_request(millijoules: i128, requests: u64) -> Option<f64> {
    (requests > 0).then(|| millijoules as f64 / 1e3 / requests as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_add_up_to_what_the_share_of_all_is(share_ppm in 1..=WHOLE_DEVICE_PPM, drawn in prop::collection::vec(prop::option::of(0..10_000_000u64), 1..50)) {
            let (mut total, mut sum) = (0, 0);
            for drawn in drawn {
                total += drawn.unwrap_or(0);
                let (energy_millijoules, cumulative_energy_millijoules) = (drawn, total);
                let got = charged(&DeviceUsage { share_ppm, energy_millijoules, cumulative_energy_millijoules, ..DeviceUsage::default() });
                prop_assert_eq!(got.is_some(), drawn.is_some());
                sum += got.unwrap_or(0);
            }
            prop_assert_eq!(sum, i128::from(total) * i128::from(share_ppm) / 1_000_000);
        }
    }

    #[test]
    fn a_request_draws_its_part() {
        assert_eq!(joules_per_request(3_000, 2), Some(1.5));
        assert_eq!(joules_per_request(0, 0), None);
    }
}
