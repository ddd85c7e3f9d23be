//! Watch and Report: who is let in, what a sidecar is told, and that every window counts exactly once.

use std::time::{Duration, Instant};

use akidb_proto::v1::{self, watch_request};
use serde_json::{Value, json};
use tonic::Code;

use crate::app::TestApp;
use crate::bundle::Bundle;
use crate::sidecar::{PATIENCE, Sidecar, lane, window};

fn requests(app: &TestApp) -> i64 {
    app.get("cost-per-request")["requests"].as_i64().unwrap()
}

fn kinds(app: &TestApp, id: &str) -> Vec<Value> {
    app.get(&format!("sidecars/{id}"))["gaps"].as_array().unwrap().iter().map(|it| it["kind"].clone()).collect()
}

fn wait(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_sidecar_gets_a_snapshot_at_once_and_at_every_change() {
    let app = TestApp::start();
    let sidecar = Sidecar::new(&app, "s", "b1");
    let mut stream = sidecar.watch().unwrap();
    let welcome = stream.welcome();
    assert_eq!(welcome.marks, [v1::Mark { boot_id: "b1".into(), high_water_mark: 0 }]);
    let first = stream.snapshot();
    assert_eq!(first.version.unwrap().epoch, welcome.epoch);
    assert!(welcome.epoch > 1_790_000_000, "a new database's epoch is the second of its making, past those of one that was lost");
    assert!(first.models.is_empty() && first.prices.is_empty());

    let folder = app.folder.path().join("b");
    Bundle::new("m", "fp32").write(&folder);
    app.import_folder(&folder);
    let second = stream.snapshot();
    assert!(second.version.unwrap().n > first.version.unwrap().n);
    assert_eq!(second.models[0].aliases.keys().collect::<Vec<_>>(), ["default", "stable"]);

    app.post("prices", &json!({"sku": "gpu", "region": "local", "price_per_hour": "9", "source": "t"}));
    assert!(stream.try_next(Duration::from_millis(300)).is_none(), "a price of another SKU is no news");
    app.post("prices", &json!({"sku": "cpu", "region": "local", "price_per_hour": "2.50", "source": "t"}));
    assert_eq!(stream.snapshot().prices[0].picodollars_per_hour, 2_500_000_000_000);

    stream.send(watch_request::Message::Ack(v1::Ack { version: second.version }));
    let status = v1::ArtifactStatus {
        digest: "a".repeat(64),
        model: "m".into(),
        variant: "fp32".into(),
        version: "1".into(),
        state: v1::artifact_status::State::Ready.into(),
        ..v1::ArtifactStatus::default()
    };
    stream.send(watch_request::Message::Artifact(status));
    wait(|| app.get("sidecars/s")["artifacts"][0]["state"] == "ready");
    let seen = app.get("sidecars/s");
    assert_eq!((&seen["connected"], &seen["active_snapshot"]["n"]), (&json!(true), &json!(second.version.unwrap().n)));
    let nack = v1::Nack { version: second.version, active: first.version, reason: "unreadable".into() };
    stream.send(watch_request::Message::Nack(nack));
    wait(|| app.get("sidecars/s")["nack_reason"] == "unreadable");
    drop(stream);
    wait(|| app.get("sidecars/s")["connected"] == false);
}

#[test]
fn only_the_right_token_speaks_for_a_sidecar() {
    let app = TestApp::start();
    let as_token = |token: String| Sidecar { token, ..Sidecar::new(&app, "s", "b1") };
    let code = |sidecar: &Sidecar| sidecar.watch().err().map(|it| it.code());
    assert_eq!(code(&as_token("akidb_00_11".into())), Some(Code::Unauthenticated));
    assert_eq!(code(&as_token(app.token("viewer", "", ""))), Some(Code::PermissionDenied));
    assert_eq!(code(&as_token(app.token("sidecar", "other", ""))), Some(Code::PermissionDenied));
    let (any, bound) = (as_token(app.token("sidecar", "", "")), as_token(app.token("sidecar", "ns", "app")));
    assert_eq!((code(&any), code(&bound)), (None, None));
    let stranger = as_token(app.token("sidecar", "elsewhere", ""));
    assert_eq!(stranger.report(vec![window(1, 1)], 0).unwrap_err().code(), Code::PermissionDenied);
    let thief = Sidecar { token: bound.token.clone(), ..Sidecar::new(&app, "other", "b1") };
    assert_eq!(thief.report(vec![window(1, 1)], 0).unwrap_err().code(), Code::PermissionDenied, "a boot belongs to one sidecar");
    let mut identity = bound.identity();
    identity.boot_unix_ns = 5;
    assert_eq!(bound.watch_as(identity).err().unwrap().code(), Code::InvalidArgument);
}

#[test]
fn a_newer_stream_ends_the_older() {
    let app = TestApp::start();
    let sidecar = Sidecar::new(&app, "s", "b1");
    let mut older = sidecar.watch().unwrap();
    older.welcome();
    older.snapshot();
    let mut newer = sidecar.watch().unwrap();
    newer.welcome();
    assert!(older.try_next(PATIENCE).unwrap().is_err());
    assert_eq!(app.get("sidecars/s")["connected"], true);
}

#[test]
fn a_sidecar_that_crashed_often_is_let_in() {
    let app = TestApp::start();
    Sidecar::new(&app, "s", "crash-3").report(vec![window(1, 1)], 0).unwrap();
    let sidecar = Sidecar::new(&app, "s", "b1");
    let spooled_boots = (0..3_000).map(|i| format!("crash-{i}")).collect();
    let mut stream = sidecar.watch_as(v1::Identity { spooled_boots, ..sidecar.identity() }).unwrap();
    let marks = stream.welcome().marks;
    assert_eq!((marks.len(), marks[3].high_water_mark), (1_025, 1));
    assert_eq!(marks.last().unwrap().boot_id, "b1");
}

#[test]
fn a_stranger_ends_nobodys_stream() {
    let app = TestApp::start();
    let sidecar = Sidecar::new(&app, "s", "b1");
    let mut stream = sidecar.watch().unwrap();
    stream.welcome();
    stream.snapshot();
    let stranger = Sidecar { token: app.token("sidecar", "elsewhere", ""), ..Sidecar::new(&app, "s", "b2") };
    let identity = v1::Identity { namespace: "elsewhere".into(), ..stranger.identity() };
    assert_eq!(stranger.watch_as(identity).err().map(|it| it.code()), Some(Code::PermissionDenied));
    assert!(stream.try_next(Duration::from_millis(300)).is_none(), "the stream goes on");
    assert_eq!(app.get("sidecars/s")["connected"], true);
}

#[test]
fn every_window_counts_exactly_once() {
    let mut app = TestApp::start();
    let sidecar = Sidecar::new(&app, "s", "b1");
    assert_eq!(sidecar.report(vec![window(1, 1), window(2, 2)], 0).unwrap(), 2);
    assert_eq!(sidecar.report(vec![window(1, 1), window(2, 2), window(3, 4)], 0).unwrap(), 3, "duplicates are ignored");
    assert_eq!(requests(&app), 7);
    assert_eq!(sidecar.report(vec![window(5, 100)], 0).unwrap(), 3, "a hole waits for the window that is missing");
    assert_eq!(requests(&app), 7);
    assert_eq!(sidecar.report(vec![window(3, 4), window(4, 8), window(5, 16)], 0).unwrap(), 5);
    assert_eq!(sidecar.report(vec![window(8, 32)], 7).unwrap(), 8, "what is lost is a gap");
    assert_eq!(requests(&app), 63);
    assert_eq!(sidecar.report(vec![window(7, 1000)], 0).unwrap(), 8, "and stays lost");
    assert_eq!(sidecar.report(vec![], 10).unwrap(), 10);
    assert_eq!(sidecar.report(vec![window(12, 1), window(11, 1)], 0).unwrap_err().code(), Code::InvalidArgument);
    let mut stream = sidecar.watch().unwrap();
    assert_eq!(stream.welcome().marks[0].high_water_mark, 10);
    drop(stream);
    assert_eq!(kinds(&app, "s"), ["dropped_windows", "dropped_windows"]);
    app.stop();
    app.run();
    let sidecar = Sidecar::new(&app, "s", "b1");
    assert_eq!(sidecar.report(vec![window(10, 1), window(11, 64)], 0).unwrap(), 11, "a restart forgets nothing");
    assert_eq!(requests(&app), 127);
}

#[test]
fn many_senders_at_once_count_once() {
    let app = TestApp::start();
    let sidecar = Sidecar::new(&app, "s", "b1");
    app.runtime.block_on(async {
        let sends = (0..16).map(|i| {
            let windows = (1..=4 + i % 5).map(|n| window(n, 1)).collect();
            sidecar.report_later(windows, 0)
        });
        for done in futures::future::join_all(sends).await {
            done.unwrap();
        }
    });
    assert_eq!(requests(&app), 8);
}

#[test]
fn a_bad_window_is_named_and_can_be_passed() {
    let app = TestApp::start();
    let sidecar = Sidecar::new(&app, "s", "b1");
    let mut bad = window(2, 1);
    bad.lanes[0].lane.as_mut().unwrap().arm = "left".into();
    let error = sidecar.report(vec![window(1, 1), bad, window(3, 1)], 0).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("window 2: field `lane.arm`"), "{}", error.message());
    assert_eq!(error.metadata().get("akidb-rejected-sequence").unwrap(), "2");
    assert_eq!(requests(&app), 0, "nothing of the report counts");
    assert_eq!(sidecar.report(vec![window(1, 1)], 0).unwrap(), 1);
    assert_eq!(sidecar.report(vec![window(3, 1)], 2).unwrap(), 3);
    assert_eq!(requests(&app), 2);
    drop(sidecar.watch().unwrap());
    assert_eq!(kinds(&app, "s"), ["rejected"]);

    // Each lane is within its bound; together they would fill an hour that other sidecars share.
    let mut huge = window(4, 0);
    huge.lanes = (0..200).map(|_| lane(0, 9_000_000_000, 1)).collect();
    let error = sidecar.report(vec![huge], 0).unwrap_err();
    assert!(error.message().contains("`lane.tokens`: 1800000000000 in all lanes"), "{}", error.message());
}

