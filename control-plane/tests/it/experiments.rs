//! Rollouts from the first share to the last, and every way they end; what is refused; what is kept.
//!
//! long: each test is one life of an experiment.

use std::io::{BufRead, BufReader};
use std::process::Command;

use akidb_proto::v1::artifact_status::State;
use serde_json::{Value, json};

use crate::app::TestApp;
use crate::bundle::Bundle;
use crate::rollout::{Canary, EQUAL, HandClock, LOOK, MODEL, Part, app, app_with, experiment, import, plan, settled, start, until};

/// Serves until the experiment leaves its stage, or so many looks have been taken; answers it.
fn serve(app: &TestApp, id: &str, part: &mut Part<'_>, canary: Canary, most: u64) -> Value {
    let begun = experiment(app, id);
    for _ in 0..most {
        let looks = experiment(app, id)["looks"].as_u64().unwrap();
        part.serve(LOOK + 1, canary);
        let now = until(app, id, "a look", |it| it["looks"].as_u64().unwrap() > looks);
        if now["stage"] != begun["stage"] || now["state"] != "running" {
            return now;
        }
    }
    experiment(app, id)
}

fn kinds(app: &TestApp, id: &str) -> Vec<String> {
    let history = app.get(&format!("experiments/{id}/history"));
    history["history"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap().to_owned()).collect()
}

fn alias(app: &TestApp, name: &str) -> Option<String> {
    let answer = app.call("GET", &format!("models/{MODEL}/aliases/{name}"), None);
    (answer.status == 200).then(|| answer.expect(200)["variant"].as_str().unwrap().to_owned())
}

#[test]
fn an_equal_canary_grows_by_itself_to_everything() {
    let clock = HandClock::new();
    let app = app(&clock);
    start(&app, "e");
    assert_eq!(alias(&app, "canary").as_deref(), Some("int8"));
    let mut part = Part::join(&app, &clock, "s", "b1");
    let mut shares = Vec::new();
    for _ in 0..4 {
        settled(&app, "e");
        let split = part.split.clone().unwrap();
        shares.push((split.canary_ppm, split.control_ppm, split.canary_sample_ppm));
        assert!(split.probe.unwrap().device_ppm == 5_000 && split.lease_ms == 30_000);
        let it = serve(&app, "e", &mut part, EQUAL, 12);
        assert_ne!(it["stage"], format!("phase {}", shares.len()), "{it}");
        part.follow();
    }
    assert_eq!(shares, [(50_000, 50_000, 0), (250_000, 250_000, 0), (500_000, 0, 0), (950_000, 0, 50_000)]);
    let it = experiment(&app, "e");
    assert_eq!((&it["state"], &it["share_ppm"]), (&json!("promoted"), &json!(1_000_000)), "{it}");
    assert!(part.split.is_none() && !part.leases.is_empty(), "{:?}", part.leases);
    assert_eq!(["stable", "default", "canary"].map(|it| alias(&app, it)), [Some("int8".into()), Some("int8".into()), None]);
    let decision = app.get("experiments/e/decision");
    assert!(decision["sentence"].as_str().unwrap().starts_with("ROLLOUT: canary P95 "), "{decision}");
    assert_eq!(decision["records"].as_array().unwrap().len(), 4);
    assert_eq!(kinds(&app, "e").iter().filter(|it| *it == "grown").count(), 3);
    let audit = app.get("audit?limit=1000").to_string();
    assert!(audit.contains("experiment.promoted") && audit.contains("\"actor\":\"decider\""), "{audit}");
    assert_eq!(app.get("audit/verify")["valid"], true);
    every_record_replays(&app);
}

