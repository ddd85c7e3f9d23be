//! A canary whose engine refuses some texts goes back by its errors, and only the texts that it refuses ever fail.

use super::*;

/// Katakana is at the end of the word table, and in no reference text.
const RARE: &str = "カメラ";

/// Every other text has the rare word. It may fail, by the engine and alone; every other text is answered whoever its batch mates are.
fn every_other(client: &Client, i: u64, n: u64) {
    let rare = n.is_multiple_of(2);
    let text = if rare { format!("{} {RARE}", text(i, n)) } else { text(i, n) };
    let (status, body) = client.embed(&json!({"text": text, "timeout_ms": PATIENCE_MS}));
    assert!(status == 200 || (rare && status == 500), "request {n}: {status} {body}");
    assert!(status != 200 || !rare || body["variant"] == "fp32", "the canary answered `{text}`: {body}");
}

/// What an index is made of never meets the canary.
fn indexed(client: &Client, i: u64, n: u64) {
    let (status, body) = client.embed(&json!({"text": format!("{} {RARE}", text(i, n)), "purpose": "index", "timeout_ms": PATIENCE_MS}));
    assert_eq!((status, body["variant"].as_str()), (200, Some("fp32")), "request {n}: {body}");
}

#[test]
fn an_engine_that_fails_on_some_texts_goes_back_by_its_errors() {
    let (mut system, _, _turn) = system();
    let folder = system.path("forgetful");
    sabotage::forgetful(&folder, RARE);
    system.akidb(&["models", "import", &folder.display().to_string()]);
    let (queries, index) = (Load::of(&system, 3, every_other), Load::of(&system, 1, indexed));
    let begun = Instant::now();
    start(&system, "errors", "forgetful", |body| {
        body["config"]["margins"]["errors"] = json!(0.05);
        // A request that fails is also late: where there are few requests, latency might say so first.
        body["config"]["weights"] = json!({"latency": 1e-6});
    });
    let it = rolled_back(&system, "errors", &["errors"]);
    println!("rolled back after {:?}: {}", begun.elapsed(), it["reason"]);
    assert!(queries.finish() > 20 && index.finish() > 0);

    // What was decided on: failures of the canary's lane alone.
    let record = replayed(&system, "errors", 1);
    let (canary, control) = (failures(&record, "canary"), failures(&record, "control"));
    println!("errors of requests: canary {canary:?}, control {control:?}");
    assert!(canary.0 * 5 > canary.1 && canary.0 < canary.1, "{canary:?}");
    assert!(control.0 == 0 && control.1 > 0, "{control:?}");
    let said = it["reason"].as_str().expect("a reason");
    assert!(said.contains("error"), "{said}");

    // And the words that it lacked are answered again, by the baseline.
    system.until(Duration::from_secs(60), |it| match it.embed(&json!({"text": RARE})) {
        (200, body) if body["variant"] == "fp32" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(variants(&system, 20).into_keys().collect::<Vec<_>>(), ["fp32"]);
    assert!(system.sidecar.as_mut().expect("it ran").ended().is_none(), "the sidecar went down with its canary");
}

/// Errors and requests of a lane over all looks of a record.
fn failures(record: &Value, lane: &str) -> (u64, u64) {
    let looks = record["record"]["looks"].as_array().unwrap_or_else(|| panic!("no looks in {record}"));
    let windows = looks.iter().flat_map(|it| it["windows"].as_array().expect("windows"));
    let count = |it: &Value, what: &str| it[lane][what].as_u64().expect("a count");
    windows.fold((0, 0), |sum, it| (sum.0 + count(it, "errors"), sum.1 + count(it, "requests")))
}
