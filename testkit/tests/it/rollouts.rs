//! Rollouts on real sidecars under live load: an equal canary reaches everybody by itself, a bad one goes back by the guardrail that it breaks.
//!
//! Phases last seconds here and margins are wide, so that two shared cores decide in time; what the default margins do is rehearsed elsewhere
//! (docs/EXPERIMENTS.md).

mod assignment;
mod errors;
mod sabotage;
mod slower;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use akidb_testkit::{Client, System, bundle, program, root, twin};
use serde_json::{Value, json};

const MODEL: &str = "all-MiniLM-L6-v2";
/// A lease, and how long a sidecar without one may take to notice.
const LEASE: Duration = Duration::from_secs(4);

/// How long a stage, and a whole rollout, may take where many share the machine.
const STAGE: Duration = Duration::from_secs(300);
const ROLLOUT: Duration = Duration::from_secs(600);

/// A request may wait for longer than the usual 30 s where the machine gives the test nothing for that long.
const PATIENCE_MS: u64 = 55_000;

/// Two of these at once would share the device's time with each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Clients that send until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Clients that send different texts; every answer must be a 200.
    fn start(system: &System, clients: u64) -> Self {
        let born = Instant::now();
        Self::of(system, clients, move |client, i, n| {
            let begun = Instant::now();
            let (status, body) = client.embed(&json!({"text": text(i, n), "timeout_ms": PATIENCE_MS}));
            assert_eq!(status, 200, "request {n} after {:?}, of {:?}: {body}", born.elapsed(), begun.elapsed());
        })
    }

    /// Clients that each send, and check, one request after the other: told which client it is, and the request's number.
    fn of(system: &System, clients: u64, ask: impl Fn(&Client, u64, u64) + Clone + Send + 'static) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..clients).map(|i| {
            let (stop, sent, client, ask) = (stop.clone(), sent.clone(), system.client(), ask.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    ask(&client, i, sent.fetch_add(1, Ordering::Relaxed));
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        });
        Self { stop: stop.clone(), sent: sent.clone(), threads: threads.collect() }
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|it| it.join().expect("a client that saw what it should"));
        self.sent.load(Ordering::Relaxed)
    }
}

/// One of some thousand different sentences, all of one length.
fn text(client: u64, n: u64) -> String {
    const WHO: [&str; 8] = ["a cat", "the sea", "my train", "old music", "a proof", "the market", "warm bread", "a storm"];
    const DOES: [&str; 8] = ["sleeps", "sings", "waits", "grows", "falls", "turns", "shines", "ends"];
    let at = |list: &[&'static str; 8], n: u64| list[(n % 8) as usize];
    format!("{} {} while {} {} near house {}", at(&WHO, n), at(&DOES, n / 8), at(&WHO, n / 64 + client), at(&DOES, n / 3), n % 97)
}

/// Variants of so many answers.
fn variants(system: &System, requests: u64) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    for n in 0..requests {
        let (status, body) = system.embed(&json!({"text": text(9, n)}));
        assert_eq!(status, 200, "{body}");
        *seen.entry(body["variant"].as_str().expect("a variant").to_owned()).or_default() += 1;
    }
    seen
}

fn int8() -> PathBuf {
    root().join("build/bundles/all-MiniLM-L6-v2-int8")
}

/// What is tried: the INT8 engine where it was built (`make models MODELS=minilm`), else the fp32 one once more under another name.
fn canary(system: &System) -> (PathBuf, &'static str) {
    if int8().join("manifest.json").is_file() {
        return (int8(), "int8");
    }
    let folder = system.path("again");
    twin(&folder, "again");
    (folder, "again")
}

/// fp32 serves; answers the name of what is there to be tried, and what keeps other rollouts waiting.
fn system() -> (System, &'static str, MutexGuard<'static, ()>) {
    system_with(LEASE)
}

