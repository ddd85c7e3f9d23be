//! The task that reads GPUs. Enters: GPUs. Leaves: their figures on `/metrics`. Never: a thread of the server held up; the driver is asked on
//! a thread that may block.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::engine::device::Gpu;
use crate::engine::nvml;
use crate::metrics::Metrics;

/// The driver's own samples are about as long.
const EVERY: Duration = Duration::from_secs(1);

/// Reads every GPU until `stop`.
pub(super) fn watch(gpus: Vec<Gpu>, metrics: Metrics, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        while !gpus.is_empty() && stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let (seen, metrics) = (gpus.clone(), metrics.clone());
            let read = move || {
                for gpu in &seen {
                    if let Some(reading) = nvml::read(&gpu.uuid) {
                        metrics.set_gpu(gpu.index, &reading);
                    }
                }
            };
            if let Err(error) = tokio::task::spawn_blocking(read).await {
                tracing::warn!(%error, "the GPUs cannot be read");
            }
        }
    })
}
