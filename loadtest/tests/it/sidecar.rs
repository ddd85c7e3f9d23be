//! Every command, and wrk with its script, against the real sidecar with the real model. `make setup` and
//! `cargo build --workspace` first; `make test` does both.

use std::process::Stdio;
use std::time::Duration;

use akidb_loadtest::scrape::Scrape;
use tokio::process::{Child, Command};

use crate::program;

struct Sidecar {
    _process: Child,
    pid: u32,
    base: String,
    _folder: tempfile::TempDir,
}

impl Sidecar {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (api, ops) = (akidb_testkit::free_port(), akidb_testkit::free_port());
        let config = folder.path().join("config.toml");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{api}\"\nops_listen = \"127.0.0.1:{ops}\"\n[storage]\nstate_folder = \"{}\"\n\
             [runtime]\nonnxruntime = \"{}\"\n[embedding.models]\ndefault = \"all-MiniLM-L6-v2\"\n\
             [[embedding.models.available]]\nname = \"all-MiniLM-L6-v2\"\npath = \"{}\"\ndimension = 384\nprecision = \"fp32\"\n",
            folder.path().join("state").display(),
            akidb_testkit::onnxruntime().display(),
            akidb_testkit::bundle().display(),
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(akidb_testkit::program("akidb-sidecar"));
        command.arg("--config").arg(&config).stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log).kill_on_drop(true);
        let process = command.spawn().unwrap();
        let base = format!("http://127.0.0.1:{api}");
        let ready: akidb_loadtest::plan::Target = format!("{base}/readyz").parse().unwrap();
        for _ in 0..3_600 {
            if akidb_loadtest::http::get_ok(&ready).await.is_ok() {
                return Self { pid: process.id().unwrap(), _process: process, base, _folder: folder };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the sidecar is not ready: {}", std::fs::read_to_string(folder.path().join("log")).unwrap());
    }

    /// Requests that it counted.
    async fn requests(&self) -> f64 {
        let metrics: akidb_loadtest::plan::Target = format!("{}/metrics", self.base).parse().unwrap();
        let text = akidb_loadtest::http::get_ok(&metrics).await.unwrap();
        Scrape::parse(&String::from_utf8_lossy(&text)).unwrap().values("akidb_embed_requests_total").sum()
    }
}

async fn check(line: &str, code: i32, expected: &[&str]) -> String {
    let output = program(line).await;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    for part in expected {
        assert!(said.contains(part), "{part}: {said}");
    }
    said.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_with_the_real_sidecar() {
    let sidecar = Sidecar::start().await;
    let (base, embed) = (sidecar.base.clone(), format!("{}/api/v1/embed", sidecar.base));

    let classes = "--class short:clients=1,words=18,app=web --class long:clients=4,words=100";
    let watch = format!("--pid {} --sample-every 100ms --slope-after 500ms", sidecar.pid);
    let expected = ["class short", "class long", "fp32: ", "batches    ", "MB/min", "0 failed"];
    check(&format!("run --url {embed} --duration 2s --check --warmup 5 {classes} {watch}"), 0, &expected).await;

    let same = format!("compare --a {embed} --b-model all-MiniLM-L6-v2@fp32 --slices 6 --slice 200ms --clients 2 --warmup 5");
    check(&same, 0, &["6 pairs", "B / A", "throughput"]).await;

    // The load that a validation is about runs beside it; nothing has a price here, so it cannot be a success.
    let program = akidb_testkit::program("akidb-loadtest");
    let mut load =
        Command::new(program).args(["run", "--url", &embed, "--duration", "10m", "--clients", "2"]).kill_on_drop(true).spawn().unwrap();
    let before = sidecar.requests().await;
    while sidecar.requests().await <= before {
        assert!(load.try_wait().unwrap().is_none(), "the load ended before its first request");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let loose = "--p95-ms 30000 --p99-ms 30000 --qps 0.1 --models 1";
    let said = check(&format!("validate --sidecar {base} --window 3s {loose}"), 1, &["no GPU", "no price", "PARTIAL"]).await;
    assert_eq!(said.matches("  ok").count(), 4, "P95, P99, QPS and models: {said}");
    assert!(load.try_wait().unwrap().is_none(), "the load ended before the validation");
    load.kill().await.unwrap();

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/wrk-embed.lua");
    let wrk = Command::new("wrk").args(["-t", "2", "-c", "4", "-d", "1s", "-s", script, &format!("{base}/api/v1/embed")]).output().await;
    match wrk {
        Err(_) => eprintln!("not run: wrk is not installed"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("429: 0, 503: 0, 504: 0, other: 0"), "{output:?}");
            assert!(said.contains("texts on average") && !said.contains("unknown"), "{said}");
        }
    }
}
