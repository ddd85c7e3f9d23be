//! A real S3 server: imports stay where they are, a wrong secret is said to be one, a backup goes there and comes back.

use akidb_control_plane::backup;
use akidb_control_plane::clock::SystemClock;
use akidb_control_plane::config::Config;
use akidb_store::{S3Options, Store};
use akidb_testkit::S3Server;
use serde_json::json;

use crate::app::TestApp;
use crate::bundle::Bundle;

fn options(server: &S3Server, secret: &str) -> S3Options {
    S3Options {
        endpoint: Some(server.endpoint.clone()),
        region: Some("us-east-1".to_owned()),
        path_style: Some(true),
        keys: Some((server.access_key.clone(), secret.to_owned())),
    }
}

fn upload(app: &TestApp, store: &Store, bundle: &Bundle, prefix: &str) {
    let folder = app.folder.path().join("upload");
    bundle.write(&folder);
    for name in ["manifest.json", "model.onnx", "reference.json", "tokenizer.json"] {
        let uri = format!("{prefix}/{name}").parse().unwrap();
        app.runtime.block_on(store.put_file(&folder.join(name), &uri)).unwrap();
    }
}

#[test]
fn s3_holds_bundles_and_backups() {
    let server = S3Server::start();
    let s3 = options(&server, &server.secret_key);
    let mut app = TestApp::with(|config: &mut Config| config.s3 = s3.clone());
    let store = Store::new(s3);
    app.runtime.block_on(store.create_bucket("models")).unwrap();
    upload(&app, &store, &Bundle::new("m", "fp32"), "s3://models/m");
    let import = app.import("s3://models/m");
    assert_eq!(import["state"], "succeeded", "{import}");
    let file = &app.get("snapshot")["models"][0]["variants"][0]["artifacts"][0]["files"][0];
    assert_eq!(file["uri"], "s3://models/m/model.onnx");

    upload(&app, &store, &Bundle { engine: b"another".to_vec(), ..Bundle::new("n", "fp32") }, "s3://models/n");
    let wrong = app.folder.path().join("wrong");
    std::fs::write(&wrong, b"ANOTHER").unwrap();
    app.runtime.block_on(store.put_file(&wrong, &"s3://models/n/model.onnx".parse().unwrap())).unwrap();
    let import = app.import("s3://models/n");
    assert!(import["error"].as_str().unwrap().contains("its sha256 is"), "{import}");
    let import = app.import("s3://models/missing");
    assert!(import["error"].as_str().unwrap().contains("is not a bundle"), "{import}");

    app.runtime.block_on(backup::backup(&app.config, "s3://models/backups/one.db")).unwrap();
    app.post("models", &json!({"name": "later"}));
    app.stop();
    app.runtime.block_on(backup::restore(&app.config, &SystemClock, "s3://models/backups/one.db", true)).unwrap();
    app.run();
    assert_eq!(app.get("models")["models"].as_array().unwrap().len(), 1);

    let stranger = TestApp::with(|config: &mut Config| config.s3 = options(&server, "wrong-secret"));
    let import = stranger.import("s3://models/m");
    let error = import["error"].as_str().unwrap();
    assert!(error.contains("access refused") && error.contains("s3://models/m"), "{error}");
    assert!(!error.contains("wrong-secret"));
}
