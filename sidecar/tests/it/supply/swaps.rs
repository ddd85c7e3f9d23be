//! Engines replaced under load: no request fails, and what must not serve does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use akidb_domain::snapshot::VariantRef;
use akidb_sidecar::models::Plan;
use akidb_sidecar::models::marker::Markers;
use serde_json::{Value, json};

use super::program::{self, Program};
use super::refusals::plan;
use super::{Bundle, MODEL, Sidecar, config, entry};

/// A bundle of MiniLM with a digest of its own.
fn twin(folder: &tempfile::TempDir, n: usize) -> Bundle {
    Bundle::twin(&folder.path().join(format!("twin-{n}")), "all-MiniLM-L6-v2", n)
}

/// The bundle as a version of the model.
async fn version(folder: &tempfile::TempDir, bundle: &Bundle, n: usize) -> Plan {
    let mut next = plan(folder, bundle).await;
    let model = next.models.get_mut(MODEL).unwrap();
    let at = VariantRef { version: n.to_string(), variant: "fp32".into() };
    (model.default, model.variants[0].at) = (at.clone(), at);
    next
}

fn digest(plan: &Plan) -> String {
    plan.models[MODEL].variants[0].choice.as_ref().unwrap().artifact.digest.clone()
}

/// Clients that accept nothing but a 200.
fn load(sidecar: &Sidecar, clients: usize, stop: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<usize>> {
    let client = |_| {
        let (url, stop) = (format!("{}/api/v1/embed", sidecar.base), stop.clone());
        std::thread::spawn(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut answer = agent.post(&url).send_json(json!({"text": "a request amid a swap", "timeout_ms": 300_000})).unwrap();
                assert_eq!(answer.status(), 200, "{}", answer.body_mut().read_to_string().unwrap());
                answer.body_mut().read_to_vec().unwrap();
                sent += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            sent
        })
    };
    (0..clients).map(client).collect()
}

