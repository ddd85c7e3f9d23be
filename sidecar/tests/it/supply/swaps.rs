//! Engines replaced under load: no request fails, and what must not serve does not.

use std::path::Path;
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
                let mut answer = agent.post(&url).send_json(json!({"text": "a request amid a swap"})).unwrap();
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

/// Waits for the version that requests get.
async fn serves(sidecar: &Sidecar, version: &str) {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let serving = sidecar.state.serving.load();
        if serving.models[MODEL].default.version == version {
            return;
        }
        assert!(Instant::now() < until, "{:?} {:?}", serving.models[MODEL], serving.problems);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a version to be refused, and returns why.
async fn refused(sidecar: &Sidecar, version: &str) -> String {
    let failed = |it: &akidb_sidecar::serving::Variant| it.version == version && it.state.as_str() == "failed";
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let serving = sidecar.state.serving.load();
        if let Some(variant) = serving.models[MODEL].variants.iter().find(|it| failed(it)) {
            return variant.reason.clone();
        }
        assert!(Instant::now() < until, "{:?}", serving.models[MODEL]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
        sidecar.models.follow(version(&folder, &twin(&folder, n), n).await);
        serves(&sidecar, &n.to_string()).await;
    }
    let corrupt = twin(&folder, 3);
    let plan = version(&folder, &corrupt, 3).await;
    let path = corrupt.folder.join("reference.json");
    let spoiled = std::fs::read_to_string(&path).unwrap().replacen('1', "2", 1);
    std::fs::write(path, spoiled).unwrap();
    sidecar.models.follow(plan);
    let why = refused(&sidecar, "3").await;
    assert!(why.contains("reference.json") && why.contains("sha256"), "{why}");
    let wrong = twin(&folder, 4);
    wrong.spoil_reference();
    sidecar.models.follow(version(&folder, &wrong, 4).await);
    let why = refused(&sidecar, "4").await;
    assert!(why.contains("differ from its reference vectors"), "{why}");
    let slow = twin(&folder, 5);
    make_slow(&slow, 400);
    sidecar.models.follow(version(&folder, &slow, 5).await);
    let why = refused(&sidecar, "5").await;
    assert!(why.contains("not loaded and proven within 20s") && why.contains("load_timeout_ms"), "{why}");
    assert_eq!(sidecar.state.serving.load().models[MODEL].default.version, "2");
    sidecar.models.follow(version(&folder, &twin(&folder, 6), 6).await);
    serves(&sidecar, "6").await;
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
    let (good, deadly) = (twin(&folder, 1), twin(&folder, 2));
    // A load long enough to be killed in its middle, on however busy a machine.
    make_slow(&deadly, 10);
    let deadly_digest = digest(&plan(&folder, &deadly).await);
    let started = program::start_with(folder.path(), &alone(folder.path(), &good));
    terminate(started);

    // What an abort inside the runtime looks like from outside: gone in the middle of the load.
    let mut dies = program::spawn(folder.path(), &alone(folder.path(), &deadly));
    let marker = folder.path().join("state/activations").join(&deadly_digest);
    let until = Instant::now() + Duration::from_secs(30);
    while !marker.exists() {
        assert!(Instant::now() < until, "the load did not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    dies.child.kill().unwrap();
    dies.child.wait().unwrap();
    drop(dies);

    let restarted = program::start_with(folder.path(), &alone(folder.path(), &deadly));
    let told = digest_served(&restarted);
    assert!(told.contains("quarantined") && told.contains("goes on serving") && told.contains(&deadly_digest), "{told}");
    let answer = ureq::post(format!("{}/api/v1/embed", restarted.base)).send_json(json!({"text": "x"})).unwrap();
    assert_eq!(answer.status(), 200);
    terminate(restarted);

    // A process ended well since: one more try, which this bundle, a good one really, passes.
    let again = program::start_with(folder.path(), &alone(folder.path(), &deadly));
    let until = Instant::now() + Duration::from_secs(30);
    while !digest_served(&again).contains("\"state\":\"ready\"") {
        assert!(Instant::now() < until, "{}", digest_served(&again));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!marker.exists());
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