fn system_with(lease: Duration) -> (System, &'static str, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut system = System::new();
    let ms = |it: Duration| it.as_millis().to_string();
    system.control_env = vec![
        ("AKIDB_CP_EXPERIMENT_LOOK_MS", "2000".to_owned()),
        ("AKIDB_CP_EXPERIMENT_TICK_MS", "200".to_owned()),
        ("AKIDB_CP_EXPERIMENT_LEASE_MS", ms(lease)),
        ("AKIDB_CP_EXPERIMENT_SILENT_MS", "20000".to_owned()),
    ];
    system.start_control();
    let (folder, canary) = canary(&system);
    for folder in [bundle(), folder] {
        system.akidb(&["models", "import", &folder.display().to_string()]);
    }
    system.start_sidecar();
    (system, canary, turn)
}

/// Shares large enough for tens of requests a second to decide in seconds.
fn plan() -> Value {
    let phase = |share_ppm: u32| json!({"share_ppm": share_ppm, "duration_ms": 600_000, "min_canary_requests": 20});
    json!({
        "phases": [phase(250_000), phase(400_000), phase(500_000), phase(750_000)],
        "margins": {"errors": 0.3, "latency": 2.0, "speed": 0.2, "cost": 0.2, "cosine": 0.03, "recall": 0.4},
        // One experiment in a hundred, by its own promise, would stop at a fair draw that it takes for none.
        "alpha_sample_ratio": 1e-6,
        "min_probes": 30, "max_utilisation": 5.0
    })
}

/// Creates and starts it over REST, with a generous probe budget: these phases are short.
fn start(system: &System, id: &str, canary: &str, change: impl FnOnce(&mut Value)) {
    let mut body = json!({"id": id, "model": MODEL, "canary": canary, "config": plan(), "force": true,
                          "probe": {"device_ppm": 300_000, "idle_ppm": 300_000, "shed_queue_texts": 64}});
    change(&mut body);
    assert_eq!(system.rest("POST", "experiments", Some(&body)).0, 201);
    system.akidb(&["experiments", "start", id]);
}

fn experiment(system: &System, id: &str) -> Value {
    system.rest("GET", &format!("experiments/{id}"), None).1
}

