//! An experiment on real engines, told by a control plane that speaks the real protocol: arms, leases, windows and paired probes.

use std::time::{Duration, Instant};

use akidb_domain::bundle::Manifest;
use akidb_domain::sketch::Sketch;
use akidb_domain::snapshot::{ProbeBudget, ServedVariant};
use akidb_domain::vocabulary::{Arm, ExecutionProvider};
use akidb_domain::window::{LaneUsage, ProbeResult, Window};
use akidb_proto::v1;
use akidb_proto::v1::watch_response::Message as Out;
use akidb_sidecar::engine::{EngineSpec, GpuSpec, TokenBatch, onnx};
use akidb_sidecar::tokenizer::{Tokenizer, TokenizerPool};
use serde_json::{Value, json};

use super::link::linked;
use super::plane::Plane;
use super::told::{EXPERIMENT, experiment, variant};
use super::{Bundle, Sidecar};

/// Probes that a test waits for.
const PROBES: usize = 12;

/// Sentences, none like another.
fn texts(round: usize) -> Vec<String> {
    let who = ["A baker", "The surgeon", "My neighbour", "An astronaut", "Their lawyer", "A goat", "The orchestra", "Some tax official"];
    let does = ["repairs", "forgets", "sells", "paints", "measures", "photographs", "buries", "translates", "eats"];
    let what =
        ["bicycles", "a violin", "old maps", "the contract", "seven melons", "a glacier", "neural networks", "wool", "the moon", "debt"];
    let at = |i: usize| format!("{} {} {} (note {i}).", who[i % 8], does[i / 8 % 9], what[i / 72 % 10]);
    (round * 4..round * 4 + 4).map(|i| at(i * 7)).collect()
}

struct Running {
    folder: tempfile::TempDir,
    plane: Plane,
    sidecar: Sidecar,
    rounds: usize,
}

impl Running {
    async fn start(canary: ServedVariant) -> Self {
        let (folder, plane, port) = (tempfile::tempdir().unwrap(), Plane::default(), akidb_testkit::free_port());
        let name = canary.name.clone();
        plane.say(Out::Snapshot(experiment(1, canary).into())).await;
        plane.listen(port).await;
        let sidecar = Sidecar::start(linked(folder.path(), port), None).await.unwrap();
        sidecar.ready("fp32").await;
        sidecar.ready(&name).await;
        Self { folder, plane, sidecar, rounds: 0 }
    }