fn every_record_replays(app: &TestApp) {
    let replay = |text: &str| {
        let file = app.folder.path().join("record.json");
        std::fs::write(&file, text).unwrap();
        let got = Command::new(env!("CARGO_BIN_EXE_akidb-control-plane")).arg("replay").arg(&file).output().unwrap();
        (got.status.code(), format!("{}{}", String::from_utf8_lossy(&got.stdout), String::from_utf8_lossy(&got.stderr)))
    };
    for part in 1..=4 {
        let record = app.call("GET", &format!("experiments/e/decision/record?part={part}"), None);
        let (code, said) = replay(&record.text);
        assert!(code == Some(0) && said.contains("every outcome the same to the bit") && said.contains("the share grows from"), "{said}");
        let at = record.text.find("\"canary_ns\":").unwrap() + 12;
        let digit = if record.text.as_bytes()[at] == b'7' { "8" } else { "7" };
        let changed = format!("{}{digit}{}", &record.text[..at], &record.text[at + 1..]);
        let (code, said) = replay(&changed);
        assert!(code == Some(1) && said.contains("the record was changed after it was written"), "{said}");
        // Whoever seals it anew is found out by the numbers.
        let mut forged = akidb_domain::decision::Record::open(&record.text).unwrap();
        forged.looks[0].probes[0].canary_ns *= 2;
        let (code, said) = replay(&forged.seal().unwrap());
        assert!(code == Some(1) && said.contains("outcomes[0]."), "{said}");
    }
    app.call("GET", "experiments/e/decision/record?part=9", None).refused(404, "not_found");
}

#[test]
fn each_fault_is_rolled_back_by_its_guardrail() {
    let clock = HandClock::new();
    let app = app(&clock);
    let check = |id: &str, canary: Canary, guardrail: &str| {
        start(&app, id);
        let mut part = Part::join(&app, &clock, id, id);
        settled(&app, id);
        let it = serve(&app, id, &mut part, canary, 19);
        assert_eq!((&it["state"], &it["share_ppm"]), (&json!("rolled-back"), &json!(0)), "{it}");
        assert_eq!(it["latest"]["verdict"]["guardrail"], guardrail, "{it}");
        assert_eq!(["stable", "canary"].map(|it| alias(&app, it)), [Some("fp32".into()), None]);
        part.follow();
        assert!(part.split.is_none());
        // It stops in good order, so that the next experiment does not miss it.
        let last = akidb_proto::v1::Window { last: true, ..part.window(EQUAL) };
        part.sidecar.report(vec![last], 0).unwrap();
    };
    check("slow", Canary { ratio: 1.3, ..EQUAL }, "speed");
    check("failing", Canary { errors: 20, ..EQUAL }, "errors");
    // One bet a look: it takes more of them than probes would.
    check("late", Canary { latency_ms: 50.0, probes: 1, ..EQUAL }, "latency");
    check("wrong", Canary { cosine: 0.9, ..EQUAL }, "quality");
    assert_eq!(kinds(&app, "slow").last().unwrap(), "rolled-back");
}

#[test]
fn a_crashing_canary_is_rolled_back() {
    let clock = HandClock::new();
    let app = app(&clock);
    start(&app, "e");
    let mut part = Part::join(&app, &clock, "s", "b0");
    settled(&app, "e");
    for n in 1..=4 {
        // It goes on in the middle of the look as another boot, with what it had acknowledged.
        part.serve(LOOK / 2, EQUAL);
        part = Part::join(&app, &clock, "s", &format!("b{n}"));
        let looks = experiment(&app, "e")["looks"].as_u64().unwrap();
        part.serve(LOOK / 2 + 1, EQUAL);
        let it = until(&app, "e", "a look", |it| it["looks"].as_u64().unwrap() > looks);
        if it["state"] != "running" {
            break;
        }
        assert_eq!(it["latest"]["verdict"]["verdict"], "inconclusive", "a lost boot is missing too: {it}");
    }
    let it = experiment(&app, "e");
    assert_eq!((&it["state"], &it["latest"]["verdict"]["guardrail"]), (&json!("rolled-back"), &json!("crash")), "{it}");
    assert_eq!(it["looks"], 3, "{it}");
}

