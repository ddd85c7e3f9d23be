//! The load generator against a real HTTP server whose behaviour each test chooses.

mod compare;
mod server;
mod sidecar;
mod validate;

use std::process::Output;
use std::time::Duration;

use akidb_loadtest::plan::{Run, RunArgs};
use akidb_loadtest::report::Report;
use akidb_loadtest::run;
use clap::Parser;
use indicatif::ProgressBar;
use server::{Behaviour, Server};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: RunArgs,
}

fn plan(url: &str, options: &str) -> Run {
    let line = format!("run --url {url} {options}");
    Line::try_parse_from(line.split_whitespace()).unwrap().args.try_into().unwrap()
}

async fn measure(url: &str, options: &str) -> Report {
    run::run(&plan(url, options), &ProgressBar::hidden()).await
}

/// Runs the program with these arguments.
async fn program(arguments: &str) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_akidb-loadtest"));
    command.args(arguments.split_whitespace()).output().await.unwrap()
}

async fn binary(url: &str, options: &str) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_akidb-loadtest"));
    command.args(["run", "--url", url]).args(options.split_whitespace()).output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_counts_what_the_server_counts() {
    let server = Server::start(Behaviour::default()).await;
    let report = measure(&server.url, "--requests 300 --clients 4 --batch 3 --warmup 20 --check").await;
    assert_eq!((report.requests, report.succeeded, report.failed, report.texts), (300, 300, 0, 900), "{}", report.text());
    assert_eq!((server.requests(), report.warmup_requests, report.connections), (320, 20, 4));
    assert_eq!(report.variants.get("fp32"), Some(&300));
    assert!(report.latency_ms.is_some() && report.rate.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_ends_a_closed_loop_after_its_answers() {
    let server = Server::start(Behaviour { delay: Duration::from_millis(20), ..Behaviour::default() }).await;
    let report = measure(&server.url, "--duration 1s --clients 2").await;
    assert_eq!(report.requests, server.requests());
    // 50 a client fit in, and one may be sent at the end; a busy machine sends few.
    assert!((1..=102).contains(&report.requests), "{}", report.text());
    assert!(report.latency_ms.unwrap().p50 >= 20.0);
}

/// The proof against coordinated omission: the server stands still for 600 ms once. Four clients see only four slow answers, and a
/// figure since sending hides the stall; a fourth of all requests was due in it, and the figure since due shows it.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_shows_a_stall_to_every_request_that_was_due_in_it() {
    let stall = Behaviour { stall: Some((100, Duration::from_millis(600))), ..Behaviour::default() };
    let server = Server::start(stall).await;
    let report = measure(&server.url, "--rate 200 --duration 2s --clients 4").await;
    assert_eq!((report.requests, report.failed, server.requests()), (400, 0, 400), "{}", report.text());
    let (latency, service) = (report.latency_ms.unwrap(), report.service_ms.unwrap());
    assert!(latency.p99 >= 500.0 && latency.p90 >= 200.0, "{}", report.text());
    // A machine that is busy besides makes both longer.
    assert!(service.p90 < latency.p90 / 2.0, "{}", report.text());
    assert!(report.started_late >= 80, "{}", report.text());

    let server = Server::start(stall).await;
    let closed = measure(&server.url, "--requests 4000 --clients 4").await;
    assert!(closed.latency_ms.unwrap().p99 < latency.p99 / 2.0, "a closed loop hides it: {}", closed.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_nobody_could_send_are_accounted_as_unsent() {
    let server = Server::start(Behaviour { delay: Duration::from_mins(1), ..Behaviour::default() }).await;
    // One client, which waits for longer than it takes until all are due.
    let report = measure(&server.url, "--rate 50 --duration 400ms --clients 1 --timeout 1s").await;
    assert_eq!((report.requests, report.succeeded), (20, 0), "{}", report.text());
    let count = |what: &str| report.errors.get(what).copied().unwrap_or(0);
    let (timeout, unsent) = (count("timeout"), count("unsent"));
    assert!(unsent >= 10 && timeout + unsent == 20, "{}", report.text());
    assert!(server.requests() <= timeout, "{}", report.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_by_status_with_their_retry_after() {
    let server = Server::start(Behaviour { refuse_every: 3, ..Behaviour::default() }).await;
    let report = measure(&server.url, "--requests 90 --clients 3").await;
    assert_eq!((report.succeeded, report.failed, report.errors["429"]), (60, 30, 30), "{}", report.text());
    let retry = report.retry_after;
    assert_eq!((retry.answers, retry.max_seconds, retry.missing), (30, 7, 0));
    assert_eq!((report.admitted, report.p99_of_few), (60, true));
    assert!(report.text().contains("p99 and above of FEW: 60 requests"), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_run_at_once_and_are_reported_apart() {
    let server =
        Server::start(Behaviour { delay: Duration::from_millis(5), slow: Duration::from_millis(40), ..Behaviour::default() }).await;
    let classes = "--class short:clients=1,words=18,app=web --class long:clients=4,words=150,app=bulk,model=slow";
    let report = measure(&server.url, &format!("--duration 1s --warmup 4 {classes}")).await;
    let [short, long] = report.classes.as_slice() else { panic!("{}", report.text()) };
    assert_eq!((short.class.as_deref(), short.words.as_str(), short.clients, short.app.as_deref()), (Some("short"), "18", 1, Some("web")));
    let (quick, slow) = (short.latency_ms.unwrap().p50, long.latency_ms.unwrap().p50);
    assert!(quick < slow && slow >= 45.0, "{}", report.text());
    assert!(short.requests > 0 && long.requests >= 4, "{}", report.text());
    assert_eq!((report.requests, report.clients, report.words.as_str()), (short.requests + long.requests, 5, "18; 150"));
    let apps = server.apps();
    assert_eq!((apps["web"], apps["bulk"], apps.len()), (short.requests + 4, long.requests + 4, 2));
    for part in ["class short\n", "class long\n", "all classes\n", "app bulk", "batches    "] {
        assert!(report.text().contains(part), "{part}: {}", report.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_class_has_a_rate_of_its_own() {
    let server = Server::start(Behaviour::default()).await;
    let report =
        measure(&server.url, "--duration 1s --class small:rate=10,clients=2,app=small --class bulk:rate=500,clients=8,app=bulk").await;
    assert_eq!((server.apps()["small"], server.apps()["bulk"], report.mode, report.rate), (10, 500, "open", Some(510.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_sizes_are_those_of_the_measurement() {
    let server = Server::start(Behaviour::default()).await;
    let report = measure(&server.url, "--requests 50 --warmup 30").await;
    assert_eq!(report.batches.map(|it| it.text()).as_deref(), Some("50 of 1.0 texts on average; by texts 1: 50"));
    let report = measure(&server.url, "--requests 5 --metrics http://127.0.0.1:9/metrics").await;
    assert!(report.batches.is_none() && report.failed == 0, "{}", report.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_watched_during_the_run_and_after_it() {
    let server = Server::start(Behaviour { delay: Duration::from_millis(5), ..Behaviour::default() }).await;
    let watch = format!("--pid {} --sample-every 20ms --slope-after 100ms --settle 100ms", std::process::id());
    let report = measure(&server.url, &format!("--duration 2s --clients 2 {watch}")).await;
    let seen = report.resources.unwrap();
    assert!(seen.rss_slope_mb_per_minute.is_some() && seen.files_slope_per_minute.is_some() && !seen.ended, "{}", seen.text());
    assert!(seen.samples.len() >= 8 && seen.samples.iter().any(|it| it.seconds > seen.load_seconds), "{seen:?}");
    assert_eq!(binary(&server.url, "--requests 1 --pid 4294967295").await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_fails_one_request_and_is_made_again() {
    let server = Server::start(Behaviour { break_every: 10, ..Behaviour::default() }).await;
    let report = measure(&server.url, "--requests 100 --clients 1").await;
    assert_eq!((report.requests, report.succeeded, report.errors["broken"]), (100, 90, 10), "{}", report.text());
    assert!(report.connections >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_its_vectors_has_failed() {
    let server = Server::start(Behaviour { vectors_missing: 1, ..Behaviour::default() }).await;
    let report = measure(&server.url, "--requests 10 --batch 2 --check").await;
    assert_eq!(report.errors["bad_answer"], 10, "{}", report.text());
    assert_eq!(measure(&server.url, "--requests 10 --batch 2").await.failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_tells() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let good = Server::start(Behaviour::default()).await;
    let output = binary(&good.url, &format!("--requests 10 --json {}", file.display())).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("requests   10 in"), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&json["requests"], &json["mode"]), (&10.into(), &"closed".into()));
    assert!(json["latency_ms"]["p99_9"].is_number());

    let bad = Server::start(Behaviour { refuse_every: 2, ..Behaviour::default() }).await;
    assert_eq!(binary(&bad.url, "--requests 10").await.status.code(), Some(1));
    assert_eq!(binary(&bad.url, "--requests 10 --allow-errors").await.status.code(), Some(0));
    assert_eq!(binary(&bad.url, "--requests 10 --rate 0").await.status.code(), Some(2));
    let output = binary("http://127.0.0.1:9/", "--requests 3 --clients 1").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("connect: 3"), "{output:?}");
}

/// Ctrl-C: what was due is in the report, sent or not.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_the_run_with_a_whole_account() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let server = Server::start(Behaviour { delay: Duration::from_millis(100), ..Behaviour::default() }).await;
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_akidb-loadtest"))
        .args(["run", "--url", &server.url, "--rate", "100", "--duration", "60s", "--clients", "1", "--json"])
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while server.requests() < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let interrupt = tokio::process::Command::new("kill").args(["-INT", &child.id().unwrap().to_string()]).status().await.unwrap();
    assert!(interrupt.success());
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(json["interrupted"], true);
    assert_eq!(json["succeeded"].as_u64(), Some(server.requests()));
    assert!(json["errors"]["unsent"].as_u64() >= Some(20), "{json}");
}
