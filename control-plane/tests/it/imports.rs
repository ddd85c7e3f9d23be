//! Bundles on their way in, good and bad.

use serde_json::json;

use crate::app::TestApp;
use crate::bundle::{Bundle, sha256};

#[test]
fn the_real_bundle_comes_in_from_a_folder_and_serves() {
    let app = TestApp::start();
    let folder = akidb_testkit::bundle();
    let import = app.import_folder(&folder);
    assert_eq!((&import["model"], &import["artifact_state"]), (&json!("all-MiniLM-L6-v2"), &json!("ready")), "{import}");
    assert_eq!(import["done_bytes"], import["total_bytes"]);
    let again = app.import_folder(&folder);
    assert_eq!(again["digest"], import["digest"], "the same bundle is the same artifact");

    let model = &app.get("snapshot")["models"][0];
    assert_eq!((&model["version"], &model["dimension"]), (&json!("1"), &json!(384)));
    assert_eq!(model["aliases"], json!({"default": {"version": "1", "variant": "fp32"}, "stable": {"version": "1", "variant": "fp32"}}));
    assert_eq!(model["variants"][0]["hold"], true);
    let engine = &model["variants"][0]["artifacts"][0]["files"][0];
    let kept = engine["uri"].as_str().unwrap().strip_prefix("file://").unwrap();
    assert_eq!(std::fs::metadata(kept).unwrap().len(), engine["file"]["bytes"].as_u64().unwrap());
    assert!(kept.ends_with(engine["file"]["sha256"].as_str().unwrap()));
}

#[test]
fn the_real_bundle_comes_in_as_blobs() {
    let app = TestApp::start();
    let folder = akidb_testkit::bundle();
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    app.call("POST", "imports", Some(&json!({"manifest": manifest}))).refused(422, "invalid");
    for file in manifest["files"].as_array().unwrap() {
        let (sha, bytes) = (file["sha256"].as_str().unwrap(), std::fs::read(folder.join(file["path"].as_str().unwrap())).unwrap());
        app.call("HEAD", &format!("blobs/{sha}"), None).expect(404);
        app.put_blob(sha, bytes.clone()).expect(201);
        app.call("HEAD", &format!("blobs/{sha}"), None).expect(200);
        if bytes.len() < 1_000_000 {
            app.put_blob(sha, bytes).expect(200);
        }
    }
    let import = app.post("imports", &json!({"manifest": manifest, "version": "2", "set_default": true}));
    assert_eq!((&import["state"], &import["version"]), (&json!("succeeded"), &json!("2")), "{import}");
    assert_eq!(app.get("models/all-minilm-l6-v2/aliases/default")["moved_by_hand"], true);
}

