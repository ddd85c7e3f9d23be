//! What the driver measures of GPUs, through NVML. `libnvidia-ml.so.1` comes with the driver and is looked for when it is first needed.
//!
//! Enters: GPUs by their UUID. Leaves: readings. Never: a failure; what a GPU does not measure (much of it, on a Jetson) is left out.

use std::sync::OnceLock;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;

static NVML: OnceLock<Option<Nvml>> = OnceLock::new();

/// One GPU at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Part of the last sample in which a kernel ran, 0 to 100.
    pub duty_cycle: Option<u32>,
    /// Memory in use.
    pub memory_used_bytes: Option<u64>,
    /// Memory in all.
    pub memory_total_bytes: Option<u64>,
    /// Power drawn.
    pub power_milliwatts: Option<u32>,
    /// Energy drawn since the driver was loaded.
    pub energy_millijoules: Option<u64>,
    /// Clock of the multiprocessors.
    pub sm_clock_mhz: Option<u32>,
    /// Clock of the memory.
    pub memory_clock_mhz: Option<u32>,
    /// Why clocks are lower than they could be: NVML's bits (`nvmlClocksThrottleReason*`).
    pub throttle_reasons: Option<u64>,
}

/// Reads a GPU; none without NVML or the GPU.
pub fn read(uuid: &str) -> Option<Reading> {
    let device = nvml()?.device_by_uuid(uuid).ok()?;
    let memory = device.memory_info().ok();
    Some(Reading {
        duty_cycle: device.utilization_rates().ok().map(|it| it.gpu),
        memory_used_bytes: memory.as_ref().map(|it| it.used),
        memory_total_bytes: memory.as_ref().map(|it| it.total),
        power_milliwatts: device.power_usage().ok(),
        energy_millijoules: device.total_energy_consumption().ok(),
        sm_clock_mhz: device.clock_info(Clock::SM).ok(),
        memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
        throttle_reasons: device.current_throttle_reasons().ok().map(|it| it.bits()),
    })
}

/// The driver's version.
pub(super) fn driver_version() -> Option<String> {
    nvml()?.sys_driver_version().ok()
}

fn nvml() -> Option<&'static Nvml> {
    NVML.get_or_init(|| Nvml::init().inspect_err(|error| tracing::debug!(%error, "NVML cannot be used")).ok()).as_ref()
}