#[test]
fn what_is_missing_is_named_and_nothing_grows() {
    let clock = HandClock::new();
    let app = app(&clock);
    start(&app, "e");
    let mut part = Part::join(&app, &clock, "s", "b1");
    settled(&app, "e");
    let missing = |it: &Value| it["latest"]["verdict"]["missing"][0].as_str().unwrap_or_default().to_owned();

    // A window that never comes.
    part.serve(3, EQUAL);
    part.window(EQUAL);
    clock.forward(1);
    let next = part.window(EQUAL);
    clock.forward(1);
    part.sidecar.report(vec![next], part.sequence() - 1).unwrap();
    let it = serve(&app, "e", &mut part, EQUAL, 1);
    assert_eq!(missing(&it), "1 telemetry windows that never came", "{it}");

    // A lease that ran out.
    let mut lapsed = part.window(EQUAL);
    lapsed.lease_gaps = vec![akidb_proto::v1::LeaseGap { experiment: "e".into(), phase: 0, ns: 900_000_000 }];
    clock.forward(1);
    part.sidecar.report(vec![lapsed], 0).unwrap();
    let it = serve(&app, "e", &mut part, EQUAL, 1);
    assert!(missing(&it).contains("lease"), "{it}");

    // A sidecar that says nothing, until it does: its windows come late and count.
    clock.forward(LOOK + 29);
    let looks = it["looks"].as_u64().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    clock.forward(2);
    let it = until(&app, "e", "a look", |it| it["looks"].as_u64().unwrap() > looks);
    assert!(missing(&it).contains("silent sidecars, s among them"), "{it}");

    // An artifact that fails.
    part.canary(State::Failed, "bad digest");
    let it = serve(&app, "e", &mut part, EQUAL, 3);
    assert!(missing(&it).contains("artifact on 1 of 1 sidecars (s: bad digest)"), "{it}");
    assert_eq!((&it["stage"], &it["state"]), (&json!("phase 1"), &json!("running")));
    assert!(kinds(&app, "e").contains(&"inconclusive".to_owned()));
    part.canary(State::Ready, "");
    let it = serve(&app, "e", &mut part, EQUAL, 12);
    assert_eq!(it["stage"], "phase 2", "it goes on when everything is there again: {it}");
}

#[test]
fn a_restart_resumes_at_the_same_phase_and_forgets_nothing() {
    let clock = HandClock::new();
    let mut app = app(&clock);
    start(&app, "e");
    let mut part = Part::join(&app, &clock, "s", "b1");
    settled(&app, "e");
    assert_eq!(serve(&app, "e", &mut part, EQUAL, 12)["stage"], "phase 2");
    part.follow();
    settled(&app, "e");
    let before = serve(&app, "e", &mut part, Canary { probes: 1, ..EQUAL }, 2);
    let sequence = part.sequence();
    drop(part);

    app.stop();
    app.run();
    let after = experiment(&app, "e");
    assert_eq!((&after["stage"], &after["looks"], &after["latest"]), (&before["stage"], &before["looks"], &before["latest"]));
    let mut part = Part::connect(&app, &clock, "s", "b1", sequence);
    part.follow();
    // The decider lives again.
    part.leased();
    part.canary(State::Ready, "");
    let it = serve(&app, "e", &mut part, EQUAL, 12);
    assert_eq!(it["stage"], "phase 3", "{it}");
    let record = app.call("GET", "experiments/e/decision/record?part=2", None).text;
    let record = akidb_domain::decision::Record::open(&record).unwrap();
    assert!(akidb_domain::decision::record::replay(&record).is_ok());
}

#[test]
fn hours_without_a_decider_are_one_gap() {
    let clock = HandClock::new();
    let mut app = app(&clock);
    start(&app, "e");
    let mut part = Part::join(&app, &clock, "s", "b1");
    settled(&app, "e");
    let before = serve(&app, "e", &mut part, Canary { probes: 1, ..EQUAL }, 1);
    let sequence = part.sequence();
    drop(part);

    app.stop();
    clock.forward(3 * 3_600);
    app.run();
    let mut part = Part::connect(&app, &clock, "s", "b1", sequence);
    part.follow();
    part.canary(State::Ready, "");
    part.serve(1, EQUAL);
    let looks = before["looks"].as_u64().unwrap();
    let it = until(&app, "e", "a look", |it| it["looks"].as_u64().unwrap() > looks);
    assert!(it["latest"]["verdict"]["missing"][0].as_str().unwrap().contains("lease was not renewed"), "{it}");
    settled(&app, "e");
    let it = serve(&app, "e", &mut part, EQUAL, 12);
    assert_eq!((&it["stage"], it["looks"].as_u64().unwrap() < looks + 12), (&json!("phase 2"), true), "{it}");
}

