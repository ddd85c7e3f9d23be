//! The link to the control plane, from the sidecar's side.

use std::path::Path;
use std::time::Duration;

use akidb_domain::cost::spend_until;
use akidb_proto::v1;
use akidb_proto::v1::watch_response::Message as Out;
use akidb_sidecar::config::Config;

use super::plane::Plane;
use super::told::{RATE, snapshot};
use super::{Sidecar, config};

pub(super) fn linked(state: &Path, port: u16) -> Config {
    std::fs::write(state.join("token"), "sidecar-token\n").unwrap();
    config(state, &format!("[control_plane]\naddress = \"http://127.0.0.1:{port}\"\ntoken_file = \"token\"\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_followed_reported_on_and_outlives_the_control_plane() {
    let (folder, plane, port) = (tempfile::tempdir().unwrap(), Plane::default(), akidb_testkit::free_port());
    plane.say(Out::Snapshot(snapshot(3).into())).await;
    let stop = plane.listen(port).await;
    let sidecar = Sidecar::start(linked(folder.path(), port), None).await.unwrap();
    sidecar.ready("fp32").await;
    let answer = sidecar.embed_ok().await;
    assert!(answer["cost"].as_str().unwrap().starts_with("0.0"), "{answer}");
    let ready = i32::from(v1::artifact_status::State::Ready);
    plane.until("a ready artifact", |it| it.statuses.iter().find(|it| it.state == ready && it.provider == "cpu").cloned()).await;
    plane.with(|it| {
        assert_eq!((it.tokens[0].as_str(), it.acks[0].version.unwrap().n), ("Bearer sidecar-token", 3));
        assert!(it.identities[0].spooled_boots.contains(&it.identities[0].boot_id));
    });
    // What cannot be read is refused, and what is active goes on.
    let mut bad = v1::Snapshot::from(snapshot(4));
    bad.models[0].pooling = "sum".into();
    plane.say(Out::Snapshot(bad)).await;
    let nack = plane.until("a nack", |it| it.nacks.first().cloned()).await;
    assert!(nack.reason.contains("sum") && nack.active.unwrap().n == 3, "{nack:?}");
    plane.with(|it| it.first.truncate(1));
    sidecar.embed_ok().await;
    let boot = plane.with(|it| it.identities[0].boot_id.clone());
    sidecar.stop().await;
    plane.with(|it| {
        let windows: Vec<_> = it.windows[&boot].values().collect();
        assert_eq!(it.windows[&boot].keys().copied().collect::<Vec<_>>(), (1..=windows.len() as u64).collect::<Vec<_>>());
        assert!(windows.last().unwrap().last && windows.windows(2).all(|it| it[0].end_ns == it[1].start_ns));
        let (first, last) = (windows[0], windows.last().unwrap());
        let spend = spend_until(RATE, 1_000_000, last.end_ns - first.start_ns) as i64;
        assert_eq!(last.device.as_ref().unwrap().cumulative_spend_picodollars, spend);
        assert_eq!(windows.iter().flat_map(|it| &it.lanes).map(|it| it.requests).sum::<u64>(), 2);
    });
    stop.cancel();

    // The control plane is away: the persisted snapshot serves.
    let sidecar = Sidecar::start(linked(folder.path(), akidb_testkit::free_port()), None).await.unwrap();
    sidecar.ready("fp32").await;
    sidecar.embed_ok().await;
    assert_eq!(sidecar.state.serving.load().snapshot.n, 3);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_wait_for_the_control_plane_and_are_sent_again_above_its_mark() {
    let (folder, plane, port) = (tempfile::tempdir().unwrap(), Plane::default(), akidb_testkit::free_port());
    // A boot that nobody heard of.
    let sidecar = Sidecar::start(linked(folder.path(), port), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    sidecar.stop().await;

    plane.listen(port).await;
    let sidecar = Sidecar::start(linked(folder.path(), port), None).await.unwrap();
    plane.until("the older boot's last window", |it| it.windows.values().find(|it| it.values().any(|it| it.last)).map(|_| ())).await;
    plane.say(Out::Snapshot(snapshot(1).into())).await;
    sidecar.ready("fp32").await;
    let boot = plane.with(|it| it.identities[0].boot_id.clone());
    plane.until("windows of this boot", |it| it.windows.get(&boot).filter(|it| it.len() >= 2).map(|_| ())).await;
    // The control plane comes back from an older copy: everything is sent again.
    plane.with(|it| it.windows.clear());
    plane.hang_up();
    let (older, newer) = plane
        .until("both boots again", |it| (it.windows.len() == 2).then(|| it.windows.clone()))
        .await
        .into_iter()
        .fold((0, 0), |(older, newer), (id, windows)| if id == boot { (older, windows.len()) } else { (windows.len(), newer) });
    assert!(older >= 1 && newer >= 1, "{older} {newer}");
    sidecar.stop().await;
    plane.with(|it| {
        let numbers: Vec<u64> = it.windows[&boot].keys().copied().collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_refused_is_given_up_and_the_rest_goes_on() {
    let (folder, plane, port) = (tempfile::tempdir().unwrap(), Plane::default(), akidb_testkit::free_port());
    plane.with(|it| it.refuse = Some(1));
    plane.say(Out::Snapshot(snapshot(1).into())).await;
    plane.listen(port).await;
    let sidecar = Sidecar::start(linked(folder.path(), port), None).await.unwrap();
    sidecar.ready("fp32").await;
    sidecar.embed_ok().await;
    let lost = plane.until("the window given up", |it| (it.lost_through > 0).then_some(it.lost_through)).await;
    assert_eq!(lost, 1);
    plane.until("a later window", |it| it.windows.values().next().filter(|it| it.contains_key(&2)).map(|_| ())).await;
    sidecar.stop().await;
}
