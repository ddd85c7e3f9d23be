//! The task that reads GPUs. Enters: GPUs. Leaves: their figures on `/metrics`, what those that serve have drawn for the windows. Never: a thread of
//! the server held up; the driver is asked on a thread that may block.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::engine::device::Gpu;
use crate::engine::nvml;
use crate::metrics::Metrics;
use crate::models::Machine;
use crate::telemetry::Energy;
use crate::telemetry::energy::Reading;

/// Windows take the newest reading of energy: what one is late by is in the next window.
const EVERY: Duration = Duration::from_millis(100);
/// All else is read once in so many times: the driver's own samples are about a second long.
const SELDOM: usize = 10;

/// What is read, and who is told.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    gpus: Vec<Gpu>,
    /// UUIDs of those that serve.
    serving: Vec<String>,
    metrics: Metrics,
    energy: Energy,
}

impl Watch {
    /// Reads energy once, so that the first window has a beginning.
    pub(super) fn start(machine: &Machine, metrics: Metrics, energy: Energy) -> Self {
        let serving = machine.gpus().into_iter().map(|it| it.uuid.clone()).collect();
        let watch = Self { gpus: machine.facts.gpus.clone(), serving, metrics, energy };
        watch.read_energy();
        watch
    }

    /// Reads every GPU until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        for turn in 1.. {
            if self.gpus.is_empty() || stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                return;
            }
            let it = self.clone();
            let read = move || {
                it.read_energy();
                if turn % SELDOM == 0 {
                    it.read();
                }
            };
            if let Err(error) = tokio::task::spawn_blocking(read).await {
                tracing::warn!(%error, "the GPUs cannot be read");
            }
        }
    }

    fn read_energy(&self) {
        let millijoules: Option<Vec<u64>> = self.serving.iter().map(|it| nvml::energy_millijoules(it)).collect();
        self.energy.set(millijoules.filter(|it| !it.is_empty()).map(|millijoules| Reading { at: Instant::now(), millijoules }));
    }

    fn read(&self) {
        for gpu in &self.gpus {
            if let Some(reading) = nvml::read(&gpu.uuid) {
                self.metrics.set_gpu(gpu.index, &reading);
            }
        }
    }
}