#[test]
fn a_boot_without_an_end_is_a_gap_counted_once() {
    let app = TestApp::start();
    for boot in ["b1", "b2", "b2", "b3"] {
        drop(Sidecar::new(&app, "s", boot).watch().unwrap());
    }
    assert_eq!(kinds(&app, "s"), ["unclean_end", "unclean_end"]);
    let late = v1::Window { last: true, ..window(1, 1) };
    Sidecar::new(&app, "s", "b1").report(vec![late], 0).unwrap();
    assert_eq!(kinds(&app, "s"), ["unclean_end"], "its last window came out of the spool");
    let last = v1::Window { last: true, ..window(1, 1) };
    Sidecar::new(&app, "s", "b3").report(vec![last], 0).unwrap();
    drop(Sidecar::new(&app, "s", "b4").watch().unwrap());
    assert_eq!(kinds(&app, "s"), ["unclean_end"]);
}

#[test]
fn a_window_whose_mark_may_be_gone_is_refused() {
    let app = TestApp::with(|config| config.retention.sidecars = Duration::from_secs(30 * 86_400));
    let refused = Sidecar::new(&app, "s", "b1").report(vec![window(1, 1)], 0).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("sidecar_retention_days"), "{refused}");
    // The sidecar gives it up, and what it lost is known.
    assert_eq!(Sidecar::new(&app, "s", "b1").report(Vec::new(), 1).unwrap(), 1);
    assert_eq!(app.get("cost-per-request")["requests"], 0);
}
