//! Every request is in the ledger exactly once, whatever is killed.

use std::time::Duration;

use akidb_testkit::{Process, System};
use rand::Rng;
use serde_json::json;

use crate::{Clients, counted, until_counted};

#[test]
fn a_control_plane_killed_at_random_moments_counts_every_request_once() {
    let mut system = System::ready(Some("0.10"));
    let clients = Clients::start(&system, 3);
    for _ in 0..6 {
        let pause = || std::thread::sleep(Duration::from_millis(rand::rng().random_range(100..1_400)));
        pause();
        system.control.take().expect("it runs").kill();
        pause();
        system.start_control();
    }
    let sent = clients.finish();
    assert!(sent > 100, "only {sent} requests were sent");
    until_counted(&system, sent);
    let gaps = shown(&system);
    assert!(!gaps.contains("dropped_windows") && gaps.contains("high_water_mark"), "{gaps}");
}

#[test]
fn a_restored_backup_ends_at_the_same_count() {
    let mut system = System::ready(Some("0.10"));
    let send = |system: &System, n: u64| (0..n).for_each(|_| assert_eq!(system.embed(&json!({"text": "hello"})).0, 200));
    send(&system, 20);
    until_counted(&system, 20);
    let backup = system.path("backup.db").display().to_string();
    control(&system, &["backup", "--to", &backup]);
    send(&system, 30);
    until_counted(&system, 50);

    let before = epoch(&system);
    assert!(system.control.take().expect("it runs").terminate().success());
    control(&system, &["restore", "--from", &backup, "--force"]);
    system.start_control();
    assert!(counted(&system) <= 50);
    until_counted(&system, 50);
    system.until(Duration::from_secs(60), |it| match epoch(it) {
        now if now > before => Ok(()),
        now => Err(format!("at epoch {now}, {before} before the restore, which bumps it")),
    });
}

#[test]
fn a_killed_sidecar_loses_at_most_its_open_window_and_the_loss_is_a_counted_gap() {
    let mut system = System::ready(Some("0.10"));
    // From here on nobody but the spool has the windows.
    system.control.take().expect("it runs").kill();
    let ask = |system: &System| assert_eq!(system.embed(&json!({"text": "hello"})).0, 200);
    (0..40).for_each(|_| ask(&system));
    system.until(Duration::from_secs(60), |it| match &it.get("/api/v1/cost-per-request").1["requests"] {
        closed if *closed == 40 => Ok(()),
        closed => Err(format!("{closed} requests in closed windows")),
    });
    // Their window is closed; it is on disk when some later ones are, for they go there one after the other.
    let (closed, mut sent) = (spooled(&system), 40);
    system.until(Duration::from_secs(60), |it| {
        ask(it);
        sent += 1;
        if spooled(it) >= closed + 3 { Ok(()) } else { Err(format!("{} windows on disk", spooled(it))) }
    });
    system.sidecar.take().expect("it runs").kill();
    system.start_control();
    system.start_sidecar();
    system.until(Duration::from_secs(120), |it| match (shown(it).contains("unclean_end"), spooled(it)) {
        (true, 0) => Ok(()),
        other => Err(format!("with an unclean_end gap, and windows in the spool: {other:?}")),
    });
    let kept = counted(&system);
    assert!((40..=sent).contains(&kept), "{kept} of {sent} kept");

    // A clean stop leaves no gap and loses nothing.
    (0..10).for_each(|_| ask(&system));
    assert!(system.sidecar.take().expect("it runs").terminate().success());
    system.start_sidecar();
    until_counted(&system, kept + 10);
}

/// Windows that the sidecar has on disk and that nobody acknowledged.
fn spooled(system: &System) -> u64 {
    let metrics = system.get("/metrics").1;
    let line = metrics.as_str().and_then(|it| it.lines().find(|it| it.starts_with("akidb_telemetry_spool_windows ")));
    line.and_then(|it| it.rsplit_once(' ')?.1.parse().ok()).unwrap_or_else(|| panic!("no windows of the spool in {metrics}"))
}

/// Everything known of the one sidecar.
fn shown(system: &System) -> String {
    let list = system.akidb(&["sidecars", "list"]);
    let id = list["sidecars"][0]["id"].as_str().expect("a sidecar").to_owned();
    system.akidb(&["sidecars", "show", &id]).to_string()
}

fn epoch(system: &System) -> u64 {
    system.akidb(&["sidecars", "list"])["sidecars"][0]["active_snapshot"]["epoch"].as_u64().expect("an epoch")
}

fn control(system: &System, arguments: &[&str]) {
    let log = system.path("command.log");
    let mut command = Process::start("akidb-control-plane", arguments, &system.control_environment(), &log);
    let status = command.wait(Duration::from_secs(120));
    assert!(status.success(), "{arguments:?}: {}", command.log());
}
