//! Who is silent and who was lost. Enters: made-up sidecars. Leaves: failures. Never: a database.

use super::*;
use crate::decider::look_of::tests::experiment;

const SECOND_NS: u64 = 1_000_000_000;
const TO_NS: u64 = 100 * SECOND_NS;

fn limits(now_s: u64) -> Limits {
    Limits { now_ns: now_s * SECOND_NS, since_ns: 0, silent_after: Duration::from_secs(30), lost_after: Duration::from_secs(300) }
}

/// A sidecar that has reported through the look, as the list of members has it.
fn sidecar(id: &str) -> Sidecar {
    let seen = SeenRow {
        sidecar_id: id.into(),
        app: "app".into(),
        devices: String::new(),
        boot_id: "b1".into(),
        boot_ns: 1,
        last_end_ns: TO_NS as i64,
        finished: false,
        active_epoch: 1,
        active_n: 5,
        last_seen_at: 100_000,
    };
    let known = MemberRow { sidecar_id: id.into(), boot_id: "b1".into(), canary: true, finished: false };
    Sidecar { seen, connected: true, skus: vec!["cpu".into()], canary: Canary::Ready, known: Some(known) }
}

fn look(sidecars: Vec<Sidecar>, now_s: u64) -> Option<Fleet> {
    Members { sidecars }.look(&experiment(), TO_NS, limits(now_s))
}

fn with(change: impl FnOnce(&mut Sidecar)) -> Sidecar {
    let mut it = sidecar("s");
    change(&mut it);
    it
}

#[test]
fn a_look_waits_for_windows_and_then_names_who_is_silent() {
    let late = || with(|it| it.seen.last_end_ns -= 1);
    assert!(look(vec![sidecar("a"), late()], 129).is_none(), "they may still come");
    let restarted = Limits { since_ns: TO_NS + SECOND_NS, ..limits(130) };
    assert!(Members { sidecars: vec![late()] }.look(&experiment(), TO_NS, restarted).is_none(), "they have not had the time to");
    let fleet = look(vec![sidecar("a"), late()], 130).unwrap();
    assert_eq!((fleet.missing.targeted_sidecars, fleet.missing.silent_sidecars), (2, vec!["s".to_owned()]));
    let fleet = look(vec![sidecar("a")], 100).unwrap();
    assert_eq!((fleet.missing.pieces(0.05).len(), fleet.serving, fleet.news.len()), (0, [1, 0], 0));
    assert_eq!(look(Vec::new(), 100).unwrap().missing.silent_sidecars.len(), 1, "without a sidecar nothing is known");
}

#[test]
fn a_boot_that_another_followed_was_lost_unless_it_ended_in_good_order() {
    let check = |change: fn(&mut Sidecar), canary: u64, control: u64| {
        let replaced = |it: &mut Sidecar| {
            it.seen.boot_id = "b2".into();
            change(it);
        };
        let fleet = look(vec![with(replaced)], 101).unwrap();
        assert_eq!((fleet.crashes.canary, fleet.crashes.control), (canary, control));
        assert_eq!((fleet.missing.lost_windows, fleet.news.len()), (canary + control, 1));
    };
    let known = |it: &mut Sidecar, canary, finished| {
        let there = it.known.as_mut().unwrap();
        (there.canary, there.finished) = (canary, finished);
    };
    check(|_| {}, 1, 0);
    check(|it| it.known.as_mut().unwrap().canary = false, 0, 1);
    check(|it| it.known.as_mut().unwrap().finished = true, 0, 0);
    // Nobody knows yet what its predecessor has spooled.
    let young = with(|it| {
        known(it, true, false);
        (it.seen.boot_id, it.seen.boot_ns, it.seen.last_end_ns) = ("b2".into(), TO_NS as i64, 0);
    });
    assert!(look(vec![young.clone()], 101).is_none());
    assert_eq!(look(vec![young], 130).unwrap().crashes.canary, 0, "silent for now, and lost once it reports");
}

#[test]
fn who_stops_in_good_order_is_gone_and_who_is_unheard_of_for_long_is_lost() {
    let stopped = with(|it| (it.connected, it.seen.finished, it.seen.last_end_ns) = (false, true, 0));
    let fleet = look(vec![sidecar("a"), stopped], 100).unwrap();
    assert_eq!((fleet.missing.targeted_sidecars, fleet.missing.lost_windows, fleet.news), (1, 0, vec![News::Drop("s".into())]));
    let away = || with(|it| (it.connected, it.seen.last_end_ns) = (false, 0));
    let fleet = look(vec![sidecar("a"), away()], 399).unwrap();
    assert_eq!((fleet.missing.silent_sidecars.len(), fleet.crashes.canary), (1, 0));
    let fleet = look(vec![sidecar("a"), away()], 401).unwrap();
    assert_eq!((fleet.missing.silent_sidecars.len(), fleet.crashes.canary), (0, 1));
    assert_eq!(fleet.news, vec![News::Drop("s".into())]);
    let restarted = Limits { since_ns: 400 * SECOND_NS, ..limits(430) };
    let fleet = Members { sidecars: vec![away()] }.look(&experiment(), TO_NS, restarted).unwrap();
    assert_eq!((fleet.missing.silent_sidecars.len(), fleet.crashes.canary), (1, 0), "nobody was there to hear it");
}

#[test]
fn a_failed_artifact_is_named_and_so_is_a_kind_of_device_that_has_no_other() {
    let failed = with(|it| (it.canary, it.skus) = (Canary::Failed("bad digest".into()), vec!["gpu".into()]));
    let fleet = look(vec![sidecar("a"), failed], 100).unwrap();
    assert_eq!(fleet.missing.failed_artifacts, ["s: bad digest"]);
    assert_eq!((fleet.missing.failed_skus, fleet.serving), (vec!["gpu".to_owned()], [1, 1]));
}

#[test]
fn the_first_look_waits_for_the_split_and_the_canary() {
    let mut it = experiment();
    it.progress.snapshot = SnapshotVersion { epoch: 1, n: 5 };
    let waits = |it: &Experiment, sidecars| Members { sidecars }.waits_for(it).unwrap_or_default();
    assert_eq!(waits(&it, vec![sidecar("a")]), "");
    assert!(waits(&it, Vec::new()).contains("none is connected"));
    let loading = || vec![sidecar("a"), with(|it| it.canary = Canary::Loading)];
    assert_eq!(waits(&it, loading()), "waiting for the canary on 1 of 2 sidecars");
    it.progress.prepared = true;
    assert_eq!(waits(&it, loading()), "", "later ones are left out until they have it");
    it.progress.snapshot.n = 6;
    assert_eq!(waits(&it, loading()), "waiting for 2 of 2 sidecars to take the new split");
}
