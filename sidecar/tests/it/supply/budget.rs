//! More models than memory: everything known answers, and nobody waits for another model's load.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::program::{Program, start_with};
use super::{Bundle, Sidecar, config};

/// Room for three of MiniLM's engines, not for four, whether they are estimated (137 MB) or measured.
const THREE: u64 = 500_000_000;

/// Five models, the first of them the default.
fn five(folder: &Path) -> String {
    let entry = |n: usize| {
        let bundle = Bundle::twin(&folder.join(format!("bundle-{n}")), &format!("twin-{n}"), n);
        format!("[[embedding.models.available]]\nname = \"twin-{n}\"\npath = \"{}\"\n", bundle.uri())
    };
    (1..=5).map(entry).collect()
}

fn embed(base: &str, body: &Value) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.post(format!("{base}/api/v1/embed")).send_json(body).unwrap();
    (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
}

fn states(program: &Program) -> Vec<String> {
    let models = program.models();
    let models = models["models"].as_array().unwrap();
    models.iter().map(|it| it["variants"][0]["state"].as_str().unwrap().to_owned()).collect()
}

fn evictions(text: &str) -> f64 {
    let lines = text.lines().filter(|it| it.starts_with("akidb_model_evictions_total{"));
    lines.map(|it| it.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// When each request to the default model began and how long it took, until told to stop.
fn hammer(base: &str, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<(Instant, Duration)>> {
    let base = base.to_owned();
    std::thread::spawn(move || {
        let mut took = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let (status, body) = embed(&base, &json!({"text": "a request for the loaded model", "timeout_ms": 300_000}));
            assert_eq!(status, 200, "{body}");
            took.push((started, started.elapsed()));
            std::thread::sleep(Duration::from_millis(2));
        }
        took
    })
}

fn p99_ms(requests: &[(Instant, Duration)]) -> f64 {
    let mut took: Vec<f64> = requests.iter().map(|it| it.1.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    took[took.len() * 99 / 100]
}

/// The part of a load that the request which met most of it was on its way; 1 if one waited from its beginning to its end.
fn longest_wait(load: (Instant, Duration), requests: &[(Instant, Duration)]) -> f64 {
    let met = |it: &(Instant, Duration)| (it.0 + it.1).min(load.0 + load.1).saturating_duration_since(it.0.max(load.0));
    requests.iter().map(met).max().unwrap_or_default().as_secs_f64() / load.1.as_secs_f64()
}

#[test]
fn five_models_answer_within_a_budget_for_three() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[server]\nops_listen = \"127.0.0.1:0\"\n[storage]\nstate_folder = \"{}\"\n[embedding.models]\nmemory_limit_bytes = {THREE}\n{}",
        folder.path().join("state").display(),
        five(folder.path())
    );
    let program = start_with(folder.path(), &text);
    let settled = Instant::now() + Duration::from_secs(120);
    while states(&program) != ["ready", "ready", "ready", "cached", "cached"] {
        assert!(Instant::now() < settled, "{}", program.models());
        std::thread::sleep(Duration::from_millis(50));
    }
    let models = program.models();
    println!("{models}");
    let first = &models["models"][0]["variants"][0];
    assert!(first["memory_bytes"].as_u64().is_some_and(|it| it > 100_000_000) && first["gpu_memory_bytes"] == 0, "{first}");
    // No GPU, no budget of one.
    let kinds = program.metrics();
    assert!(
        kinds.contains(&format!("akidb_engine_memory_limit_bytes{{memory=\"host\"}} {THREE}")) && !kinds.contains("memory=\"gpu\""),
        "{kinds}"
    );

    let stop = Arc::new(AtomicBool::new(false));
    let quiet = hammer(&program.base, stop.clone());
    std::thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    let (quiet, stop) = (quiet.join().unwrap(), Arc::new(AtomicBool::new(false)));
    let busy = hammer(&program.base, stop.clone());
    let mut loads = Vec::new();
    for n in [4, 5, 2, 3, 4, 5] {
        let started = Instant::now();
        let ask = json!({"model": format!("twin-{n}"), "text": "a sidecar embeds text", "timeout_ms": 300_000});
        let (status, body) = embed(&program.base, &ask);
        assert_eq!((status, body["model"].as_str()), (200, Some(format!("twin-{n}").as_str())), "{body}");
        loads.push((started, started.elapsed()));
        assert_eq!(states(&program)[0], "ready");
    }
    stop.store(true, Ordering::Relaxed);
    let busy = busy.join().unwrap();
    let mut waits: Vec<f64> = loads.iter().map(|it| longest_wait(*it, &busy)).collect();
    waits.sort_by(f64::total_cmp);
    println!(
        "loads took {:?}; p99 of the loaded model: {:.1} ms alone ({}), {:.1} ms while others load ({}); longest waits by loads {waits:.2?}",
        loads.iter().map(|it| it.1).collect::<Vec<_>>(),
        p99_ms(&quiet),
        quiet.len(),
        p99_ms(&busy),
        busy.len()
    );
    // A request that waited for a load would take as long as one; here and there one waits for a core that somebody else has.
    assert!(waits[waits.len() / 2] < 0.5, "{waits:?}");
    let metrics = program.metrics();
    assert!(evictions(&metrics) >= 5.0, "{metrics}");
    assert!(states(&program).iter().filter(|it| *it == "ready").count() == 3, "{}", program.models());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_never_evicted_and_the_refusal_names_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |n: usize, more: &str| {
        let bundle = Bundle::twin(&folder.path().join(format!("bundle-{n}")), &format!("twin-{n}"), n);
        format!("[[embedding.models.available]]\nname = \"twin-{n}\"\npath = \"{}\"\n{more}\n", bundle.uri())
    };
    // One byte: the default is loaded over it, the pinned one and the others are not.
    let text = format!("[embedding.models]\nmemory_limit_bytes = 1048576\n{}{}", entry(1, ""), entry(2, "pinned = true"));
    let sidecar = Sidecar::start(config(folder.path(), &text), None).await.unwrap();
    let (status, body) = sidecar.embed(json!({"text": "x"})).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = sidecar.embed(json!({"text": "x", "model": "twin-2"})).await;
    let message = body["error"]["message"].as_str().unwrap();
    assert!(status == 503 && message.contains("memory budget of 1048576 bytes") && message.contains("memory_limit_bytes"), "{body}");
    assert_eq!(sidecar.embed(json!({"text": "x"})).await.0, 200);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_load_no_longer_than_its_deadline_and_one_load_serves_all() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(config(folder.path(), &five(folder.path())), None).await.unwrap();
    let (status, body) = sidecar.embed(json!({"text": "x", "model": "twin-5", "timeout_ms": 1})).await;
    assert_eq!((status, body["error"]["code"].as_str()), (504, Some("deadline")), "{body}");
    let asks = (0..20).map(|_| sidecar.embed(json!({"text": "x", "model": "twin-4"})));
    for (status, body) in futures::future::join_all(asks).await {
        assert_eq!(status, 200, "{body}");
    }
    let metrics = sidecar.state.metrics.render().unwrap();
    assert!(metrics.contains(r#"akidb_model_loads_total{model="twin-4",model_version="fp32",outcome="ok"} 1"#), "{metrics}");
    sidecar.stop().await;
}
