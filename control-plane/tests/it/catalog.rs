//! Models, versions, variants, artifacts and aliases: what is allowed, and what is refused by which name.

use serde_json::json;

use crate::app::TestApp;
use crate::bundle::{Bundle, sha256};

fn version() -> serde_json::Value {
    json!({"name": "1", "dimension": 4, "max_tokens": 16, "pooling": "mean", "normalized": true, "embedding_space": "m@1", "tokenizer_sha256": sha256(b"{}")})
}

#[test]
fn a_model_is_built_by_hand_and_taken_down_again() {
    let app = TestApp::start();
    app.post("models", &json!({"name": "M", "description": "d"}));
    app.call("POST", "models", Some(&json!({"name": "m"}))).refused(409, "conflict");
    app.call("POST", "models", Some(&json!({"name": "a/b"}))).refused(422, "invalid");
    app.call("POST", "models", Some(&json!({"nam": "a"}))).refused(400, "malformed");
    app.post("models/m/versions", &version());
    app.call("POST", "models/m/versions", Some(&version())).refused(409, "conflict");
    app.call("DELETE", "models/m", None).refused(409, "conflict");
    app.call("POST", "models/m/versions/1/variants", Some(&json!({"name": "stable", "precision": "fp32"}))).refused(422, "invalid");
    let error =
        app.call("POST", "models/m/versions/1/variants", Some(&json!({"name": "x", "precision": "fp64"}))).refused(400, "malformed");
    assert!(error.contains("fp64"), "{error}");
    app.post("models/m/versions/1/variants", &json!({"name": "fp32", "precision": "fp32"}));
    assert_eq!(app.get("models/m")["versions"][0]["variants"][0]["name"], "fp32");
    assert_eq!(app.call("DELETE", "models/m/versions/1/variants/fp32", None).status, 204);
    assert_eq!(app.call("DELETE", "models/m/versions/1", None).status, 204);
    assert_eq!(app.call("DELETE", "models/m", None).status, 204);
    app.call("GET", "models/m", None).refused(404, "not_found");
}

#[test]
fn an_artifact_lives_from_uploaded_to_deleted() {
    let app = TestApp::start();
    app.post("models", &json!({"name": "m"}));
    app.post("models/m/versions", &version());
    app.post("models/m/versions/1/variants", &json!({"name": "fp32", "precision": "fp32"}));
    let bundle = Bundle::new("m", "fp32");
    let folder = app.folder.path().join("b");
    bundle.write(&folder);
    let mut files = bundle.manifest()["files"].clone();
    for file in files.as_array_mut().unwrap() {
        file["uri"] = format!("file://{}/{}", folder.display(), file["path"].as_str().unwrap()).into();
    }
    let list = "models/m/versions/1/variants/fp32/artifacts";
    let new = json!({"target": {"provider": "portable"}, "graph": {"inputs": ["a"], "output": "b"}, "files": files, "lineage": {}});
    let artifact = app.post(list, &new);
    assert_eq!(artifact["state"], "uploaded");
    let path = format!("{list}/{}", artifact["digest"].as_str().unwrap());
    app.call("POST", list, Some(&new)).refused(409, "conflict");
    app.call("PUT", &format!("{path}/state"), Some(&json!({"state": "ready"}))).refused(422, "invalid");
    app.call("DELETE", &path, None).refused(409, "conflict");

    let mut evaluation = bundle.evaluation.clone();
    evaluation["min_cosine"] = 0.5.into();
    assert_eq!(app.post(&format!("{path}/evaluations"), &evaluation)["state"], "validated");
    let error = app.call("PUT", &format!("{path}/state"), Some(&json!({"state": "ready"}))).refused(422, "invalid");
    assert!(error.contains("0.5 is below its gate"), "{error}");
    assert_eq!(app.post(&format!("{path}/evaluations"), &bundle.evaluation)["state"], "ready");

    assert_eq!(app.get("models/m/aliases/default")["variant"], "fp32");
    app.call("PUT", &format!("{path}/state"), Some(&json!({"state": "retired"}))).refused(409, "conflict");
    for alias in ["default", "stable"] {
        assert_eq!(app.call("DELETE", &format!("models/m/aliases/{alias}"), None).status, 204);
    }
    app.call("PUT", &format!("{path}/state"), Some(&json!({"state": "retired"}))).expect(200);
    app.call("DELETE", "models/m/versions/1/variants/fp32", None).refused(409, "conflict");
    assert_eq!(app.call("DELETE", &path, None).status, 204);
}

