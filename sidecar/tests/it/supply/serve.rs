//! A sidecar from its configuration alone.

use akidb_sidecar::telemetry::segments::Segments;

use serde_json::json;

use super::{Bundle, Sidecar, config, entry};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_enough_and_the_end_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = akidb_testkit::bundle();
    let sidecar = Sidecar::start(config(folder.path(), &entry(bundle.to_str().unwrap(), "")), None).await.unwrap();
    let variant = sidecar.ready("fp32").await;
    assert_eq!(variant.loaded.unwrap().embedding_space, "all-minilm-l6-v2@sha256:53aa51172d142c89");
    let answer = sidecar.embed_ok().await;
    assert_eq!((answer["variant"].as_str(), answer["dimension"].as_u64(), answer["cost"].is_null()), (Some("fp32"), Some(384), true));
    assert!(sidecar.state.serving.load().problems.is_empty());
    sidecar.stop().await;

    let segments = Segments::open(&folder.path().join("spool"), 1 << 20, "later", u64::MAX).unwrap();
    let windows = segments.pending(64).unwrap().unwrap().windows;
    let (last, lanes): (Vec<bool>, Vec<_>) =
        (windows.iter().map(|it| it.last).collect(), windows.iter().flat_map(|it| &it.lanes).collect());
    assert_eq!((last.iter().filter(|it| **it).count(), last.last()), (1, Some(&true)));
    assert_eq!(windows.iter().map(|it| it.sequence).collect::<Vec<_>>(), (1..=windows.len() as u64).collect::<Vec<_>>());
    assert_eq!(lanes.iter().map(|it| it.requests).sum::<u64>(), 1);
    let overheads = windows.iter().filter_map(|it| it.device.as_ref()).flat_map(|it| &it.overheads);
    assert!(overheads.clone().any(|it| it.cause == "parity" && it.device_ns > 0 && it.variant == "fp32"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_bundle_and_a_manifest_beside_it_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::copy(&folder.path().join("models"));
    std::fs::rename(bundle.folder.join("manifest.json"), bundle.folder.join("model.manifest.json")).unwrap();
    // Relative to the configuration's folder.
    let sidecar =
        Sidecar::start(config(folder.path(), &entry("models/model.onnx", "dimension = 384\nprecision = \"fp32\"")), None).await.unwrap();
    sidecar.ready("fp32").await;
    sidecar.embed_ok().await;
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_entry_is_named_while_the_others_serve() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = akidb_testkit::bundle();
    let more = format!(
        "{}[[embedding.models.available]]\nname = \"bert-base\"\npath = \"file:///no/such/bert-base-INT8.onnx\"\ndimension = 768\n",
        entry(bundle.to_str().unwrap(), "")
    );
    let sidecar = Sidecar::start(config(folder.path(), &more), None).await.unwrap();
    sidecar.ready("fp32").await;
    sidecar.embed_ok().await;
    let problems = sidecar.state.serving.load().problems.clone();
    assert!(
        problems.len() == 1 && problems[0].contains("bert-base") && problems[0].contains("bert-base-INT8.manifest.json"),
        "{problems:?}"
    );
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensorrt_engine_is_refused_by_name_or_replaced_where_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    let trt = format!("file://{}/all-MiniLM-L6-v2-FP8.trt", models.display());
    let seed = |more: &str| entry(&trt, &format!("dimension = 384\nprecision = \"fp8\"\n{more}"));
    let refused = Sidecar::start(config(folder.path(), &seed("")), None).await.err().unwrap().to_string();
    assert!(refused.contains("`all-MiniLM-L6-v2-FP8.trt` is a TensorRT engine") && refused.contains("`cpu`"), "{refused}");
    let alone = Sidecar::start(config(folder.path(), &seed("fallback = true")), None).await.err().unwrap().to_string();
    assert!(alone.contains("no portable variant"), "{alone}");

    Bundle::copy(&models.join("all-MiniLM-L6-v2-fp32"));
    let sidecar = Sidecar::start(config(folder.path(), &seed("fallback = true")), None).await.unwrap();
    let variant = sidecar.ready("fp8").await;
    assert!(variant.reason.contains("TensorRT") && variant.reason.contains("(fp32) stands in"), "{}", variant.reason);
    let loaded = variant.loaded.unwrap();
    assert!(loaded.fallback && loaded.precision.as_str() == "fp32");
    assert_eq!(sidecar.embed_ok().await["precision"], "fp32");
    let metrics = sidecar.state.metrics.render().unwrap();
    assert!(metrics.contains(r#"akidb_provider_fallbacks_total{model="all-MiniLM-L6-v2",model_version="fp8"} 1"#));
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_fp8_graph_asked_for_by_name_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, fp8) = (Bundle::copy(&folder.path().join("m-fp32")), Bundle::copy(&folder.path().join("m-fp8")));
    fp8.edit(|manifest| manifest["variant"] = json!({"name": "fp8", "precision": "fp8"}));
    let entries = format!("{}{}", entry(&whole.uri(), ""), entry(&fp8.uri(), ""));
    let sidecar = Sidecar::start(config(folder.path(), &entries), None).await.unwrap();
    sidecar.ready("fp32").await;
    let (status, body) = sidecar.embed(json!({"text": "x", "model": "All-MiniLM-L6-v2@FP8"})).await;
    let message = body["error"]["message"].as_str().unwrap();
    assert_eq!((status, body["error"]["retryable"].as_bool()), (404, Some(false)), "{body}");
    assert!(message.contains("variant `fp8` cannot be served here") && message.contains("FP8 QDQ graph"), "{message}");
    assert!(message.ends_with("there are: fp32"), "{message}");
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demanded_provider_that_is_not_there_is_a_start_up_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), &entry(akidb_testkit::bundle().to_str().unwrap(), ""));
    config.runtime.provider = Some(akidb_domain::vocabulary::ExecutionProvider::TensorRt);
    let error = Sidecar::start(config, None).await.err().unwrap().to_string();
    assert!(error.contains("AKIDB_EMBEDDING_PROVIDER") && error.contains("`tensorrt`"), "{error}");
}
