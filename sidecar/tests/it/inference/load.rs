//! Many clients at once: batches, bounds, clients that leave, what is counted.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use akidb_domain::reference::cosine;
use akidb_domain::snapshot::{TrafficSplit, VariantRef};
use akidb_domain::vocabulary::Arm;
use akidb_sidecar::batcher::BatcherConfig;
use akidb_sidecar::telemetry::{Observation, RequestDone};
use serde_json::json;

use super::rig::Rig;
use super::{agent, embed, get, patient, send, until, waiting};

/// Requests observed so far.
fn requests(rig: &Rig) -> Vec<RequestDone> {
    let mut observations = rig.observations.lock().unwrap();
    let mut done = Vec::new();
    while let Ok(observation) = observations.try_recv() {
        if let Observation::Request(it) = observation {
            done.push(it);
        }
    }
    done
}

fn metric(rig: &Rig, series: &str) -> f64 {
    let text = get(&rig.url("/metrics")).body.as_str().expect("text").to_owned();
    let line = text.lines().find(|it| it.starts_with(series)).unwrap_or_else(|| panic!("{series} is not in\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn concurrent_requests_share_batches_and_keep_their_vectors() {
    let rig = Rig::start(patient());
    let labels = r#"{model="all-MiniLM-L6-v2",model_version="fp32""#;
    for name in ["akidb_embed_latency_seconds", "akidb_batch_size", "akidb_batch_wait_time_seconds"] {
        assert!(metric(&rig, &format!("{name}_bucket{labels}")).abs() < f64::EPSILON, "{name} starts at 0");
    }
    let expected = embed(&rig, &json!({ "text": "a sentence about number 7" })).vector();
    let (busy, held) = rig.held("busy");
    rig.publish(vec![rig.real(), busy], None);
    std::thread::scope(|scope| {
        // The device is busy until all wait: on however slow a machine they are there together.
        scope.spawn(|| embed(&rig, &json!({ "text": "a", "model": "all-MiniLM-L6-v2@busy" })));
        held.inside();
        for _ in 0..64 {
            scope.spawn(|| {
                let got = embed(&rig, &json!({ "text": "a sentence about number 7", "timeout_ms": 300_000 }));
                assert_eq!(got.status, 200, "{}", got.body);
                assert!(cosine(&got.vector(), &expected) >= 0.9999);
            });
        }
        until("64 texts that wait", || waiting(&rig, "fp32") == 64);
        drop(held);
    });
    let batches = metric(&rig, &format!("akidb_batch_size_count{labels}"));
    let texts = metric(&rig, &format!("akidb_batch_size_sum{labels}"));
    assert!((texts - 65.0).abs() < f64::EPSILON && batches < 40.0, "{batches} batches for {texts} texts");
    assert!((metric(&rig, &format!("akidb_embed_requests_total{labels}")) - 65.0).abs() < f64::EPSILON);
    let done: Vec<RequestDone> = requests(&rig).into_iter().filter(|it| it.lane.variant == "fp32").collect();
    assert_eq!((done.len(), done.iter().filter(|it| it.error.is_some()).count()), (65, 0));
    assert!(done.iter().all(|it| it.texts == 1 && it.tokens == 7), "{:?}", done[0]);
}

#[test]
fn a_full_queue_answers_429_at_once() {
    let rig = Rig::start(BatcherConfig { max_queued_texts: 8, ..BatcherConfig::default() });
    let (slow, held) = rig.held("slow");
    rig.publish(vec![slow], None);
    std::thread::scope(|scope| {
        let long = "word ".repeat(250);
        scope.spawn(|| assert_eq!(embed(&rig, &json!({ "texts": vec![long; 20] })).status, 200, "an empty queue takes any"));
        held.inside();
        let got = embed(&rig, &json!({ "text": "a" }));
        assert_eq!((got.status, got.code()), (429, "queue_full"), "{}", got.body);
        assert!(got.header("retry-after").parse::<u64>().is_ok_and(|it| it > 0), "{:?}", got.headers);
        drop(held);
    });
    assert!(requests(&rig).iter().any(|it| it.error == Some("queue_full")));
}

#[test]
fn ten_times_too_much_is_refused_politely_and_leaves_nothing_behind() {
    let rig = Rig::start(BatcherConfig { max_queued_texts: 16, max_batch_size: 4, ..patient() });
    // 4 texts in 200 ms, so 20 a second at most; 40 clients that come again 20 ms after an answer ask for many more.
    let slow = rig.fake("slow", |batch| {
        std::thread::sleep(Duration::from_millis(200));
        Ok(vec![0.05; batch.rows * 384])
    });
    rig.publish(vec![slow], None);
    let (answers, ends): (Mutex<Vec<(bool, u16)>>, _) = (Mutex::default(), Instant::now() + Duration::from_secs(120));
    let count = |hasty: bool, status: u16| answers.lock().unwrap().iter().filter(|it| **it == (hasty, status)).count();
    // However slow the machine is, until enough was seen of each.
    let enough = || count(false, 200) >= 30 && count(false, 429) >= 50;
    std::thread::scope(|scope| {
        for client in 0..40 {
            let (rig, answers, enough) = (&rig, &answers, &enough);
            scope.spawn(move || {
                // Some do not wait for as long as the queue takes: they are refused, or leave in it.
                let hasty = client % 4 == 0;
                while !enough() && Instant::now() < ends {
                    let got = embed(rig, &json!({ "text": "too much", "timeout_ms": if hasty { 100 } else { 300_000 } }));
                    if got.status == 429 {
                        assert!(got.header("retry-after").parse::<u64>().is_ok_and(|it| it > 0), "{:?}", got.headers);
                    }
                    answers.lock().unwrap().push((hasty, got.status));
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    assert!(enough(), "{:?}", answers.lock().unwrap());
    let fine = |it: &(bool, u16)| matches!(it, (_, 200 | 429) | (true, 504));
    assert!(answers.lock().unwrap().iter().all(fine), "who waits is served or refused, never late: {:?}", answers.lock().unwrap());
    assert_eq!(waiting(&rig, "slow"), 0);
    assert_eq!(embed(&rig, &json!({ "text": "after it" })).status, 200);
}

#[test]
fn a_client_that_leaves_takes_its_work_along() {
    let rig = Rig::start(BatcherConfig::default());
    let (slow, held) = rig.held("slow");
    rig.publish(vec![slow], None);
    let mut codes = Vec::new();
    let later = std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(embed(&rig, &json!({ "text": "first" })).status, 200));
        assert_eq!(held.inside(), 1);
        let body = json!({ "texts": ["a", "b", "c"] }).to_string();
        let mut stream = TcpStream::connect(rig.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /api/v1/embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        until("three texts that wait", || waiting(&rig, "slow") == 3);
        drop(stream);
        until("the end of their request", || {
            codes.extend(requests(&rig).iter().map(|it| it.error));
            !codes.is_empty()
        });
        until("their places", || waiting(&rig, "slow") == 0);
        held.let_go()
    });
    codes.extend(requests(&rig).iter().map(|it| it.error));
    assert_eq!(codes, [Some("cancelled"), None]);
    drop(embed(&rig, &json!({ "text": "last" })));
    assert_eq!(later.try_iter().collect::<Vec<_>>(), [1], "the three texts never ran");
}

#[test]
fn the_unix_socket_serves_the_same() {
    let rig = Rig::start(BatcherConfig::default());
    let mut stream = UnixStream::connect(&rig.socket).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn http2_without_an_upgrade() {
    let mut stream = TcpStream::connect(super::shared().address).unwrap();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&settings).unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame, not {head:?}");
}

#[test]
fn a_drain_answers_what_is_in_flight() {
    let rig = Rig::start(BatcherConfig::default());
    let (slow, held) = rig.held("slow");
    rig.publish(vec![slow], None);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(embed(&rig, &json!({ "text": "first" })).status, 200));
        held.inside();
        rig.stop.cancel();
        until("a closed port", || TcpStream::connect(rig.address).is_err());
        drop(held);
    });
}

fn variant_for(rig: &Rig, key: &str) -> String {
    let request = agent().post(rig.url("/api/v1/embed")).header("x-akidb-key", key).content_type("application/json");
    send(request.send(r#"{"text": "hello"}"#)).header("x-akidb-variant").to_owned()
}

#[test]
fn an_experiment_splits_queries_and_leaves_the_index_alone() {
    let rig = Rig::start(BatcherConfig::default());
    let vectors = |batch: &akidb_sidecar::engine::TokenBatch| Ok(vec![0.05; batch.rows * 384]);
    let (baseline, canary) = (rig.fake("base", vectors), rig.fake("new", vectors));
    let at = |name: &str| VariantRef { version: "1".into(), variant: name.into() };
    let split = TrafficSplit {
        model: "all-MiniLM-L6-v2".into(),
        experiment: "e1".into(),
        phase: 2,
        salt: "s".into(),
        sticky: false,
        baseline: at("base"),
        canary: at("new"),
        canary_ppm: 250_000,
        control_ppm: 250_000,
        apps_all_traffic: Vec::new(),
        lease_ms: 60_000,
        canary_sample_ppm: 0,
        burn_in: false,
        probe: None,
        latency_threshold_s: Vec::new(),
        canary_latency_threshold_s: Vec::new(),
    };
    rig.publish(vec![baseline.clone(), canary.clone()], Some(split.clone()));
    for _ in 0..200 {
        assert_eq!(embed(&rig, &json!({ "text": "hello" })).status, 200);
        let index = embed(&rig, &json!({ "text": "hello", "purpose": "index" }));
        assert_eq!(index.header("x-akidb-variant"), "base");
    }
    let done = requests(&rig);
    let count = |arm: Arm| done.iter().filter(|it| it.lane.arm == arm && it.lane.experiment == "e1").count();
    assert!(
        (25..80).contains(&count(Arm::Canary)) && (25..80).contains(&count(Arm::Control)),
        "{} {}",
        count(Arm::Canary),
        count(Arm::Control)
    );
    assert_eq!(done.iter().filter(|it| it.lane.experiment.is_empty()).count(), 200, "index traffic is outside");
    assert!(done.iter().all(|it| (it.lane.arm == Arm::Canary) == (it.lane.variant == "new")));

    rig.publish(vec![baseline, canary], Some(TrafficSplit { sticky: true, canary_ppm: 500_000, ..split }));
    let mut served = BTreeSet::new();
    for key in 0..20 {
        let variants: BTreeSet<String> = (0..5).map(|_| variant_for(&rig, &format!("user-{key}"))).collect();
        assert_eq!(variants.len(), 1, "user {key} met {variants:?}");
        served.extend(variants);
    }
    assert_eq!(served.len(), 2, "20 users met only {served:?}");
}