#[test]
fn sticky_units_are_proven_on_the_baseline_first() {
    let clock = HandClock::new();
    let app = app(&clock);
    let mut body = plan("e");
    (body["config"]["unit"], body["config"]["burn_in_ms"]) = (json!("sticky"), json!(3 * LOOK * 1_000));
    app.post("experiments", &body);
    app.call("POST", "experiments/e/start", None).expect(200);
    let mut part = Part::join(&app, &clock, "s", "b1");
    settled(&app, "e");
    let split = part.split.clone().unwrap();
    assert!(split.burn_in && split.sticky && split.probe.is_none() && split.latency_threshold_s.is_empty(), "{split:?}");
    assert_eq!((split.phase, split.canary_ppm, experiment(&app, "e")["share_ppm"].as_u64()), (0, 50_000, Some(0)));

    serve(&app, "e", &mut part, EQUAL, 1);
    part.follow();
    let split = part.split.clone().unwrap();
    assert_eq!((split.latency_threshold_s.len(), split.canary_latency_threshold_s.len()), (4, 4), "{split:?}");
    assert_eq!(split.latency_threshold_s, split.canary_latency_threshold_s, "both arms run the baseline");
    let it = serve(&app, "e", &mut part, EQUAL, 4);
    assert_eq!((&it["stage"], &it["share_ppm"]), (&json!("phase 1"), &json!(50_000)), "{it}");

    part.follow();
    settled(&app, "e");
    let split = part.split.clone().unwrap();
    assert!(!split.burn_in && split.phase == 1 && split.probe.is_some(), "{split:?}");
    assert!(split.canary_latency_threshold_s[0] > split.latency_threshold_s[0], "a margin higher: {split:?}");
    let it = serve(&app, "e", &mut part, EQUAL, 12);
    assert_eq!(it["stage"], "phase 2", "{it}");
}

#[test]
fn people_may_pause_grow_and_abort() {
    let clock = HandClock::new();
    let app = app(&clock);
    start(&app, "e");
    let mut part = Part::join(&app, &clock, "s", "b1");
    settled(&app, "e");
    let step = |what: &str| app.call("POST", &format!("experiments/e/{what}"), None);
    let it = step("pause?reason=a%20holiday").expect(200);
    assert_eq!((&it["state"], &it["reason"], &it["share_ppm"]), (&json!("paused"), &json!("paused by hand: a holiday"), &json!(50_000)));
    part.serve(3 * LOOK, EQUAL);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(experiment(&app, "e")["looks"], 0);
    assert!(step("pause").refused(409, "conflict").contains("only one that is running takes `pause`"));
    step("resume").expect(200);
    settled(&app, "e");
    serve(&app, "e", &mut part, EQUAL, 1);

    let revision = experiment(&app, "e")["revision"].as_i64().unwrap();
    let stale = [("if-match", "\"1\"")];
    app.call_as(&app.admin, &stale, "POST", "experiments/e/promote", None).refused(412, "stale");
    let seen = format!("\"{revision}\"");
    let it = app.call_as(&app.admin, &[("if-match", seen.as_str())], "POST", "experiments/e/promote", None);
    // A look may have come between.
    let it = if it.status == 412 { step("promote").expect(200) } else { it.expect(200) };
    assert!(it["share_ppm"].as_u64().unwrap() >= 250_000, "{it}");
    let routes = app.get("experiments/e/routes?host=akidb-rest");
    let weights: Vec<u64> =
        routes["spec"]["http"][0]["route"].as_array().unwrap().iter().map(|it| it["weight"].as_u64().unwrap()).collect();
    assert_eq!(weights, [it["share_ppm"].as_u64().unwrap() / 10_000, 100 - it["share_ppm"].as_u64().unwrap() / 10_000], "{routes}");
    let yaml = app.call("GET", "experiments/e/routes?format=yaml", None).text;
    assert!(yaml.contains("kind: VirtualService") && yaml.contains("subset: \"int8\"\n      weight: "), "{yaml}");

    let viewer = app.token("viewer", "", "");
    app.call_as(&viewer, &[], "POST", "experiments/e/abort", None).refused(403, "forbidden");
    app.call_as(&viewer, &[], "GET", "experiments/e/decision", None).expect(200);
    let it = step("abort?reason=enough").expect(200);
    assert_eq!((&it["state"], &it["reason"], &it["share_ppm"]), (&json!("aborted"), &json!("aborted by hand: enough"), &json!(0)));
    step("start").refused(409, "conflict");
    assert_eq!(alias(&app, "canary"), None);

    start(&app, "f");
    let it = app.call("POST", "experiments/f/promote?to=full", None).expect(200);
    assert_eq!((&it["state"], alias(&app, "stable").as_deref()), (&json!("promoted"), Some("int8")));
}

