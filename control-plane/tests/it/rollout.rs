//! A rollout as a sidecar lives it: splits and leases come in, windows with lanes and probes go out, on a clock that the test moves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use akidb_control_plane::clock::Clock;
use akidb_control_plane::config::Config;
use akidb_domain::snapshot::TrafficSplit;
use akidb_proto::v1::{self, watch_request, watch_response};
use serde_json::{Value, json};

use crate::app::TestApp;
use crate::bundle::Bundle;
use crate::sidecar::{BOOT_NS, PATIENCE, SECOND, Sidecar, Stream, window};

/// Model of these tests.
pub(crate) const MODEL: &str = "m";
/// Length of a look, s.
pub(crate) const LOOK: u64 = 10;

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(BOOT_NS + 5 * SECOND)))
    }

    pub(crate) fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds * SECOND, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A control plane on that clock, with fp32 served and int8 beside it.
pub(crate) fn app(clock: &Arc<HandClock>) -> TestApp {
    app_with(clock, |_| {})
}

pub(crate) fn app_with(clock: &Arc<HandClock>, change: impl FnOnce(&mut Config)) -> TestApp {
    let app = TestApp::at(clock.clone(), |config| {
        config.experiments.tick = Duration::from_millis(10);
        config.experiments.look = Duration::from_secs(LOOK);
        change(config);
    });
    import(&app, MODEL);
    app
}

/// Imports a model's fp32 and int8; answers the digest of the latter.
pub(crate) fn import(app: &TestApp, model: &str) -> String {
    let write = |bundle: &Bundle| {
        let folder = app.folder.path().join(format!("{model}-{}", bundle.variant));
        bundle.write(Path::new(&folder));
        app.import_folder(&folder)["digest"].as_str().unwrap().to_owned()
    };
    let root = write(&Bundle::new(model, "fp32"));
    write(&Bundle::int8(model, &root, 0.997))
}

/// A plan that a few looks of the traffic below decide.
pub(crate) fn plan(id: &str) -> Value {
    json!({
        "id": id, "model": MODEL, "canary": "int8", "force": true,
        "config": {"margins": {"errors": 0.02}, "min_probes": 200, "phases": [
            {"share_ppm": 50_000, "duration_ms": 600_000, "min_canary_requests": 100, "alpha_weight": 16.0},
            {"share_ppm": 250_000, "duration_ms": 600_000, "min_canary_requests": 100},
            {"share_ppm": 500_000, "duration_ms": 600_000, "min_canary_requests": 100},
            {"share_ppm": 950_000, "duration_ms": 600_000, "min_canary_requests": 100, "alpha_weight": 2.0}
        ]}
    })
}

/// Creates and starts it.
pub(crate) fn start(app: &TestApp, id: &str) {
    app.post("experiments", &plan(id));
    app.call("POST", &format!("experiments/{id}/start"), None).expect(200);
}

/// What the canary is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Canary {
    pub(crate) ratio: f64,
    pub(crate) errors: u64,
    pub(crate) latency_ms: f64,
    pub(crate) cosine: f64,
    pub(crate) probes: u64,
}

/// No different from the baseline.
pub(crate) const EQUAL: Canary = Canary { ratio: 1.0, errors: 0, latency_ms: 5.0, cosine: 0.9999, probes: 30 };

/// A sidecar that takes part.
pub(crate) struct Part<'a> {
    pub(crate) clock: Arc<HandClock>,
    pub(crate) sidecar: Sidecar<'a>,
    pub(crate) stream: Stream<'a>,
    pub(crate) split: Option<v1::Split>,
    pub(crate) leases: Vec<v1::Lease>,
    sequence: u64,
    noise: u64,
}

impl<'a> Part<'a> {
    /// Connects, and has the canary ready.
    pub(crate) fn join(app: &'a TestApp, clock: &Arc<HandClock>, id: &str, boot: &str) -> Self {
        let mut part = Self::connect(app, clock, id, boot, 0);
        part.follow();
        part.canary(v1::artifact_status::State::Ready, "");
        part
    }

    /// Connects; `sequence` is that of the last window already sent.
    pub(crate) fn connect(app: &'a TestApp, clock: &Arc<HandClock>, id: &str, boot: &str, sequence: u64) -> Self {
        let sidecar = Sidecar::new(app, id, boot);
        let mut stream = sidecar.watch().unwrap();
        stream.welcome();
        let (clock, split, leases) = (clock.clone(), None, Vec::new());
        Self { clock, sidecar, stream, split, leases, sequence, noise: 1 }
    }

    /// Windows sent.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Takes what comes until it has the split that the control plane has by now, and acknowledges the newest snapshot.
    pub(crate) fn follow(&mut self) {
        let (mut version, deadline) = (None, Instant::now() + PATIENCE);
        loop {
            while let Some(message) = self.stream.try_next(Duration::from_millis(60)) {
                match message.unwrap() {
                    watch_response::Message::Snapshot(it) => {
                        self.split = it.splits.first().cloned();
                        version = it.version;
                    }
                    watch_response::Message::Lease(it) => self.leases.push(it),
                    watch_response::Message::Welcome(_) => panic!("welcome twice"),
                }
            }
            let newest = &self.sidecar.app.get("snapshot")["splits"][0];
            let newest = (!newest.is_null()).then(|| serde_json::from_value::<TrafficSplit>(newest.clone()).unwrap());
            if newest.map(v1::Split::from) == self.split {
                break;
            }
            assert!(Instant::now() < deadline, "this split never changed: {:?}", self.split);
        }
        if let Some(it) = version {
            self.stream.send(watch_request::Message::Ack(v1::Ack { version }));
            self.until("the acknowledgement", |seen| seen["active_snapshot"] == json!({"epoch": it.epoch, "n": it.n}));
        }
    }

