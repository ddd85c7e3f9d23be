//! `akidb` against a real control plane, with the real bundle.

mod control_plane;

use akidb_testkit::{bundle, copy_folder, free_port, twin};
use control_plane::{Akidb, ControlPlane};

const MODEL: &str = "all-MiniLM-L6-v2";

/// Asserts that a command failed with this code and one sentence that holds all of `parts`.
fn refused(done: &control_plane::Done, code: i32, parts: &[&str]) {
    assert_eq!(done.code, code, "{done:?}");
    assert!(done.err.starts_with("error: ") && done.err.lines().count() == 1, "not one sentence: {done:?}");
    for part in parts {
        assert!(done.err.contains(part), "`{part}` is not in {done:?}");
    }
}

#[test]
fn a_bundle_is_imported_and_shown() {
    let server = ControlPlane::start();
    let path = bundle();
    let path = path.to_str().unwrap();

    let done = server.akidb(&["models", "import", path, "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let import: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (&import["model"], &import["variant"], &import["artifact_state"]),
        (&MODEL.into(), &"fp32".into(), &"ready".into()),
        "{import}"
    );
    assert!(done.err.contains("model.onnx: 90.3 MB, uploaded"), "{done:?}");

    // The second time nothing is sent, and the artifact is the same.
    let again = server.akidb(&["models", "import", &format!("{path}/manifest.json"), "--json"]);
    assert!(again.code == 0 && again.err.contains("model.onnx: 90.3 MB, there already"), "{again:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&again.out).unwrap()["digest"], import["digest"]);

    assert!(server.ok(&["models", "list"]).contains(MODEL));
    assert_eq!(server.json(&["models", "list"])["models"][0]["name"], MODEL);
    let shown = server.ok(&["models", "show", MODEL]);
    for part in ["version 1: 384 dimensions, 256 tokens, mean pooling", "portable", "ready", "90.9 MB", "default", "stable"] {
        assert!(shown.contains(part), "`{part}` is not in {shown}");
    }
    assert!(shown.contains(&import["digest"].as_str().unwrap()[..12]), "{shown}");

    aliases_move_by_compare_and_swap(&server);
    artifacts_are_guarded(&server, import["digest"].as_str().unwrap());
}

fn aliases_move_by_compare_and_swap(server: &ControlPlane) {
    let set = ["aliases", "set", MODEL, "blue", "fp32"];
    let said = server.ok(&set);
    assert!(said.starts_with(&format!("{MODEL}@blue is version 1 variant fp32, revision ")), "{said}");
    let seen = revision(server, "blue");
    // Without --if-revision it moves from what is there.
    server.ok(&[&set[..], &["--version", "1"]].concat());
    let now = revision(server, "blue");
    assert!(now > seen, "{now} after {seen}");
    let stale = server.akidb(&[&set[..], &["--if-revision", &seen.to_string()]].concat());
    refused(&stale, 1, &["blue", &seen.to_string(), &now.to_string(), "stale, HTTP 412", "akidb aliases list"]);
    assert_eq!(revision(server, "blue"), now);
    server.ok(&[&set[..], &["--if-revision", &now.to_string()]].concat());
    refused(&server.akidb(&["aliases", "set", MODEL, "blue", "int8"]), 1, &["int8", "not_found"]);
    assert_eq!(server.ok(&["aliases", "delete", MODEL, "blue"]), format!("deleted alias blue of {MODEL}\n"));
    assert!(!server.ok(&["aliases", "list", MODEL]).contains("blue"));
}

fn revision(server: &ControlPlane, alias: &str) -> u64 {
    let aliases = server.json(&["aliases", "list", MODEL]);
    let found = aliases["aliases"].as_array().unwrap().iter().find(|it| it["name"] == alias);
    found.unwrap_or_else(|| panic!("no alias {alias} in {aliases}"))["revision"].as_u64().unwrap()
}

fn artifacts_are_guarded(server: &ControlPlane, digest: &str) {
    refused(&server.akidb(&["models", "retire", MODEL, &digest[..8]]), 1, &["HTTP 409"]);
    refused(&server.akidb(&["models", "retire", MODEL, "0000000000"]), 2, &["0000000000", "akidb models show"]);
    refused(&server.akidb(&["models", "delete", MODEL]), 1, &["HTTP 409"]);
    let report = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(report.path(), r#"{"kind": "parity", "n": 25, "min_cosine": 0.5, "gate": {"min_cosine": 0.9999}}"#).unwrap();
    let args = ["models", "evaluate", MODEL, &digest[..8], "--report", report.path().to_str().unwrap()];
    let done = server.akidb(&args);
    assert!(done.out.contains("min_cosine 0.5 is below its gate 0.9999"), "{done:?}");
    refused(&done, 1, &["does not pass its gate"]);
}

#[test]
fn a_file_uri_is_imported_by_the_server() {
    let server = ControlPlane::start();
    let uri = format!("file://{}", bundle().display());
    let done = server.akidb(&["models", "import", &uri, "--wait", "--version", "2026-01"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.starts_with(&format!("imported {MODEL} version 2026-01 variant fp32: artifact ")), "{done:?}");
    let gone = server.akidb(&["models", "import", "file:///nowhere/at/all", "--wait"]);
    assert_eq!(gone.code, 1, "{gone:?}");
    assert!(gone.err.contains("/nowhere/at/all"), "{gone:?}");
}

#[test]
fn a_spoiled_bundle_stays_here() {
    let server = ControlPlane::start();
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&bundle(), folder.path());
    let tokenizer = folder.path().join("tokenizer.json");
    let mut bytes = std::fs::read(&tokenizer).unwrap();
    bytes[1_000] ^= 1;
    std::fs::write(&tokenizer, &bytes).unwrap();
    let path = folder.path().to_str().unwrap();
    refused(&server.akidb(&["models", "import", path]), 2, &["tokenizer.json", "its sha256 is", "export it again"]);
    bytes.pop();
    std::fs::write(&tokenizer, &bytes).unwrap();
    refused(&server.akidb(&["models", "import", path]), 2, &["tokenizer.json", "bytes, the manifest says"]);
    std::fs::write(folder.path().join("manifest.json"), "{}").unwrap();
    refused(&server.akidb(&["models", "import", path]), 2, &["manifest.json", "missing field"]);
    refused(&server.akidb(&["models", "import", "no/such/folder"]), 2, &["no/such/folder", "does not exist"]);
    assert_eq!(server.json(&["models", "list"])["models"].as_array().unwrap().len(), 0);
    assert!(!server.ok(&["audit", "list"]).contains("blob.put"), "nothing was uploaded");
}

#[test]
fn a_file_the_server_has_no_room_for_is_a_refusal() {
    let server = ControlPlane::start_with(&[("AKIDB_CP_MAX_BLOB_BYTES", "1000000")]);
    let done = server.akidb(&["models", "import", bundle().to_str().unwrap()]);
    refused(&done, 1, &["an upload of 90.3 MB: ", "more than 1000000 bytes", "max_blob_bytes", "too_large, HTTP 413"]);
}

#[test]
fn prices_are_set_and_listed() {
    let server = ControlPlane::start();
    let said = server.ok(&["prices", "set", "cpu", "--per-hour", "0.10", "--source", "example"]);
    assert!(said.starts_with("cpu in local costs $0.10 an hour from 20"), "{said}");
    let row = server.json(&["prices", "list"])["prices"][0].clone();
    assert_eq!(
        (&row["sku"], &row["price_per_hour"], &row["valid_to"]),
        (&"cpu".into(), &"0.100000000000".into(), &serde_json::Value::Null)
    );
    let listed = server.ok(&["prices", "list"]);
    assert!(listed.contains("$0.10") && listed.contains("open") && listed.contains("example"), "{listed}");
    let early = server.akidb(&["prices", "set", "cpu", "--per-hour", "0.20", "--from", "2020-01-01T00:00:00Z"]);
    refused(&early, 1, &["conflict, HTTP 409"]);
    let bad = server.akidb(&["prices", "set", "cpu", "--per-hour", "cheap"]);
    assert!(bad.code == 2 && bad.err.contains("`cheap` is not an amount in USD"), "{bad:?}");
}

#[test]
fn a_viewer_may_list_but_not_set() {
    let server = ControlPlane::start();
    let viewer = server.ok(&["tokens", "create", "--name", "dashboard", "--role", "viewer"]);
    let viewer = viewer.trim();
    assert!(viewer.starts_with("akidb_"), "stdout is the token alone");
    let with = |args: &[&str]| server.command(args).env("AKIDB_TOKEN", viewer).run();
    assert_eq!(with(&["prices", "list"]).code, 0);
    refused(&with(&["prices", "set", "cpu", "--per-hour", "1"]), 1, &["forbidden, HTTP 403", "role admin"]);

    let tokens = server.json(&["tokens", "list"]);
    let id = tokens["tokens"].as_array().unwrap().iter().find(|it| it["name"] == "dashboard").unwrap()["id"].as_str().unwrap().to_owned();
    assert!(!server.ok(&["tokens", "list"]).contains(viewer));
    assert_eq!(server.ok(&["tokens", "revoke", &id]), format!("revoked token {id}\n"));
    let revoked = with(&["prices", "list"]);
    refused(&revoked, 1, &["HTTP 401", "akidb tokens create"]);
    assert!(!revoked.err.contains(viewer));
}

#[test]
fn the_fleet_costs_and_audit_are_read() {
    let server = ControlPlane::start();
    assert_eq!(server.ok(&["sidecars", "list"]), "no sidecar has connected yet\n");
    refused(&server.akidb(&["sidecars", "show", "a/b"]), 1, &["a/b", "HTTP 404"]);
    assert!(server.ok(&["costs"]).contains("devices cost $0.00"));
    assert!(server.ok(&["costs", "--group-by", "app,day", "--from", "2026-01-01T00:00:00Z"]).contains("no requests were counted"));
    refused(&server.akidb(&["costs", "--from", "yesterday"]), 1, &["yesterday", "HTTP 400"]);
    assert!(server.ok(&["costs", "per-request"]).starts_with("no cost: no request with a price yet\n0 requests\n"));
    assert_eq!(server.json(&["costs", "per-request"])["scope"], "fleet");

    for name in ["a", "b", "c"] {
        server.ok(&["tokens", "create", "--name", name, "--role", "sidecar", "--namespace", "shop", "--app", "search"]);
    }
    let page = server.akidb(&["audit", "list", "--limit", "2"]);
    let (_, cursor) = page.err.trim().split_once("--after ").unwrap_or_else(|| panic!("no further page: {page:?}"));
    assert!(server.ok(&["audit", "list", "--after", cursor]).contains("token.create"), "{page:?}");
    assert!(server.ok(&["audit", "verify"]).ends_with("rows, the chain is intact\n"));
}

#[test]
fn an_absent_server_and_an_absent_token_are_told_apart() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let call = |args: &[&str]| Akidb::new(args).env("AKIDB_SERVER", &url);
    refused(&call(&["models", "list"]).env("AKIDB_TOKEN", "akidb_a_b").run(), 3, &[&url, "AKIDB_SERVER"]);
    refused(&call(&["models", "list"]).run(), 2, &["no token", "admin-token"]);
    refused(&call(&["models", "list", "--token-file", "/no/such/file"]).run(), 2, &["--token-file `/no/such/file` cannot be read"]);
    assert_eq!(call(&["models", "liszt"]).run().code, 2);
    assert_eq!(call(&["--help"]).run().code, 0);
}

#[test]
fn an_experiment_is_made_followed_and_ended() {
    let server = ControlPlane::start();
    let folder = tempfile::tempdir().unwrap();
    twin(folder.path(), "again");
    for path in [bundle(), folder.path().to_owned()] {
        server.ok(&["models", "import", path.to_str().unwrap()]);
    }
    let quiet = ["experiments", "validate", MODEL, "--canary", "again", "--rate", "0.01"];
    let done = server.akidb(&quiet);
    assert!(done.code == 1 && done.out.contains("requests 0.01 a second (given)") && done.out.contains("PROBES"), "{done:?}");
    refused(&done, 1, &["at 0.01 requests a second the phase of 5 % cannot reach a verdict"]);
    refused(&server.akidb(&["experiments", "create", MODEL, "--canary", "again", "--rate", "0.01"]), 1, &["send `force`", "HTTP 422"]);
    refused(&server.akidb(&["experiments", "create", MODEL, "--canary", "again", "--config", "/nowhere"]), 2, &["--config `/nowhere`"]);

    let config = folder.path().join("plan.json");
    std::fs::write(&config, r#"{"alpha": 0.01, "margins": {"errors": 0.02}}"#).unwrap();
    let create = ["experiments", "create", MODEL, "--canary", "again", "--id", "e", "--rate", "50", "--config", config.to_str().unwrap()];
    let said = server.ok(&create);
    assert!(said.starts_with("e is draft, phase 1 of 4 phases, 0 %") && said.contains("akidb experiments start e"), "{said}");
    assert_eq!(server.json(&["experiments", "list", "--model", MODEL])["experiments"][0]["config"]["alpha"], 0.01);
    let said = server.ok(&["experiments", "start", "e"]);
    assert!(said.starts_with("e is running, phase 1 of 4 phases, 5 %"), "{said}");
    assert!(server.ok(&["experiments", "list"]).contains("1/again"));
    assert!(server.ok(&["experiments", "show", "e"]).contains("all-MiniLM-L6-v2: 1/again against 1/fp32"));
    assert!(server.ok(&["experiments", "pause", "e", "--reason", "a holiday"]).contains("paused by hand: a holiday"));
    server.ok(&["experiments", "resume", "e"]);
    assert!(server.ok(&["experiments", "promote", "e"]).contains("25 %: promoted to 25 % by hand"));
    let routes = server.ok(&["experiments", "routes", "e", "--host", "shop"]);
    assert!(routes.contains("kind: VirtualService") && routes.contains("weight: 25"), "{routes}");
    let record = folder.path().join("record.json");
    server.ok(&["experiments", "record", "e", "--part", "1", "--output", record.to_str().unwrap()]);
    assert!(std::fs::read_to_string(&record).unwrap().starts_with("{\"sha256\":\""));

    let followed = std::thread::scope(|scope| {
        let follower = scope.spawn(|| server.akidb(&["experiments", "watch", "e"]));
        std::thread::sleep(std::time::Duration::from_millis(500));
        server.ok(&["experiments", "abort", "e", "--reason", "enough"]);
        follower.join().unwrap()
    });
    refused(&followed, 1, &["experiment `e` ended: aborted"]);
    for part in [" created", " started", " paused: paused by hand: a holiday", " aborted: aborted by hand: enough"] {
        assert!(followed.out.contains(part), "`{part}` is not in {followed:?}");
    }
    assert!(server.ok(&["experiments", "history", "e"]).contains("aborted by hand: enough"));
    refused(&server.akidb(&["experiments", "start", "e"]), 1, &["only one that is draft takes `start`"]);
}