/// Waits until an experiment is as it should be; answers it.
fn until(system: &System, id: &str, limit: Duration, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + limit;
    loop {
        let it = experiment(system, id);
        if holds(&it) {
            return it;
        }
        let state = format!("{} {} {} {}", it["state"], it["stage"], it["reason"], it["latest"]);
        assert!(
            Instant::now() < deadline,
            "after {limit:?} still {state}\n{}",
            system.rest("GET", &format!("experiments/{id}/decision"), None).1
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn over(it: &Value) -> bool {
    !matches!(it["state"].as_str(), Some("running" | "paused" | "draft"))
}

#[test]
fn an_equal_canary_reaches_everybody_and_a_dead_control_plane_only_holds_it_up() {
    let (mut system, canary, _turn) = system();
    let load = Load::start(&system, 3);
    start(&system, "e", canary, |_| {});
    until(&system, "e", STAGE, |it| it["stage"] != "phase 1");

    // The control plane dies: when the lease is over, every answer is the baseline's. The sidecar may be late in reading the last renewal.
    system.control.take().expect("it runs").kill();
    std::thread::sleep(LEASE);
    system.until(Duration::from_secs(60), |it| match variants(it, 20) {
        seen if seen.keys().eq(["fp32"]) => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
    assert_eq!(variants(&system, 40).into_keys().collect::<Vec<_>>(), ["fp32"]);
    system.start_control();
    let back = experiment(&system, "e");
    assert_eq!((back["state"].as_str(), back["stage"] == "phase 1"), (Some("running"), false), "{back}");

    let it = until(&system, "e", ROLLOUT, over);
    assert_eq!(it["state"], "promoted", "{it}");
    let sent = load.finish();
    assert!(sent > 80, "{sent} requests");
    system.until(Duration::from_secs(60), |it| {
        let seen = variants(it, 5);
        if seen.keys().all(|it| it == canary) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let decision = system.rest("GET", "experiments/e/decision", None).1;
    assert!(decision["sentence"].as_str().expect("a sentence").starts_with("ROLLOUT: canary P95 "), "{decision}");
    let history = system.rest("GET", "experiments/e/history", None).1.to_string();
    assert!(history.contains("\"kind\":\"grown\"") && history.contains("\"kind\":\"promoted\""), "{history}");
    every_part_replays(&system, "e");
    the_script_says_so(&system, canary);
}

fn every_part_replays(system: &System, id: &str) {
    (1..=4).for_each(|part| drop(replayed(system, id, part)));
}

/// A part of the decision record, which decides the same once more.
fn replayed(system: &System, id: &str, part: u32) -> Value {
    let file = system.path("record.json");
    system.akidb_plain(&["experiments", "record", id, "--part", &part.to_string(), "--output", &file.display().to_string()]);
    let replayed = Command::new(program("akidb-control-plane")).arg("replay").arg(&file).output().expect("it runs");
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    serde_json::from_slice(&std::fs::read(&file).expect("a record")).expect("JSON")
}

fn the_script_says_so(system: &System, canary: &str) {
    let script = root().join("scripts/ab_test_decision.py");
    let [(url, server), (token, file)] = system.client_environment();
    let mut command = Command::new("python3");
    command.arg(script).args(["--canary", canary, "--baseline", "fp32", "--duration", "5"]);
    let said = command.env(url, server).env(token, file).output().expect("python3 runs");
    let text = String::from_utf8_lossy(&said.stdout);
    assert_eq!(said.status.code(), Some(0), "{text}");
    assert!(text.starts_with("✅ ROLLOUT: Canary P95 ") && text.contains("Decision: Full rollout approved"), "{text}");
}

fn rolled_back(system: &System, id: &str, guardrails: &[&str]) -> Value {
    let it = until(system, id, STAGE, over);
    let by = it["latest"]["verdict"]["guardrail"].as_str().unwrap_or_default();
    assert!(it["state"] == "rolled-back" && guardrails.contains(&by), "{it}");
    it
}

#[test]
fn a_sabotaged_canary_goes_back_by_the_guardrail_that_it_breaks() {
    let (mut system, canary, _turn) = system();
    let folder = system.path("gutted");
    sabotage::gutted(&folder);
    system.akidb(&["models", "import", &folder.display().to_string()]);
    let load = Load::start(&system, 3);
    start(&system, "wrong", "gutted", |_| {});
    rolled_back(&system, "wrong", &["quality"]);

    // The same engine time at ten times the price.
    for (sku, price) in [("old", "0.10"), ("new", "1.00")] {
        system.akidb(&["prices", "set", sku, "--per-hour", price]);
    }
    let devices = json!({"baseline": {"sku": "old", "region": "local"}, "canary": {"sku": "new", "region": "local"}});
    start(&system, "dear", canary, |body| body["devices"] = devices);
    rolled_back(&system, "dear", &["cost"]);
    assert!(load.finish() > 40);

    // A process that dies under the canary, three times.
    start(&system, "crash", canary, |body| body["config"]["min_probes"] = json!(1_000_000));
    for _ in 0..3 {
        until(&system, "crash", STAGE, |it| over(it) || it["reason"].as_str().is_some_and(|it| !it.starts_with("waiting")));
        let looks = experiment(&system, "crash")["looks"].as_u64().expect("looks");
        until(&system, "crash", STAGE, |it| over(it) || it["looks"].as_u64() > Some(looks + 1));
        if over(&experiment(&system, "crash")) {
            break;
        }
        system.sidecar.take().expect("it runs").kill();
        system.start_sidecar();
    }
    rolled_back(&system, "crash", &["crash"]);
}
