//! Artifacts that must not serve, each refused in one sentence that names it.

use std::time::{Duration, Instant};

use akidb_domain::snapshot::VariantRef;
use akidb_sidecar::models::bundles::Bundles;
use akidb_sidecar::models::entries;
use akidb_sidecar::models::marker::Markers;
use akidb_sidecar::models::{Machine, Plan};
use serde_json::json;

use super::{Bundle, MODEL, Sidecar, config, entry};

async fn refusal(spoil: impl FnOnce(&Bundle)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::copy(&folder.path().join("bundle"));
    spoil(&bundle);
    match Sidecar::start(config(folder.path(), &entry(&bundle.uri(), "")), None).await {
        Err(error) => error.to_string(),
        Ok(sidecar) => {
            let reason = sidecar.failed("fp32").await;
            assert_eq!(sidecar.embed(json!({"text": "x"})).await.0, 503);
            sidecar.stop().await;
            reason
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_without_a_tokenizer() {
    let missing = refusal(|it| std::fs::remove_file(it.folder.join("tokenizer.json")).unwrap()).await;
    assert!(missing.contains("all-MiniLM-L6-v2@fp32") && missing.contains("tokenizer.json` does not exist"), "{missing}");
    let unlisted = refusal(|it| it.edit(|manifest| drop(manifest["files"].as_array_mut().unwrap().pop()))).await;
    assert!(unlisted.contains("no tokenizer"), "{unlisted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_with_other_inputs_than_its_manifest() {
    let reason =
        refusal(|it| it.edit(|manifest| manifest["graph"]["inputs"] = json!(["input_ids", "attention_mask", "token_type_ids"]))).await;
    assert!(
        reason.contains("all-MiniLM-L6-v2@fp32") && reason.contains("token_type_ids") && reason.contains("does not fit its manifest"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn something_that_is_no_onnx_file() {
    let reason = refusal(|it| {
        std::fs::write(it.folder.join("model.onnx"), b"not a graph").unwrap();
        it.reseal("model.onnx");
    })
    .await;
    assert!(reason.contains("all-MiniLM-L6-v2@fp32") && reason.contains("cannot be loaded"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::copy(&folder.path().join("bundle"));
    let path = bundle.folder.join("model.onnx");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[50_000_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let sidecar = Sidecar::start(config(folder.path(), &entry(&bundle.uri(), "")), None).await.unwrap();
    let reason = sidecar.failed("fp32").await;
    let expected = "11b833aa140c20785b6e8193e6577622d329628e7568ac2e1163fc8acacfe1c2";
    assert!(reason.contains("`model.onnx`: its sha256 is ") && reason.contains(expected), "{reason}");
    assert!(!folder.path().join("cache/partial").join(expected).exists());
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_contradicts_its_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let path = akidb_testkit::bundle();
    let error = Sidecar::start(config(folder.path(), &entry(path.to_str().unwrap(), "dimension = 768")), None).await.err().unwrap();
    assert!(error.to_string().contains("the entry says dimension 768, its bundle 384"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_never_serves_and_the_old_engine_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let good = entry(akidb_testkit::bundle().to_str().unwrap(), "");
    let sidecar = Sidecar::start(config(folder.path(), &good), None).await.unwrap();
    let old = sidecar.ready("fp32").await;

    let bundle = Bundle::copy(&folder.path().join("bundle"));
    bundle.spoil_reference();
    sidecar.models.follow(plan(&folder, &bundle).await);
    let reason = sidecar.failed("fp32").await;
    assert!(
        reason.contains("differ from its reference vectors") && reason.contains("0.9999") && reason.contains("goes on serving"),
        "{reason}"
    );
    let now = sidecar.variant("fp32").unwrap();
    assert_eq!(now.loaded.unwrap().digest, old.digest);
    assert_ne!(now.digest, old.digest);
    sidecar.embed_ok().await;
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_only_once_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(config(folder.path(), &entry(akidb_testkit::bundle().to_str().unwrap(), "")), None).await.unwrap();
    let old = sidecar.ready("fp32").await;
    let bundle = Bundle::copy(&folder.path().join("bundle"));
    let mut text = std::fs::read_to_string(bundle.folder.join("reference.json")).unwrap();
    text.push('\n');
    std::fs::write(bundle.folder.join("reference.json"), text).unwrap();
    bundle.reseal("reference.json");
    let mut next = plan(&folder, &bundle).await;
    let model = next.models.get_mut(MODEL).unwrap();
    let at = VariantRef { version: "2".into(), variant: "fp32".into() };
    (model.default, model.variants[0].at) = (at.clone(), at);
    sidecar.models.follow(next);
    // Until the last moment the old version answers; no request meets a gap.
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < until, "{:?}", sidecar.state.serving.load().models[MODEL]);
        let answer = sidecar.embed_ok().await;
        assert_eq!(answer["variant"], "fp32");
        let serving = sidecar.state.serving.load();
        let model = &serving.models[MODEL];
        if model.default.version == "2" {
            assert!(model.variants.len() == 1 && model.variants[0].digest != old.digest);
            break;
        }
    }
    sidecar.embed_ok().await;
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_two_processes_did_not_survive_is_quarantined_and_the_previous_one_boots() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(config(folder.path(), &entry(akidb_testkit::bundle().to_str().unwrap(), "")), None).await.unwrap();
    let good = sidecar.ready("fp32").await;
    sidecar.stop().await;

    let bundle = Bundle::copy(&folder.path().join("bundle"));
    bundle.spoil_reference();
    let digest = plan(&folder, &bundle).await.models[MODEL].variants[0].choice.as_ref().unwrap().artifact.digest.clone();
    let markers = Markers::open(folder.path()).unwrap();
    markers.begin(&digest).unwrap();
    markers.begin(&digest).unwrap();
    let sidecar = Sidecar::start(config(folder.path(), &entry(&bundle.uri(), "")), None).await.unwrap();
    let variant = sidecar.wait("fp32", |it| it.loaded.is_some()).await;
    assert!(variant.reason.contains("quarantined") && variant.reason.contains("goes on serving"), "{}", variant.reason);
    assert_eq!(variant.loaded.unwrap().digest, good.digest);
    sidecar.embed_ok().await;
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tensorrt_provider_test_another_artifact_of_the_variant_stands_in_for_one_that_fails_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(config(folder.path(), &entry(akidb_testkit::bundle().to_str().unwrap(), "")), None).await.unwrap();
    sidecar.ready("fp32").await;
    let (bundle, good) = (Bundle::copy(&folder.path().join("bundle")), Bundle::copy(&folder.path().join("good")));
    bundle.spoil_reference();
    let spare = plan(&folder, &good).await.models[MODEL].variants[0].choice.clone().unwrap();
    let mut next = plan(&folder, &bundle).await;
    let model = next.models.get_mut(MODEL).unwrap();
    let at = VariantRef { version: "2".into(), variant: "engine".into() };
    (model.default, model.variants[0].at, model.variants[0].spare) = (at.clone(), at, vec![spare.clone()]);
    sidecar.models.follow(next);
    let variant = sidecar.wait("engine", |it| it.loaded.is_some()).await;
    assert_eq!(variant.loaded.unwrap().digest, spare.artifact.digest);
    assert!(
        variant.reason.contains("differ from its reference vectors") && variant.reason.contains("runs on `cpu` in its place"),
        "{}",
        variant.reason
    );
    sidecar.embed_ok().await;
    sidecar.stop().await;
}

pub(super) async fn plan(folder: &tempfile::TempDir, bundle: &Bundle) -> Plan {
    let models = config(folder.path(), &entry(&bundle.uri(), "")).models;
    let store = akidb_store::Store::new(akidb_store::S3Options::default());
    entries::resolve(&models, &Machine::cpu(), &Bundles::new(store, folder.path()), true).await.unwrap()
}