/// Follows a plan, and waits until requests get its default or it is refused: then why.
async fn judged(sidecar: &Sidecar, plan: Plan) -> Result<(), String> {
    let (default, digest) = (plan.models[MODEL].default.clone(), digest(&plan));
    let failed = |it: &akidb_sidecar::serving::Variant| it.digest == digest && it.state.as_str() == "failed";
    sidecar.models.follow(plan);
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let serving = sidecar.state.serving.load();
        if serving.models[MODEL].default == default {
            return Ok(());
        }
        if let Some(variant) = serving.models[MODEL].variants.iter().find(|it| failed(it)) {
            return Err(variant.reason.clone());
        }
        assert!(Instant::now() < until, "{:?} {:?}", serving.models[MODEL], serving.problems);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Loads that a machine may be too busy for, one after the other.
const TRIES: usize = 5;

/// Follows a version until it is judged by what it is. A load gives way to requests and to whatever else the machine does, so it may come to its
/// time limit; then another bundle of the kind is tried.
async fn follow(sidecar: &Sidecar, folder: &tempfile::TempDir, n: usize, change: impl Fn(&Bundle)) -> Result<(), String> {
    for attempt in 1..TRIES {
        let bundle = twin(folder, n * TRIES + attempt);
        change(&bundle);
        match judged(sidecar, version(folder, &bundle, n).await).await {
            Err(why) if why.contains("load_timeout_ms") => {
                eprintln!("version {n}: {why}");
                std::fs::remove_dir_all(bundle.folder).unwrap();
            }
            outcome => return outcome,
        }
    }
    Err("every load came to its time limit".to_owned())
}

/// Makes its proof long: the same texts so many times.
fn make_slow(bundle: &Bundle, times: usize) {
    let path = bundle.folder.join("reference.json");
    let mut reference: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for key in ["texts", "vectors"] {
        let all = reference[key].as_array().unwrap().clone();
        reference[key] = all.iter().cycle().take(all.len() * times).cloned().collect();
    }
    std::fs::write(path, reference.to_string()).unwrap();
    bundle.reseal("reference.json");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_engines_are_replaced_and_the_bad_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = entry(akidb_testkit::bundle().to_str().unwrap(), "");
    let text = format!("[embedding.models]\nload_timeout_ms = 20000\n{first}");
    let sidecar = Sidecar::start(config(folder.path(), &text), None).await.unwrap();
    sidecar.ready("fp32").await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = load(&sidecar, 3, &stop);
    for n in 1..=2 {
        assert_eq!(follow(&sidecar, &folder, n, |_| ()).await, Ok(()));
    }
    let corrupt = twin(&folder, 100);
    let plan = version(&folder, &corrupt, 3).await;
    let path = corrupt.folder.join("reference.json");
    let spoiled = std::fs::read_to_string(&path).unwrap().replacen('1', "2", 1);
    std::fs::write(path, spoiled).unwrap();
    let why = judged(&sidecar, plan).await.unwrap_err();
    assert!(why.contains("reference.json") && why.contains("sha256"), "{why}");
    let why = follow(&sidecar, &folder, 4, Bundle::spoil_reference).await.unwrap_err();
    assert!(why.contains("differ from its reference vectors"), "{why}");
    let slow = twin(&folder, 101);
    make_slow(&slow, 400);
    let why = judged(&sidecar, version(&folder, &slow, 5).await).await.unwrap_err();
    assert!(why.contains("not loaded and proven within 20s") && why.contains("load_timeout_ms"), "{why}");
    assert_eq!(sidecar.state.serving.load().models[MODEL].default.version, "2");
    assert_eq!(follow(&sidecar, &folder, 6, |_| ()).await, Ok(()));
    stop.store(true, Ordering::Relaxed);
    let sent: usize = clients.into_iter().map(|it| it.join().unwrap()).sum();
    println!("{sent} requests, 0 failed");
    assert!(sent > 100, "{sent}");
    sidecar.stop().await;
}

/// A configuration whose one entry is `bundle`.
fn alone(folder: &Path, bundle: &Bundle) -> String {
    let state = folder.join("state");
    format!("[server]\nops_listen = \"127.0.0.1:0\"\n[storage]\nstate_folder = \"{}\"\n{}", state.display(), entry(&bundle.uri(), ""))
}

fn digest_served(program: &Program) -> String {
    ureq::get(format!("{}/readyz", program.base)).call().unwrap();
    program.models()["models"][0]["variants"][0].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_takes_the_process_down_is_quarantined_after_one_restart() {
    let folder = tempfile::tempdir().unwrap();
    let good = twin(&folder, 1);
    let started = program::start_with(folder.path(), &alone(folder.path(), &good));
    terminate(started);

    // What an abort inside the runtime looks like from outside: gone in the middle of the load. A test that was late, so that the load was over,
    // tries again with another bundle.
    let mut killed = None;
    for n in 2..7 {
        killed = killed_in_its_load(&folder, n).await;
        if killed.is_some() {
            break;
        }
    }
    let (deadly, marker) = killed.expect("a load that was killed in its middle");
    let deadly_digest = marker.file_name().unwrap().to_str().unwrap().to_owned();

    let restarted = program::start_with(folder.path(), &alone(folder.path(), &deadly));
    let told = digest_served(&restarted);
    assert!(told.contains("quarantined") && told.contains("goes on serving") && told.contains(&deadly_digest), "{told}");
    let answer = ureq::post(format!("{}/api/v1/embed", restarted.base)).send_json(json!({"text": "x"})).unwrap();
    assert_eq!(answer.status(), 200);
    terminate(restarted);

    // A process ended well since: one more try, which this bundle, a good one really, passes.
    let again = program::start_with(folder.path(), &alone(folder.path(), &deadly));
    let until = Instant::now() + Duration::from_secs(120);
    while !digest_served(&again).contains("\"state\":\"ready\"") {
        assert!(Instant::now() < until, "{}", digest_served(&again));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!marker.exists());
}

/// A bundle and its activation marker, left behind by a process that was killed in the bundle's load; none if the load was over first.
async fn killed_in_its_load(folder: &tempfile::TempDir, n: usize) -> Option<(Bundle, PathBuf)> {
    let bundle = twin(folder, n);
    make_slow(&bundle, 10);
    let marker = folder.path().join("state/activations").join(digest(&plan(folder, &bundle).await));
    let mut dies = program::spawn(folder.path(), &alone(folder.path(), &bundle));
    let until = Instant::now() + Duration::from_secs(120);
    while !marker.exists() && !dies.is_ready() {
        assert!(Instant::now() < until, "the load did not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    dies.child.kill().unwrap();
    dies.child.wait().unwrap();
    marker.exists().then_some((bundle, marker))
}

fn terminate(mut program: Program) {
    let pid = rustix::process::Pid::from_child(&program.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_that_never_served_here_gives_way_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let good = twin(&folder, 1);
    let sidecar = Sidecar::start(config(folder.path(), &entry(&good.uri(), "")), None).await.unwrap();
    let before = sidecar.ready("fp32").await;
    sidecar.stop().await;

    let deadly = twin(&folder, 2);
    Markers::open(folder.path()).unwrap().begin(&digest(&plan(&folder, &deadly).await)).unwrap();
    let sidecar = Sidecar::start(config(folder.path(), &entry(&deadly.uri(), "variant = \"next\"")), None).await.unwrap();
    let reason = sidecar.failed("next").await;
    assert!(reason.contains("quarantined") && reason.contains("activations"), "{reason}");
    let serving = sidecar.wait("fp32", |it| it.loaded.is_some()).await;
    assert_eq!(serving.digest, before.digest);
    assert_eq!(sidecar.embed_ok().await["variant"], "fp32");
    sidecar.stop().await;
}