#[test]
fn a_file_that_is_not_what_it_claims_is_refused() {
    let app = TestApp::start();
    app.post("models", &json!({"name": "m"}));
    app.post("models/m/versions", &version());
    app.post("models/m/versions/1/variants", &json!({"name": "fp32", "precision": "fp32"}));
    let bundle = Bundle::new("m", "fp32");
    let folder = app.folder.path().join("b");
    bundle.write(&folder);
    let mut files = bundle.manifest()["files"].clone();
    for file in files.as_array_mut().unwrap() {
        file["uri"] = format!("file://{}/{}", folder.display(), file["path"].as_str().unwrap()).into();
    }
    let mut engine = bundle.engine.clone();
    engine[0] ^= 1;
    std::fs::write(folder.join("model.onnx"), engine).unwrap();
    let new = json!({"target": {"provider": "portable"}, "graph": {"inputs": ["a"], "output": "b"}, "files": files, "lineage": {}});
    let error = app.call("POST", "models/m/versions/1/variants/fp32/artifacts", Some(&new)).refused(422, "invalid");
    assert!(error.contains("model.onnx") && error.contains(&sha256(&bundle.engine)), "{error}");
}

#[test]
fn an_alias_moves_by_compare_and_swap() {
    let app = TestApp::start();
    for variant in ["fp32", "fp32-b"] {
        let folder = app.folder.path().join(variant);
        Bundle::new("m", variant).write(&folder);
        app.import_folder(&folder);
    }
    let put = |alias: &str, headers: &[(&str, &str)], variant: &str| {
        let body = json!({"version": "1", "variant": variant});
        app.call_as(&app.admin, headers, "PUT", &format!("models/m/aliases/{alias}"), Some(&body))
    };
    put("stable", &[], "fp32-b").refused(428, "precondition_required");
    put("stable", &[("if-none-match", "*")], "fp32-b").refused(412, "stale");
    put("stable", &[("if-match", "\"999\"")], "fp32-b").refused(412, "stale");
    let etag = app.call("GET", "models/m/aliases/stable", None).etag.unwrap();
    let moved = put("stable", &[("if-match", &etag)], "fp32-b");
    assert_ne!(moved.etag.as_ref().unwrap(), &etag);
    moved.expect(200);
    assert_eq!(app.get("models/m/aliases/default")["variant"], "fp32-b", "default follows stable");
    put("stable", &[("if-match", &etag)], "fp32").refused(412, "stale");

    let etag = app.call("GET", "models/m/aliases/default", None).etag.unwrap();
    put("default", &[("if-match", &etag)], "fp32").expect(200);
    let etag = app.call("GET", "models/m/aliases/stable", None).etag.unwrap();
    put("stable", &[("if-match", &etag)], "fp32-b").expect(200);
    assert_eq!(app.get("models/m/aliases/default")["variant"], "fp32", "a default moved by hand stays");
    put("fp32", &[("if-none-match", "*")], "fp32").refused(422, "invalid");
    put("mine", &[("if-none-match", "*")], "fp32").expect(200);
    app.call("POST", "models/m/versions/1/variants", Some(&json!({"name": "Mine", "precision": "fp32"}))).refused(422, "invalid");
    app.post("models/m/versions/1/variants", &json!({"name": "empty", "precision": "int8"}));
    put("other", &[("if-none-match", "*")], "empty").refused(422, "invalid");
}

#[test]
fn lists_come_in_pages() {
    let app = TestApp::start();
    for i in 0..5 {
        app.post("models", &json!({"name": format!("m{i}")}));
    }
    let (mut after, mut names) = (String::new(), Vec::new());
    loop {
        let page = app.get(&format!("models?limit=2{after}"));
        names.extend(page["models"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
    app.call("GET", "models?limit=0", None).refused(422, "invalid");
    app.call("GET", "models?lim=1", None).refused(400, "malformed");
}
