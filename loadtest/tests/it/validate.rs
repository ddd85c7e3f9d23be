//! `validate` and its shell wrapper against real HTTP servers: a sidecar's answers, Prometheus' answers, and what can be wrong with them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::program;

#[derive(Clone)]
struct Facts {
    /// Requests between two looks at the metrics; all of them took 5 to 10 ms.
    requests: u64,
    duty_cycle: Option<f64>,
    cost: Value,
    models: Value,
    looks: Arc<AtomicU64>,
}

fn good() -> Facts {
    let variants = json!([{"state": "ready", "provider": "tensorrt"}]);
    let models = json!({"models": (0..5).map(|it| json!({"name": format!("m{it}"), "variants": variants})).collect::<Vec<_>>()});
    Facts { requests: 1_000, duty_cycle: Some(85.0), cost: json!({"cost": "0.000008000000"}), models, looks: Arc::default() }
}

async fn start(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn sidecar(facts: Facts) -> String {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/cost-per-request", get(async |State(it): State<Facts>| Json(it.cost)))
        .route("/api/v1/models", get(async |State(it): State<Facts>| Json(it.models)))
        .with_state(facts);
    start(router).await
}

async fn metrics(State(facts): State<Facts>) -> String {
    let n = 50 + facts.requests * facts.looks.fetch_add(1, Ordering::SeqCst);
    let gpu = facts.duty_cycle.map_or_else(String::new, |it| format!("nvidia_gpu_duty_cycle{{gpu=\"0\"}} {it}\n"));
    let bucket = |le: &str, count: u64| format!("akidb_embed_latency_seconds_bucket{{model=\"m\",le=\"{le}\"}} {count}\n");
    bucket("0.005", 0) + &bucket("0.01", n) + &bucket("+Inf", n) + &format!("akidb_embed_requests_total{{model=\"m\"}} {n}\n{gpu}")
}

async fn check(line: &str, code: i32, expected: &[&str]) {
    let output = program(&format!("validate {line}")).await;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    for part in expected {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_service_is_a_success() {
    let url = sidecar(good()).await;
    // 0.95 of the way from 5 to 10 ms.
    let expected = ["9.75ms", "9.95ms", "85.0%", "$0.000008000000", "5 with a ready variant", "\nSUCCESS\n"];
    check(&format!("--sidecar {url}/ --window 200ms"), 0, &expected).await;
    check(&format!("--sidecar {url} --window 200ms --p95-ms 9.7"), 1, &["9.75ms", "<9.7ms", "missed", "\nPARTIAL\n"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_said_and_is_not_ok() {
    let url = sidecar(Facts { requests: 0, ..good() }).await;
    check(&format!("--sidecar {url} --window 50ms"), 1, &["P95:              no data", "no request was observed", "PARTIAL"]).await;
    let url = sidecar(Facts { cost: json!({"cost": null}), ..good() }).await;
    check(&format!("--sidecar {url} --window 50ms"), 1, &["missed: no data (no price", "PARTIAL"]).await;
    let url = sidecar(Facts { duty_cycle: None, ..good() }).await;
    check(&format!("--sidecar {url} --window 50ms"), 1, &["nvidia_gpu_duty_cycle is not measured", "PARTIAL"]).await;
    let models = json!({"models": [{"variants": [{"state": "ready", "provider": "cpu"}]}]});
    let url = sidecar(Facts { duty_cycle: None, models, ..good() }).await;
    check(&format!("--sidecar {url} --window 50ms --models 1"), 0, &["no GPU", "does not apply", "SUCCESS"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_or_strange_service_is_unreachable() {
    check("--sidecar http://127.0.0.1:9", 3, &["error: http://127.0.0.1:9/metrics: "]).await;
    let url = start(Router::new()).await;
    check(&format!("--sidecar {url}"), 3, &["404"]).await;
    let url = start(Router::new().route("/metrics", get(async || "<html>"))).await;
    check(&format!("--sidecar {url}"), 3, &["line 1 is not a Prometheus sample: `<html>`"]).await;
    let url = sidecar(Facts { cost: json!({"cost": "free"}), ..good() }).await;
    check(&format!("--sidecar {url} --window 50ms"), 3, &["`free` is not a number"]).await;
    check("--sidecar ftp://h", 2, &["--sidecar `ftp://h`"]).await;
    check("--p95-ms nan", 2, &["--p95-ms NaN"]).await;
    check("--p95", 2, &[]).await;
}

/// The queries that Prometheus must be asked, word for word, and its answers.
async fn prometheus(answers: &'static [(&'static str, &'static [&'static str])]) -> String {
    let query = async move |Query(query): Query<HashMap<String, String>>| {
        let Some((_, values)) = answers.iter().find(|(it, _)| *it == query["query"]) else {
            return (StatusCode::BAD_REQUEST, Json(json!({"status": "error", "error": query["query"]})));
        };
        let series = |(value, n): (&&str, usize)| json!({"metric": {"model_version": format!("v{n}")}, "value": [1_700_000_000.5, value]});
        let result: Vec<_> = values.iter().zip(0..).map(series).collect();
        (StatusCode::OK, Json(json!({"status": "success", "data": {"resultType": "vector", "result": result}})))
    };
    start(Router::new().route("/api/v1/query", get(query))).await
}

const P95: &str = "histogram_quantile(0.95,rate(akidb_embed_latency_seconds_bucket[5m]))";
const P99: &str = "histogram_quantile(0.99,rate(akidb_embed_latency_seconds_bucket[5m]))";
const QPS: &str = "rate(akidb_embed_requests_total[5m])";
const GPU: &str = "avg(nvidia_gpu_duty_cycle)";

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_is_asked_the_seeds_queries() {
    let sidecar = sidecar(good()).await;
    let url = prometheus(&[(P95, &["0.008", "NaN", "0.0085"]), (P99, &["0.014"]), (QPS, &["200", "80"]), (GPU, &["84.5"])]).await;
    let expected = ["8.50ms", "highest of 2 series: model_version=v2", "14.00ms", "280.0", "84.5%", "SUCCESS"];
    check(&format!("--sidecar {sidecar} --prometheus {url}"), 0, &expected).await;
    let url = prometheus(&[(P95, &["NaN"]), (P99, &[]), (QPS, &[]), (GPU, &[])]).await;
    check(&format!("--sidecar {sidecar} --prometheus {url}"), 1, &["P95:              no data", "gives no series", "not measured"]).await;
    let url = prometheus(&[(P95, &["0.008"])]).await;
    check(&format!("--sidecar {sidecar} --prometheus {url}"), 3, &["400"]).await;
    check(&format!("--sidecar {sidecar} --prometheus http://127.0.0.1:9"), 3, &["http://127.0.0.1:9/api/v1/query"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_passes_options_and_exit_codes() {
    // A copy away from target/, so that it takes the program under test from PATH and not an older release build.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("final-validation.sh");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/final-validation.sh"), &script).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_akidb-loadtest")).parent().unwrap();
    let run = async |path: String, line: &str| {
        // By its interpreter: a file that was just written cannot be executed while a process that another test forked has it open.
        let mut command = tokio::process::Command::new("/bin/sh");
        let output = command.arg(&script).args(line.split_whitespace()).env("PATH", path).output().await.unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let with = format!("{}:/usr/bin:/bin", program.display());
    let url = sidecar(good()).await;
    let (code, said) = run(with.clone(), &format!("--sidecar {url} --window 50ms")).await;
    assert!(code == Some(0) && said.ends_with("SUCCESS\n"), "{said}");
    let (code, said) = run(with.clone(), &format!("--sidecar {url} --window 50ms --models 6")).await;
    assert!(code == Some(1) && said.ends_with("PARTIAL\n"), "{said}");
    assert_eq!(run(with.clone(), "--nonsense").await.0, Some(2));
    assert_eq!(run(with, "--sidecar http://127.0.0.1:9").await.0, Some(3));
    let (code, said) = run("/usr/bin:/bin".to_owned(), "").await;
    assert!(code == Some(2) && said.contains("cargo build --release -p akidb-loadtest"), "{said}");
}