#[test]
fn a_moved_stable_is_not_promoted_over() {
    let clock = HandClock::new();
    let app = app(&clock);
    start(&app, "e");
    let root = app.import_folder(&app.folder.path().join(format!("{MODEL}-fp32")))["digest"].as_str().unwrap().to_owned();
    let third = Bundle { engine: b"another".to_vec(), ..Bundle::int8(MODEL, &root, 0.999) };
    let third = Bundle { variant: "int8-fast".into(), ..third };
    let folder = app.folder.path().join("third");
    third.write(&folder);
    app.import_folder(&folder);
    let body = json!({"version": "1", "variant": "int8-fast"});
    let revision = app.get(&format!("models/{MODEL}/aliases/stable"))["revision"].to_string();
    let condition = format!("\"{revision}\"");
    app.call_as(&app.admin, &[("if-match", condition.as_str())], "PUT", &format!("models/{MODEL}/aliases/stable"), Some(&body)).expect(200);
    let it = app.call("POST", "experiments/e/promote?to=full", None).expect(200);
    assert_eq!(it["state"], "aborted", "{it}");
    assert!(it["reason"].as_str().unwrap().contains("alias `stable` of `m` no longer names"), "{it}");
    assert_eq!(alias(&app, "stable").as_deref(), Some("int8-fast"));
}

#[test]
fn what_may_not_be_tried_is_refused_by_name() {
    let clock = HandClock::new();
    let app = app(&clock);
    let refused = |change: &dyn Fn(&mut Value), code: u16, word: &str, part: &str| {
        let mut body = plan("x");
        change(&mut body);
        let said = app.call("POST", "experiments", Some(&body)).refused(code, word);
        assert!(said.contains(part), "{said}");
    };
    refused(&|it| it["canary"] = json!("fp32"), 422, "invalid", "baseline and canary are both");
    refused(&|it| it["canary"] = json!("fp8"), 404, "not_found", "has no variant `fp8`");
    refused(&|it| it["model"] = json!("n"), 404, "not_found", "model `n` does not exist");
    refused(&|it| it["config"]["alpha"] = json!(0.7), 422, "invalid", "config: alpha 0.7 is not between 0 and 0.5");
    refused(&|it| it["config"]["colour"] = json!(1), 400, "malformed", "colour");
    refused(&|it| it["id"] = json!("a b"), 422, "invalid", "id `a b` is not");
    refused(
        &|it| it["devices"] = json!({"baseline": {"sku": "cpu", "region": "r"}, "canary": {"sku": "gpu", "region": "r"}}),
        422,
        "invalid",
        "has no price now",
    );
    let quiet = |it: &mut Value| {
        (it["force"], it["expected_requests_per_second"]) = (json!(false), json!(0.01));
    };
    refused(&quiet, 422, "invalid", "at 0.01 requests a second the phase of 5 % cannot reach a verdict");
    let mut body = plan("x");
    quiet(&mut body);
    let plan_said = app.call("POST", "experiments/validate", Some(&body)).expect(200);
    assert_eq!((&plan_said["reachable"], &plan_said["phases"][0]["probes"]), (&json!(false), &json!(200)), "{plan_said}");
    assert_eq!(app.get("experiments")["experiments"], json!([]));

    let seeded = Bundle { seeded: true, evaluation: Value::Null, ..Bundle::new("seeds", "fp32") };
    let folder = app.folder.path().join("seeds");
    seeded.write(&folder);
    let other = Bundle { precision: "fp16".into(), ..Bundle { seeded: true, evaluation: Value::Null, ..Bundle::new("seeds", "fp16") } };
    let second = app.folder.path().join("seeds16");
    other.write(&second);
    app.import_folder(&folder);
    app.import_folder(&second);
    refused(&|it| (it["model"], it["canary"]) = (json!("seeds"), json!("fp16")), 422, "invalid", "seeded weights");

    start(&app, "one");
    app.post("experiments", &plan("two"));
    let said = app.call("POST", "experiments/two/start", None).refused(409, "conflict");
    assert!(said.contains("has the experiment `one` already, and two on one model are not layered"), "{said}");
    app.call("POST", "experiments", Some(&plan("one"))).refused(409, "conflict");
}

