//! From counters to windows on disk, through the task.

use std::time::Instant;

use akidb_proto::v1;

use super::super::aggregate::tests::lane;
use super::super::energy::Reading;
use super::super::{BatchDone, Consumer, RequestDone};
use super::*;

struct Bench {
    energy: Energy,
    metrics: Metrics,
    telemetry: Telemetry,
    recorder: Recorder,
    spool: Spool,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// Two GPUs, half of each, whose counters stand at 1,000 and 5,000 mJ.
    fn start() -> Self {
        let (folder, clock, metrics, energy) = (tempfile::tempdir().unwrap(), Clock::start(), Metrics::new().unwrap(), Energy::default());
        energy.set(Some(Reading { at: Instant::now(), millijoules: vec![1_000, 5_000] }));
        let spool = Spool::start(folder.path(), 1 << 20, ("boot", clock.boot_unix_ns()), metrics.clone()).unwrap();
        let device = Device { sku: "h".into(), region: "r".into(), uuid: "GPU-a".into(), share_ppm: 500_000, count: 2 };
        let (leases, at_spool) = (Leases::default(), spool.clone());
        let parts = Parts { device, spool: at_spool, metrics: metrics.clone(), clock, leases, energy: energy.clone() };
        let (telemetry, observations) = Telemetry::channel(clock);
        let (recorder, _task) = Recorder::start(parts, telemetry.clone(), observations);
        Self { energy, metrics, telemetry, recorder, spool, _folder: folder }
    }

    /// A batch on each device, a request, what the counters say then, and a cut.
    async fn work(&self, millijoules: Option<[u64; 2]>) {
        let from = Instant::now();
        tokio::time::sleep(Duration::from_millis(5)).await;
        for worker in 0..2 {
            let to = Instant::now();
            let (lane, tokens, padded_tokens) = (lane("fp8"), 1, 1);
            self.telemetry.observe(Observation::BatchFinished(BatchDone { worker, lane, from, to, tokens, padded_tokens }));
        }
        let (consumer, unit, error) = (Consumer::default(), None, None);
        let (texts, tokens, longest, truncated, latency, queue) = (1, 1, 1, 0, Duration::ZERO, Duration::ZERO);
        self.telemetry.observe(Observation::Request(RequestDone {
            lane: lane("fp8"),
            consumer,
            unit,
            texts,
            tokens,
            longest,
            truncated,
            latency,
            queue,
            error,
        }));
        self.energy.set(millijoules.map(|it| Reading { at: Instant::now(), millijoules: it.to_vec() }));
        self.recorder.follow(&Snapshot::default()).await;
    }

    async fn windows(&self) -> Vec<v1::Window> {
        self.spool.flush().await;
        self.spool.pending(64).await.unwrap().windows
    }
}

#[tokio::test]
async fn a_window_carries_what_two_devices_drew_until_its_cut() {
    let bench = Bench::start();
    bench.work(Some([1_300, 5_100])).await;
    bench.work(None).await;
    bench.work(Some([9_000, 9_000])).await;
    bench.work(Some([9_001, 9_099])).await;
    // The driver was loaded anew under one of them.
    bench.work(Some([40, 9_100])).await;
    bench.energy.set(Some(Reading { at: Instant::now(), millijoules: vec![50, 9_100] }));
    bench.recorder.close().await;
    let windows = bench.windows().await;
    let device = |it: &v1::Window| it.device.clone().unwrap();
    let drawn: Vec<_> = windows.iter().map(|it| device(it).energy_millijoules).collect();
    assert_eq!(drawn, [Some(400), None, None, Some(100), None, Some(10)]);
    let totals: Vec<_> = windows.iter().map(|it| device(it).cumulative_energy_millijoules).collect();
    assert_eq!(totals, [400, 400, 400, 500, 500, 510]);
    for window in &windows {
        let it = device(window);
        assert_eq!((it.devices, it.share_ppm), (Some(2), 500_000));
        assert!(it.busy_ns <= 2 * (window.end_ns - window.start_ns), "{it:?}");
    }
    let report = bench.telemetry.cost();
    // Half of 510 mJ, to the millijoule; of five requests, those in the first and the fourth window.
    assert_eq!(report.total_energy_millijoules.unwrap() + report.idle_energy_millijoules.unwrap(), 255);
    assert_eq!((report.requests, report.unmeasured_requests, report.unpriced_requests), (5, 3, 5));
    let each = report.energy_joules.unwrap();
    assert!(each > 0.0 && each <= 0.125, "{each}");
    let text = bench.metrics.render().unwrap();
    let shown = text.lines().find(|it| it.starts_with("akidb_engine_energy_joules_total{model=\"m\",model_version=\"fp8\"}")).unwrap();
    assert!((shown.split(' ').next_back().unwrap().parse::<f64>().unwrap() - 2.0 * each).abs() < 1e-9, "{shown}");
}
