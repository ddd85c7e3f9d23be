//! `compare` against real HTTP servers whose difference is known.

use std::time::Duration;

use serde_json::Value;

use crate::program;
use crate::server::{Behaviour, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_known_difference_is_found_with_an_interval_that_excludes_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("compare.json");
    let server =
        Server::start(Behaviour { delay: Duration::from_millis(10), slow: Duration::from_millis(20), ..Behaviour::default() }).await;
    let line = "--b-model slow --slices 8 --slice 150ms --clients 4 --warmup 8";
    let output = program(&format!("compare --a {} {line} --json {}", server.url, file.display())).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("B slower") && text.contains("p99 of FEW"), "{text}");
    let json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&json["pairs"], &json["b"]["model"], &json["a"]["failed"]), (&8.into(), &"slow".into(), &0.into()));
    let p50 = &json["ratios"][0];
    let (ratio, low) = (p50["ratio"].as_f64().unwrap(), p50["interval"]["low"].as_f64().unwrap());
    // 30 ms to 10 ms, and what the timers of both add.
    assert!((1.8..3.5).contains(&ratio) && low > 1.3, "{text}");
    assert!(json["ratios"][3]["ratio"].as_f64().unwrap() < 0.8, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_get_the_same_number_of_slices_and_failures_show() {
    let (good, bad) = (
        Server::start(Behaviour { delay: Duration::from_millis(2), ..Behaviour::default() }).await,
        Server::start(Behaviour { delay: Duration::from_millis(2), refuse_every: 5, ..Behaviour::default() }).await,
    );
    let line = format!("compare --a {} --b {} --slices 5 --slice 50ms --clients 2 --warmup 2", good.url, bad.url);
    let output = program(&line).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("429: "), "{output:?}");
    assert_eq!(program(&format!("{line} --allow-errors")).await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_options_and_absent_servers_are_told() {
    let check = async |line: &str, code: i32, expected: &str| {
        let output = program(&format!("compare --a http://127.0.0.1:9/ {line}")).await;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(expected), "{line}: {output:?}");
    };
    check("--slices 4", 2, "--slices 4 is not in").await;
    check("--confidence 1", 2, "--confidence 1").await;
    check("--a-plan clients=0", 2, "--clients 0").await;
    check("--slices 5 --slice 20ms --warmup 0", 1, "connect: ").await;
}