#[test]
fn the_price_book_weighs_devices_that_differ() {
    let clock = HandClock::new();
    let app = app(&clock);
    for (sku, price) in [("cpu", "0.10"), ("gpu", "0.30")] {
        app.post("prices", &json!({"sku": sku, "region": "r", "price_per_hour": price, "source": "test"}));
    }
    let mut body = plan("e");
    body["devices"] = json!({"baseline": {"sku": "cpu", "region": "r"}, "canary": {"sku": "gpu", "region": "r"}});
    let ratio = app.post("experiments", &body)["config"]["margins"]["price_ratio"].as_f64().unwrap();
    assert!((ratio - 3.0).abs() < 1e-9, "{ratio}");
}

#[test]
fn experiments_on_two_models_go_their_own_ways() {
    let clock = HandClock::new();
    let app = app(&clock);
    import(&app, "other");
    start(&app, "e");
    let mut body = plan("f");
    body["model"] = json!("other");
    app.post("experiments", &body);
    app.call("POST", "experiments/f/start", None).expect(200);
    let splits = |app: &TestApp| {
        app.get("snapshot")["splits"].as_array().unwrap().iter().map(|it| it["experiment"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(splits(&app), ["e", "f"]);
    let mut part = Part::join(&app, &clock, "s", "b1");
    // The other model's canary never loads; this one is decided all the same.
    settled(&app, "e");
    let it = serve(&app, "e", &mut part, Canary { ratio: 1.5, ..EQUAL }, 12);
    assert_eq!(it["state"], "rolled-back", "{it}");
    let other = experiment(&app, "f");
    assert_eq!((&other["state"], &other["looks"]), (&json!("running"), &json!(0)));
    assert!(other["reason"].as_str().unwrap().contains("waiting for the canary on 1 of 1 sidecars"), "{other}");
    assert_eq!(splits(&app), ["f"]);
}

#[test]
fn an_experiment_of_some_apps_is_sent_to_their_sidecars_alone() {
    let clock = HandClock::new();
    let app = app(&clock);
    let mut body = plan("e");
    body["apps"] = json!(["search"]);
    app.post("experiments", &body);
    app.call("POST", "experiments/e/start", None).expect(200);
    let splits = |name: &str| app.get(&format!("snapshot?app={name}"))["splits"].as_array().unwrap().len();
    assert_eq!((splits("search"), splits("shop")), (1, 0));
}

#[test]
fn events_are_streamed_and_resumed() {
    let clock = HandClock::new();
    let app = app_with(&clock, |_| {});
    start(&app, "e");
    let follow = |after: Option<&str>| {
        let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
        let mut request =
            agent.get(format!("{}/api/v1/experiments/e/events", app.rest)).header("authorization", format!("Bearer {}", app.admin));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let answer = request.call().unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        BufReader::new(answer.into_body().into_reader()).lines().map(Result::unwrap).filter(|it| !it.is_empty() && !it.starts_with(':'))
    };
    let first: Vec<String> = follow(None).take(6).collect();
    assert!(first[0].starts_with("id: ") && first[1] == "event: created" && first[4] == "event: started", "{first:?}");
    let rest = std::thread::scope(|scope| {
        let follower = scope.spawn(|| follow(Some(&first[0][4..])).collect::<Vec<_>>());
        std::thread::sleep(std::time::Duration::from_millis(200));
        app.call("POST", "experiments/e/abort", None).expect(200);
        follower.join().unwrap()
    });
    let kinds: Vec<&String> = rest.iter().filter(|it| it.starts_with("event: ")).collect();
    assert_eq!(kinds, ["event: started", "event: aborted"], "{rest:?}");
}
