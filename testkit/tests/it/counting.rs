//! Every request is in the ledger exactly once, whatever is killed.

use std::time::Duration;

use akidb_testkit::{Process, System};
use rand::Rng;
use serde_json::json;

use crate::{Clients, counted, settled, until_counted};

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
    assert!(epoch(&system) > before, "the restore bumps the epoch");
}

#[test]
fn a_killed_sidecar_loses_at_most_its_open_window_and_the_loss_is_a_counted_gap() {
    let mut system = System::ready(Some("0.10"));
    let clients = Clients::start(&system, 1);
    std::thread::sleep(Duration::from_secs(3));
    let sent = clients.finish();
    // The last second's window may be open; what was closed before must survive.
    system.sidecar.take().expect("it runs").kill();
    system.start_sidecar();
    system.until(Duration::from_secs(20), |it| {
        if shown(it).contains("unclean_end") { Ok(()) } else { Err("without an unclean_end gap".to_owned()) }
    });
    let kept = settled(&system);
    assert!(kept <= sent && sent - kept <= 90, "{kept} of {sent} kept");

    // A clean stop leaves no gap and loses nothing.
    let before = settled(&system);
    for _ in 0..10 {
        assert_eq!(system.embed(&json!({"text": "hello"})).0, 200);
    }
    assert!(system.sidecar.take().expect("it runs").terminate().success());
    system.start_sidecar();
    until_counted(&system, before + 10);
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
    let status = command.wait(Duration::from_secs(60));
    assert!(status.success(), "{arguments:?}: {}", command.log());
}