    /// Waits until the control plane has taken what was said on the stream.
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.sidecar.app.get(&format!("sidecars/{}", self.sidecar.id));
            if holds(&seen) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {seen}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a lease has come.
    pub(crate) fn leased(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.leases.is_empty() {
            assert!(Instant::now() < deadline, "no lease within a minute");
            self.follow();
        }
    }

    /// Says what becomes of the canary here.
    pub(crate) fn canary(&self, state: v1::artifact_status::State, reason: &str) {
        let status = v1::ArtifactStatus {
            digest: "ab".repeat(32),
            model: MODEL.into(),
            version: "1".into(),
            variant: "int8".into(),
            state: state.into(),
            reason: reason.into(),
            ..v1::ArtifactStatus::default()
        };
        let told = [("state", if state == v1::artifact_status::State::Failed { "failed" } else { "ready" }), ("reason", reason)];
        self.stream.send(watch_request::Message::Artifact(status));
        self.until("the canary's state", |seen| told.iter().all(|(key, value)| seen["artifacts"][0][key] == *value));
    }

    /// Serves so many seconds and reports them; the clock goes along.
    pub(crate) fn serve(&mut self, seconds: u64, canary: Canary) {
        for _ in 0..seconds {
            let window = self.window(canary);
            self.clock.forward(1);
            self.sidecar.report(vec![window], 0).unwrap();
        }
    }

    /// A second of it, not sent yet.
    pub(crate) fn window(&mut self, canary: Canary) -> v1::Window {
        self.sequence += 1;
        let start_ns = self.clock.now_ns();
        let mut window = v1::Window { start_ns, end_ns: start_ns + SECOND, ..window(self.sequence, 0) };
        window.lanes.clear();
        let Some(split) = self.split.clone() else { return window };
        let control = u64::from(split.control_ppm > 0);
        let lanes: &[(&str, u64)] = match split.canary_ppm {
            500_000 => &[("canary", 200), ("baseline", 200)],
            950_000 => &[("canary-sample", 200), ("canary", 3_600), ("baseline", 200)],
            250_000 => &[("canary", 200), ("control", 200), ("baseline", 400)],
            _ => &[("canary", 200), ("control", 200), ("baseline", 3_600)],
        };
        assert_eq!(control, u64::from(split.canary_ppm < 500_000), "{split:?}");
        window.lanes = lanes.iter().map(|(arm, n)| self.lane(&split, arm, *n, canary)).collect();
        window.probes = if split.probe.is_some() { self.probes(&split, start_ns, canary) } else { Vec::new() };
        window
    }

    fn lane(&mut self, split: &v1::Split, arm: &str, requests: u64, canary: Canary) -> v1::LaneUsage {
        let tried = arm.starts_with("canary");
        let (errors, latency_ms) = if tried { (canary.errors, canary.latency_ms) } else { (0, 5.0) };
        let variant = if tried { &split.canary } else { &split.baseline }.clone().unwrap().variant;
        let spread = 0.9 + 0.2 * self.chance();
        v1::LaneUsage {
            lane: Some(v1::Lane {
                model: MODEL.into(),
                version: "1".into(),
                precision: variant.clone(),
                variant,
                arm: arm.into(),
                experiment: split.experiment.clone(),
                phase: split.phase,
                provider: "cpu".into(),
                ..v1::Lane::default()
            }),
            requests: requests - errors,
            texts: requests,
            tokens: requests,
            padded_tokens: requests,
            batches: 1,
            errors: if errors > 0 { vec![v1::ErrorCount { code: "engine_failed".into(), count: errors }] } else { Vec::new() },
            latency_by_length: (0..4).map(|_| sketch(latency_ms * spread, requests / 4)).collect(),
            units: requests,
            first_requests: requests,
            first_failures: errors,
            first_exceedances: requests / 20,
            late_failures: errors,
            ..v1::LaneUsage::default()
        }
    }

    fn probes(&mut self, split: &v1::Split, start_ns: u64, canary: Canary) -> Vec<v1::ProbeResult> {
        let probe = |n: u64, chance: f64| v1::ProbeResult {
            experiment: split.experiment.clone(),
            phase: split.phase,
            at_ns: start_ns + n,
            canary_ns: (8e6 * canary.ratio * (0.97 + 0.06 * chance)) as u64,
            baseline_ns: 8_000_000,
            cosine: canary.cosine,
            recall: 0.99,
            texts: 8,
            tokens: 80,
            canary_first: n.is_multiple_of(2),
        };
        (0..canary.probes).map(|n| probe(n, self.chance())).collect()
    }

    /// Uniform in 0..1, the same in every run.
    fn chance(&mut self) -> f64 {
        self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Requests around one latency.
fn sketch(ms: f64, count: u64) -> v1::Sketch {
    let mut sketch = akidb_domain::sketch::Sketch::default();
    (0..count).for_each(|n| sketch.record((ms * 1e6 * (0.8 + 0.4 * n as f64 / count as f64)) as u64));
    (&sketch).into()
}

/// The experiment now.
pub(crate) fn experiment(app: &TestApp, id: &str) -> Value {
    app.get(&format!("experiments/{id}"))
}

/// Waits until something holds of an experiment, and answers it.
pub(crate) fn until(app: &TestApp, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let it = experiment(app, id);
        if holds(&it) {
            return it;
        }
        assert!(Instant::now() < deadline, "{what}: {it}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the sidecars are known to follow.
pub(crate) fn settled(app: &TestApp, id: &str) {
    until(app, id, "sidecars that follow", |it| it["reason"].as_str().unwrap().ends_with(": looking"));
}