#[test]
fn a_blob_that_says_it_is_too_large_is_refused_before_it_is_sent() {
    use std::io::{Read, Write};
    let app = TestApp::with(|config| config.max_blob_bytes = 1_000);
    let mut stream = std::net::TcpStream::connect(app.rest.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let (sha, admin) = (sha256(b"x"), &app.admin);
    let head = format!("PUT /api/v1/blobs/{sha} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {admin}\r\ncontent-length: 1001\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 1_024];
    let n = stream.read(&mut answer).expect("an answer before any byte of the body");
    let answer = String::from_utf8_lossy(&answer[..n]);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("max_blob_bytes"), "{answer}");
    app.put_blob(&sha, b"x".to_vec()).expect(201);
    assert_eq!(std::fs::read_dir(app.config.data_dir.join("incoming")).unwrap().count(), 0, "nothing is left over");
}

#[test]
fn a_blob_whose_digest_differs_is_not_kept() {
    let app = TestApp::start();
    let sha = sha256(b"right");
    let error = app.put_blob(&sha, b"wrong".to_vec()).refused(422, "invalid");
    assert!(error.contains(&sha) && error.contains(&sha256(b"wrong")), "{error}");
    app.call("HEAD", &format!("blobs/{sha}"), None).expect(404);
    app.put_blob("xyz", b"".to_vec()).refused(422, "invalid");
}

fn check_fails(spoil: impl FnOnce(&std::path::Path, &Bundle), expected: &[&str]) {
    let app = TestApp::start();
    let (folder, bundle) = (app.folder.path().join("b"), Bundle::new("m", "fp32"));
    bundle.write(&folder);
    spoil(&folder, &bundle);
    let import = app.import(&format!("file://{}", folder.display()));
    assert_eq!(import["state"], "failed", "{import}");
    let error = import["error"].as_str().unwrap();
    for part in expected {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert_eq!(app.get("models")["models"], json!([]), "nothing is half-catalogued");
}

#[test]
fn a_flipped_byte_is_found() {
    let bundle = Bundle::new("m", "fp32");
    let mut flipped = bundle.engine.clone();
    flipped[3] ^= 0x10;
    let (expected, got) = (sha256(&bundle.engine), sha256(&flipped));
    check_fails(move |folder, _| std::fs::write(folder.join("model.onnx"), flipped).unwrap(), &["model.onnx", &expected, &got]);
}

#[test]
fn every_other_damage_is_named() {
    check_fails(|folder, _| std::fs::remove_file(folder.join("tokenizer.json")).unwrap(), &["tokenizer.json", "does not exist"]);
    check_fails(|folder, _| std::fs::write(folder.join("model.onnx"), b"short").unwrap(), &["model.onnx", "has 5 bytes"]);
    check_fails(|folder, _| std::fs::remove_file(folder.join("manifest.json")).unwrap(), &["is not a bundle", "manifest.json"]);
    let without_tokenizer = |folder: &std::path::Path, bundle: &Bundle| {
        let mut manifest = bundle.manifest();
        manifest["files"].as_array_mut().unwrap().pop();
        std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    };
    check_fails(without_tokenizer, &["has no tokenizer"]);
}

#[test]
fn seeded_weights_are_ready_and_say_so() {
    let app = TestApp::start();
    let folder = app.folder.path().join("b");
    Bundle { seeded: true, evaluation: serde_json::Value::Null, ..Bundle::new("m", "fp32") }.write(&folder);
    let import = app.import_folder(&folder);
    assert_eq!(import["artifact_state"], "ready");
    assert_eq!(app.get("snapshot")["models"][0]["seeded"], true);
    let shown = app.get("models/m");
    assert_eq!(shown["versions"][0]["seeded"], true);
    let artifact = &shown["versions"][0]["variants"][0]["artifacts"][0];
    assert_eq!(artifact["evaluations"][0]["verdict"], "not_applicable");
    assert_eq!(artifact["evaluations"][0]["reason"], "seeded");

    // Whatever figures come with a seeded child, they prove nothing and bar nothing from serving.
    let child = Bundle { seeded: true, ..Bundle::int8("m", artifact["digest"].as_str().unwrap(), 0.2) };
    let (state, verdict, reason) = gate(&app, &child);
    assert_eq!((state.as_str(), verdict.as_str(), reason.as_str()), ("ready", "not_applicable", "seeded"));
}

/// Imports a bundle; the state of its artifact, and the verdict with its reason.
fn gate(app: &TestApp, bundle: &Bundle) -> (String, String, String) {
    let folder = app.folder.path().join(uuid());
    bundle.write(&folder);
    let import = app.import_folder(&folder);
    let (model, digest) = (import["model"].as_str().unwrap(), import["digest"].as_str().unwrap());
    let shown = app.get(&format!("models/{model}"));
    let every = shown["versions"].as_array().unwrap().iter().flat_map(|it| it["variants"].as_array().unwrap());
    let artifact = every.flat_map(|it| it["artifacts"].as_array().unwrap()).find(|it| it["digest"] == digest).unwrap().clone();
    let newest = &artifact["evaluations"][0];
    let text = |it: &serde_json::Value| it.as_str().unwrap().to_owned();
    (text(&artifact["state"]), text(&newest["verdict"]), text(&newest["reason"]))
}

fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[test]
fn each_step_of_a_lineage_has_its_own_gate_and_the_refusal_names_the_figure() {
    let app = TestApp::start();
    let root = Bundle::new("teacher", "fp32");
    assert_eq!(gate(&app, &root).0, "ready");
    let digest = app.get("models/teacher")["versions"][0]["variants"][0]["artifacts"][0]["digest"].as_str().unwrap().to_owned();

    let (state, verdict, reason) = gate(&app, &Bundle::int8("teacher", &digest, 0.985));
    assert_eq!((state.as_str(), verdict.as_str()), ("validated", "failed"));
    assert!(reason.contains("mean_cosine 0.985 is below its gate 0.99"), "{reason}");
    let snapshot = app.get("snapshot");
    let variants = snapshot["models"][0]["variants"].as_array().unwrap();
    assert!(variants.iter().all(|it| it["name"] != "int8"), "what is not ready is not served: {snapshot}");
    let bad = app.get("models/teacher")["versions"][0]["variants"][1]["artifacts"][0]["digest"].as_str().unwrap().to_owned();
    let path = format!("models/teacher/versions/1/variants/int8/artifacts/{bad}/state");
    let refusal = app.call("PUT", &path, Some(&json!({"state": "ready"}))).refused(422, "invalid");
    assert!(refusal.contains("mean_cosine 0.985 is below its gate 0.99"), "{refusal}");

    let mut better = Bundle::int8("teacher", &digest, 0.997);
    better.evaluation["recall_at_10"] = 0.85.into();
    let (_, verdict, reason) = gate(&app, &better);
    assert!(verdict == "failed" && reason.contains("recall_at_10 0.85 is below its gate 0.9"), "{reason}");
    better.evaluation["recall_at_10"] = 0.95.into();
    assert_eq!(gate(&app, &better).0, "ready", "the same artifact, proven again");

    // A student is a model of its own: its parent is the teacher, its gate the one that it states.
    let distilled = json!({"kind": "distillation", "n": 2_000, "mean_cosine": 0.94, "gate": {"mean_cosine": 0.93}, "passed": true});
    let student = Bundle { parent: Some(digest.clone()), evaluation: distilled.clone(), ..Bundle::new("student", "fp32") };
    assert_eq!(gate(&app, &student).0, "ready");
    let weak =
        Bundle { evaluation: json!({"kind": "distillation", "n": 2_000, "mean_cosine": 0.92, "gate": {"mean_cosine": 0.93}}), ..student };
    let weak = Bundle { model: "weak".into(), engine: b"weak".to_vec(), ..weak };
    let (_, _, reason) = gate(&app, &weak);
    assert!(reason.contains("mean_cosine 0.92 is below its gate 0.93"), "{reason}");
    // Nothing of the teacher's own model gets through as its student.
    let posing = Bundle { parent: Some(digest), evaluation: distilled, ..Bundle::new("teacher", "fp32-b") };
    let (state, _, reason) = gate(&app, &posing);
    assert!(state == "validated" && reason.contains("below its gate 0.99"), "{reason}");
}

/// Writes a bundle and imports it with a version or without; what became of it.
fn imported(app: &TestApp, bundle: &Bundle, version: Option<&str>) -> serde_json::Value {
    let folder = app.folder.path().join(uuid());
    bundle.write(&folder);
    let uri = format!("file://{}", folder.display());
    let id = app.call("POST", "imports", Some(&json!({"uri": uri, "version": version}))).expect(202)["id"].as_str().unwrap().to_owned();
    loop {
        let import = app.get(&format!("imports/{id}"));
        if import["state"] != "running" {
            return import;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn an_engine_goes_to_its_parent_and_one_that_depends_on_the_batch_is_not_served() {
    let app = TestApp::start();
    let root = imported(&app, &Bundle::new("m", "fp32"), Some("2026-11"));
    let parent = root["digest"].as_str().unwrap().to_owned();
    let good = imported(&app, &Bundle::engine("m", &parent, 0.9973), None);
    assert_eq!((&good["version"], &good["artifact_state"]), (&json!("2026-11"), &json!("ready")), "{good}");
    assert_eq!(good["evaluation_error"], json!(null));
    // The same again, though its version is not named.
    assert_eq!(imported(&app, &Bundle::new("m", "fp32"), None)["version"], "2026-11");
    assert_eq!(imported(&app, &Bundle::new("n", "fp32"), None)["version"], "1");

    let path = format!("models/m/versions/2026-11/variants/tensorrt-fp8/artifacts/{}", good["digest"].as_str().unwrap());
    let artifact = app.get(&path);
    assert_eq!(artifact["lineage"]["parent_digest"], parent);
    assert_eq!(artifact["evaluations"][0]["report"]["batch_invariance"], 0.9973);
    let snapshot = app.get("snapshot");
    let variants = snapshot["models"][0]["variants"].as_array().unwrap();
    let engine = variants.iter().find(|it| it["name"] == "tensorrt-fp8").unwrap();
    assert_eq!(engine["artifacts"][0]["target"]["compute_capability"], "9.0");

    let apart = Bundle { variant: "tensorrt-fp8-two".into(), engine: b"two".to_vec(), ..Bundle::engine("m", &parent, 0.985) };
    let refused = imported(&app, &apart, None);
    assert_eq!(refused["artifact_state"], "validated");
    assert_eq!(refused["evaluation_error"], "batch_invariance 0.985 is below its gate 0.99");
    let snapshot = app.get("snapshot").to_string();
    assert!(!snapshot.contains("tensorrt-fp8-two"), "{snapshot}");
}

#[test]
fn a_bundle_that_contradicts_its_version_is_refused() {
    let app = TestApp::start();
    let (first, second) = (app.folder.path().join("a"), app.folder.path().join("b"));
    Bundle::new("m", "fp32").write(&first);
    app.import_folder(&first);
    Bundle { seeded: true, ..Bundle::new("m", "other") }.write(&second);
    let import = app.import(&format!("file://{}", second.display()));
    assert!(import["error"].as_str().unwrap().contains("seeded is `false`"), "{import}");
    app.call("POST", "imports", Some(&json!({"uri": "ftp://x"}))).refused(422, "invalid");
    app.call("GET", "imports/none", None).refused(404, "not_found");
}
