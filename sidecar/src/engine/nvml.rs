//! What the driver measures of GPUs, through NVML. `libnvidia-ml.so.1` comes with the driver and is looked for when it is first needed.
//!
//! Enters: GPUs by their UUID. Leaves: readings. Never: a failure; what a GPU does not measure (much of it, on a Jetson) is left out.

use std::sync::OnceLock;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::Clock;

use crate::metrics::GpuReading;

static NVML: OnceLock<Option<Nvml>> = OnceLock::new();

/// Reads a GPU; none without NVML or the GPU.
pub fn read(uuid: &str) -> Option<GpuReading> {
    let device = nvml()?.device_by_uuid(uuid).ok()?;
    let memory = device.memory_info().ok();
    Some(GpuReading {
        duty_cycle: device.utilization_rates().ok().map(|it| it.gpu),
        memory_used_bytes: memory.as_ref().map(|it| it.used),
        memory_bytes: memory.as_ref().map(|it| it.total),
        power_milliwatts: device.power_usage().ok(),
        energy_millijoules: device.total_energy_consumption().ok(),
        sm_clock_mhz: device.clock_info(Clock::SM).ok(),
        memory_clock_mhz: device.clock_info(Clock::Memory).ok(),
        throttle_reasons: device.current_throttle_reasons().ok().map(|it| it.bits()),
    })
}

/// What a GPU has drawn since its driver was loaded; none where nothing measures it.
pub fn energy_millijoules(uuid: &str) -> Option<u64> {
    nvml()?.device_by_uuid(uuid).ok()?.total_energy_consumption().ok()
}

/// The driver's version.
pub(super) fn driver_version() -> Option<String> {
    nvml()?.sys_driver_version().ok()
}

fn nvml() -> Option<&'static Nvml> {
    NVML.get_or_init(|| Nvml::init().inspect_err(|error| tracing::debug!(%error, "NVML cannot be used")).ok()).as_ref()
}