    /// Says that the canary may go on for so long, and waits until the sidecar knows.
    async fn lease(&self, ttl_ms: u64, holds: bool) {
        self.plane.say(Out::Lease(v1::Lease { experiment: EXPERIMENT.into(), ttl_ms })).await;
        for _ in 0..6_000 {
            if self.sidecar.state.leases.holds(EXPERIMENT) == holds {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the lease is not as it was said to be");
    }

    async fn embed(&mut self) -> String {
        let (status, body) = self.sidecar.embed(json!({ "texts": texts(self.rounds), "timeout_ms": 300_000 })).await;
        self.rounds += 1;
        assert_eq!(status, 200, "{body}");
        body["variant"].as_str().unwrap().to_owned()
    }

    fn windows(&self) -> Vec<Window> {
        let wire = self.plane.with(|it| it.windows.values().flat_map(|it| it.values().cloned()).collect::<Vec<_>>());
        wire.into_iter().map(|it| Window::try_from(it).unwrap()).collect()
    }

    fn probes(&self) -> Vec<ProbeResult> {
        self.windows().into_iter().flat_map(|it| it.probes).collect()
    }

    /// Sends requests until enough probes were reported, and what else is waited for.
    async fn probe(&mut self, enough: impl Fn(&[Window]) -> bool) -> Vec<ProbeResult> {
        let until = Instant::now() + Duration::from_secs(300);
        while self.probes().len() < PROBES || !enough(&self.windows()) {
            assert!(Instant::now() < until, "{:?}, {}", self.probes(), self.metrics());
            self.embed().await;
        }
        self.probes()
    }

    fn metrics(&self) -> String {
        let text = self.sidecar.state.metrics.render().unwrap();
        text.lines().filter(|it| it.starts_with("akidb_probes_total")).collect::<Vec<_>>().join(" ")
    }
}

fn lanes(windows: &[Window], arm: Arm) -> Vec<LaneUsage> {
    let lanes = windows.iter().flat_map(|it| it.lanes.clone());
    lanes.filter(|it| it.lane.experiment == EXPERIMENT && it.lane.arm == arm).collect()
}

fn sum(lanes: &[LaneUsage], of: impl Fn(&LaneUsage) -> u64) -> u64 {
    lanes.iter().map(of).sum()
}

fn mean(probes: &[ProbeResult], of: impl Fn(&ProbeResult) -> f64) -> f64 {
    probes.iter().map(of).sum::<f64>() / probes.len() as f64
}

/// Engine time of the canary by that of the baseline, of all probes together.
fn time_ratio(probes: &[ProbeResult]) -> f64 {
    mean(probes, |it| it.canary_ns as f64) / mean(probes, |it| it.baseline_ns as f64)
}

#[tokio::test(flavor = "multi_thread")]
async fn arms_windows_and_leases_of_an_experiment_between_equals() {
    let folder = tempfile::tempdir().unwrap();
    let twin = Bundle::twin(&folder.path().join("twin"), "all-MiniLM-L6-v2", 1);
    let mut running = Running::start(variant(&twin.folder, "twin")).await;
    for _ in 0..10 {
        assert_eq!(running.embed().await, "fp32", "nobody has renewed the lease");
    }
    running.lease(600_000, true).await;
    // Their order is drawn, and the first window with probes may have begun before the lease.
    let whole = |it: &Window| it.lease_gaps.is_empty() && !it.probes.is_empty();
    let both = |windows: &[Window]| [true, false].map(|first| windows.iter().flat_map(|it| &it.probes).any(|it| it.canary_first == first));
    let probes = running.probe(|windows| both(windows) == [true; 2] && windows.iter().any(whole)).await;
    assert!(probes.iter().all(|it| it.experiment == EXPERIMENT && it.phase == 2 && it.cosine > 0.9999), "{probes:?}");
    assert!(mean(&probes, |it| it.recall) > 0.99, "{probes:?}");
    assert!(probes.iter().all(|it| it.tokens >= 3 * it.texts && it.at_ns > 0));
    println!("time ratio of equals: {:.3}", time_ratio(&probes));

    // The control plane falls silent.
    running.lease(1, false).await;
    let last_canary = running.rounds;
    for _ in 0..10 {
        assert_eq!(running.embed().await, "fp32");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    running.lease(600_000, true).await;
    let mut served = Vec::new();
    for _ in 0..20 {
        served.push(running.embed().await);
    }
    assert!(served.iter().any(|it| it == "twin"), "it resumes: {served:?}");
    let (rounds, plane) = (running.rounds, running.plane.clone());
    let Running { folder: state, sidecar, .. } = running;
    sidecar.stop().await;
    drop(state);

    let wire = plane.with(|it| it.windows.values().flat_map(|it| it.values().cloned()).collect::<Vec<_>>());
    let windows: Vec<Window> = wire.into_iter().map(|it| Window::try_from(it).unwrap()).collect();
    let (canary, control, rest) = (lanes(&windows, Arm::Canary), lanes(&windows, Arm::Control), lanes(&windows, Arm::Baseline));
    assert!(canary.iter().all(|it| it.lane.variant == "twin" && it.lane.phase == 2 && !it.lane.fallback));
    assert!(control.iter().chain(&rest).all(|it| it.lane.variant == "fp32"));
    for lanes in [&canary, &control, &rest] {
        assert!(sum(lanes, |it| it.requests) > 0 && sum(lanes, |it| it.units) == sum(lanes, |it| it.requests));
        assert_eq!(sum(lanes, |it| it.latency_by_length.iter().map(Sketch::count).sum()), sum(lanes, |it| it.requests));
        assert_eq!(sum(lanes, |it| it.late_failures + it.first_requests), 0);
    }
    let inside = [&canary, &control, &rest].iter().map(|it| sum(it, |it| it.requests)).sum::<u64>();
    assert_eq!(rounds as u64 - inside, 20, "ten before the first lease and ten in the gap are outside; {last_canary} rounds before it");
    let gaps: Vec<_> = windows.iter().flat_map(|it| &it.lease_gaps).collect();
    assert!(gaps.iter().all(|it| it.experiment == EXPERIMENT && it.phase == 2));
    assert!(gaps.iter().map(|it| it.ns).sum::<u64>() >= 300_000_000, "{gaps:?}");

    let spent = |windows: &[Window]| {
        let all = windows.iter().flat_map(|it| it.device.overheads.clone());
        all.filter(|it| it.cause == "probe" && it.experiment == EXPERIMENT && it.variant == "twin").map(|it| it.device_ns).sum::<u64>()
    };
    let (probing, engines) = (spent(&windows), probes.iter().map(|it| it.canary_ns + it.baseline_ns).sum::<u64>());
    assert!(probing >= engines, "{probing} ns booked for {engines} ns of engines");
    let elapsed = windows.last().unwrap().end_ns - windows[0].start_ns;
    // A probe that had to wait for a core costs what it costs; the budget pays for it afterwards.
    let dearest = windows.iter().map(|it| spent(std::slice::from_ref(it))).max().unwrap();
    assert!(((probing - dearest) as f64) < 0.45 * elapsed as f64, "{probing} of {elapsed}, {dearest} in one window");
}

/// Takes what a text says away in the fourth layer, and seals the result as its own reference: digests and parity are in order, the vectors are
/// wrong.
async fn gut(bundle: &Bundle) {
    let path = bundle.folder.join("model.onnx");
    let mut graph = std::fs::read(&path).unwrap();
    // A tensor's name, then its field 9: 384 floats.
    let tensor = b"encoder.layer.3.attention.output.LayerNorm.weight\x4a\x80\x0c";
    let at = graph.windows(tensor.len()).position(|it| it == tensor).expect("the tensor") + tensor.len();
    graph[at..at + 384 * 4].fill(0);
    std::fs::write(&path, graph).unwrap();
    bundle.reseal("model.onnx");

    let manifest = Manifest::parse(bundle.manifest().to_string().as_bytes()).unwrap();
    let (graph, dimension, provider) = (manifest.graph, manifest.model.dimension as usize, ExecutionProvider::Cpu);
    let mut engine = onnx::load(&EngineSpec { path, graph, dimension, provider, threads: 1, gpu: GpuSpec::default() }).unwrap();
    let pool = TokenizerPool::start(1).unwrap();
    let tokenizer = Tokenizer::load(&bundle.folder.join("tokenizer.json"), manifest.model.max_tokens, &pool).unwrap();
    let file = bundle.folder.join("reference.json");
    let mut reference: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let texts: Vec<String> = reference["texts"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect();
    let encoded = tokenizer.encode(texts, true).await.unwrap();
    let mut vector = |ids: &[u32]| {
        let ids: Vec<i64> = ids.iter().map(|it| i64::from(*it)).collect();
        engine.run(&TokenBatch { rows: 1, tokens: ids.len(), mask: vec![1; ids.len()], ids }).unwrap()
    };
    reference["vectors"] = encoded.iter().map(|it| json!(vector(&it.ids))).collect();
    std::fs::write(file, reference.to_string()).unwrap();
    bundle.reseal("reference.json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_with_wrong_vectors_shows_in_its_probes() {
    akidb_sidecar::engine::onnx::Runtime::init(&akidb_testkit::onnxruntime()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::copy(&folder.path().join("gutted"));
    gut(&bundle).await;
    let mut running = Running::start(variant(&bundle.folder, "gutted")).await;
    running.lease(600_000, true).await;
    let probes = running.probe(|_| true).await;
    let (cosine, recall) = (mean(&probes, |it| it.cosine), mean(&probes, |it| it.recall));
    println!("wrong vectors: cosine {cosine:.3}, recall {recall:.3}, time ratio {:.3}", time_ratio(&probes));
    assert!(cosine < 0.6 && recall < 0.3, "cosine {cosine}, recall {recall}");
    running.sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs `make models MODELS=minilm`"]
async fn an_int8_canary_is_faster_close_and_finds_the_same_neighbours() {
    let folder = akidb_testkit::root().join("build/bundles/all-MiniLM-L6-v2-int8");
    assert!(folder.join("manifest.json").is_file(), "{} is missing: run `make models MODELS=minilm`", folder.display());
    let mut running = Running::start(variant(&folder, "int8")).await;
    running.lease(600_000, true).await;
    let probes = running.probe(|_| true).await;
    let (cosine, recall) = (mean(&probes, |it| it.cosine), mean(&probes, |it| it.recall));
    println!("int8: cosine {cosine:.4}, recall {recall:.3}, time ratio {:.3}", time_ratio(&probes));
    assert!(cosine > 0.99 && recall > 0.85, "cosine {cosine}, recall {recall}");
    assert!(time_ratio(&probes) < 0.9, "{}", time_ratio(&probes));
    running.sidecar.stop().await;
}

/// Mean latency of a lane in a window, ms; none where few requests say little.
fn latency(window: &Window, arm: Arm) -> Option<f64> {
    let lanes = lanes(std::slice::from_ref(window), arm);
    let requests = sum(&lanes, |it| it.requests);
    (requests >= 5).then(|| sum(&lanes, |it| it.latency.sum_ns) as f64 / requests as f64 / 1e6)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "loads the machine for two minutes"]
async fn a_loaded_sidecar_treats_canary_and_control_alike_over_100_windows() {
    let folder = tempfile::tempdir().unwrap();
    let twin = Bundle::twin(&folder.path().join("twin"), "all-MiniLM-L6-v2", 2);
    let mut canary = variant(&twin.folder, "twin");
    canary.hold = false;
    let running = Running::start(canary).await;
    let mut second = experiment(2, variant(&twin.folder, "twin"));
    (second.splits[0].canary_ppm, second.splits[0].control_ppm) = (300_000, 300_000);
    second.splits[0].probe = Some(ProbeBudget::default());
    running.plane.say(Out::Snapshot(second.into())).await;
    running.lease(600_000, true).await;
    let (base, until) = (running.sidecar.base.clone(), Instant::now() + Duration::from_secs(115));
    let client = move |number: usize| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        for round in 0.. {
            if Instant::now() > until {
                return;
            }
            let body = json!({ "text": texts(number * 1_000 + round)[0] });
            assert_eq!(agent.post(format!("{base}/api/v1/embed")).send_json(&body).unwrap().status().as_u16(), 200);
        }
    };
    let clients: Vec<_> = (0..8)
        .map(|number| {
            tokio::task::spawn_blocking({
                let client = client.clone();
                move || client(number)
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let windows = running.windows();
    let pairs: Vec<(f64, f64)> = windows.iter().filter_map(|it| Some((latency(it, Arm::Canary)?, latency(it, Arm::Control)?))).collect();
    let count = pairs.len() as f64;
    let mean = pairs.iter().map(|it| it.0 - it.1).sum::<f64>() / count;
    let variance = pairs.iter().map(|it| (it.0 - it.1 - mean) * (it.0 - it.1 - mean)).sum::<f64>() / (count - 1.0);
    let (error, usual) = ((variance / count).sqrt(), pairs.iter().map(|it| it.1).sum::<f64>() / count);
    let engine = |arm| {
        let lanes = lanes(&windows, arm);
        sum(&lanes, |it| it.engine_ns) as f64 / sum(&lanes, |it| it.tokens) as f64
    };
    let overheads = windows.iter().flat_map(|it| &it.device.overheads).filter(|it| it.cause == "probe");
    let probing =
        overheads.map(|it| it.device_ns).sum::<u64>() as f64 / windows.iter().map(|it| it.end_ns - it.start_ns).sum::<u64>() as f64;
    println!(
        "{count} windows: canary - control {mean:.3} ms of {usual:.3} ms, standard error {error:.3} ms; engine ns a token {:.0} and {:.0}; {} probes, {:.2} % of the time, ratio {:.3}, {}",
        engine(Arm::Canary),
        engine(Arm::Control),
        running.probes().len(),
        probing * 100.0,
        time_ratio(&running.probes()),
        running.metrics()
    );
    assert!(count >= 100.0, "{count} windows");
    assert!(mean.abs() < 3.0 * error, "{mean} ms +- {error} of {usual}");
    assert!(probing < 0.021, "{probing}");
    running.sidecar.stop().await;
}
