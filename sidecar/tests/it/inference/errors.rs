//! Every row of the error table of `docs/API/sidecar.md`, and that what the document says is what the server does.

use akidb_sidecar::batcher::BatcherConfig;
use akidb_sidecar::engine::EngineError;
use akidb_sidecar::engine::onnx::{self, Runtime};
use serde_json::{Value, json};

use super::rig::{Rig, engine_spec, manifest};
use super::{Got, agent, embed, get, post, send, shared};

fn check(got: &Got, status: u16, code: &str, says: &str) {
    assert_eq!((got.status, got.code()), (status, code), "{}", got.body);
    let message = got.body["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(says), "`{says}` is not in `{message}`");
    assert_eq!(got.body["error"]["retryable"], Value::Bool(matches!(status, 429 | 500 | 503 | 504)), "{}", got.body);
}

#[test]
fn bad_requests() {
    let rig = shared();
    let raw = |text: &str| send(agent().post(rig.url("/api/v1/embed")).content_type("application/json").send(text));
    check(&raw("{"), 400, "malformed", "line 1");
    check(&raw(""), 400, "malformed", "EOF");
    check(&raw(r#"{"text": 7}"#), 400, "malformed", "expected a string");
    check(&raw("{\"text\": \"\\ud800\"}"), 400, "malformed", "");
    check(&embed(rig, &json!({ "text": "a", "purpose": "fun" })), 400, "malformed", "query, index");
    check(&embed(rig, &json!({})), 422, "invalid", "`text` or `texts`");
    check(&embed(rig, &json!({ "text": "a", "texts": ["b"] })), 422, "invalid", "not both");
    check(&embed(rig, &json!({ "texts": [] })), 422, "invalid", "0 texts");
    check(&embed(rig, &json!({ "text": "" })), 422, "invalid", "text 0 is empty");
    check(&embed(rig, &json!({ "texts": vec!["a"; 1_025] })), 422, "invalid", "1025 texts");
    check(&embed(rig, &json!({ "text": "word ".repeat(300), "truncate": false })), 422, "invalid", "256 tokens");
    for dimensions in [0, 385] {
        check(&embed(rig, &json!({ "text": "a", "dimensions": dimensions })), 422, "invalid", "1 to 384");
    }
    check(&embed(rig, &json!({ "text": "a", "normalize": false })), 422, "invalid", "normalize: false");
    check(&embed(rig, &json!({ "text": "a", "prompt_name": "nope" })), 422, "invalid", "there are: query");
    check(&embed(rig, &json!({ "text": "a", "timeout_ms": 0 })), 422, "invalid", "timeout_ms");
    check(&embed(rig, &json!({ "text": "a", "model": "nope" })), 404, "unknown_model", "there are: all-MiniLM-L6-v2");
    check(&embed(rig, &json!({ "text": "a", "model": "a/b@c" })), 404, "unknown_model", "a/b@c");
    check(&embed(rig, &json!({ "text": "a", "model": "all-MiniLM-L6-v2@nope" })), 404, "unknown_variant", "fp32, stable");
    let header = agent().post(rig.url("/api/v1/embed")).header("x-akidb-app", "a".repeat(129)).content_type("application/json");
    check(&send(header.send(r#"{"text": "a"}"#)), 422, "invalid", "x-akidb-app");
}

#[test]
fn other_routes_and_methods_answer_json_too() {
    let rig = shared();
    check(&get(&rig.url("/nope")), 404, "not_found", "/nope");
    check(&get(&rig.url("/api/v1/embed")), 405, "method_not_allowed", "GET");
    check(&send(agent().post(rig.url("/api/v1/embed")).content_type("text/plain").send("hi")), 415, "unsupported_media_type", "text/plain");
}

#[test]
fn a_body_over_the_limit_is_drained_and_refused() {
    let body = json!({ "text": "a".repeat(3 << 20) });
    check(&embed(shared(), &body), 413, "body_too_large", "2097152 bytes");
}

#[test]
fn a_variant_that_is_not_loaded_is_not_ready() {
    let rig = Rig::start(BatcherConfig::default());
    let mut variant = rig.real();
    (variant.loaded, variant.state) = (None, akidb_sidecar::serving::VariantState::Loading);
    rig.publish(vec![variant], None);
    let got = embed(&rig, &json!({ "text": "a" }));
    check(&got, 503, "not_ready", "loading");
    assert!(got.header("retry-after").parse::<u64>().is_ok_and(|it| it > 0));
    assert_eq!(get(&rig.url("/readyz")).status, 503);
    rig.publish(vec![rig.real()], None);
    assert_eq!(get(&rig.url("/readyz")).status, 200);
    rig.state.readiness.drain();
    assert_eq!((get(&rig.url("/readyz")).status, get(&rig.url("/healthz")).status), (503, 200));
    assert_eq!(embed(&rig, &json!({ "text": "a" })).status, 200, "it still answers while it drains");
}

#[test]
fn an_engine_that_fails_or_panics_is_a_500_and_a_slow_one_a_504() {
    let rig = Rig::start(BatcherConfig::default());
    let failing = rig.fake("failing", |_| Err(EngineError::Run("secret detail".into())));
    let panicking = rig.fake("panicking", |_| panic!("secret detail"));
    let (slow, held) = rig.held("slow");
    rig.publish(vec![rig.real(), failing, panicking, slow], None);
    for variant in ["failing", "panicking"] {
        let got = embed(&rig, &json!({ "text": "a", "model": format!("all-MiniLM-L6-v2@{variant}") }));
        check(&got, 500, "engine_failed", "log");
        assert!(!got.body.to_string().contains("secret"), "{}", got.body);
    }
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| embed(&rig, &json!({ "text": "a", "model": "all-MiniLM-L6-v2@slow", "timeout_ms": 300_000 })));
        held.inside();
        // The batch runs until it is let go; neither what is past its deadline nor health waits for it.
        check(&embed(&rig, &json!({ "text": "a", "model": "all-MiniLM-L6-v2@slow", "timeout_ms": 100 })), 504, "deadline", "deadline");
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(get(&rig.url(path)).status, 200, "{path}");
        }
        drop(held);
        assert_eq!(patient.join().unwrap().status, 200);
    });
    assert_eq!(embed(&rig, &json!({ "text": "a" })).status, 200, "the executor lives");
}

#[test]
fn the_document_is_the_server() {
    let rig = shared();
    let document = get(&rig.url("/api/openapi.json")).body;
    let paths = document["paths"].as_object().expect("paths");
    let expected = "/ /api/openapi.json /api/v1/cost-per-request /api/v1/embed /api/v1/models /embed /health /healthz /info /metrics /readyz \
        /v1/embeddings /v1/models /v1/models/{id}";
    assert_eq!(paths.keys().map(String::as_str).collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>());
    let body = json!({ "text": "hello", "inputs": "hello", "input": "hello", "model": "all-MiniLM-L6-v2" });
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            let url = rig.url(&path.replace("{id}", "all-MiniLM-L6-v2"));
            let got = if method == "get" { get(&url) } else { post(&url, &body) };
            assert_eq!(got.status, 200, "{method} {path}: {}", got.body);
            assert!(methods[method]["responses"].get("200").is_some(), "{method} {path}");
        }
    }
    let vector: Vec<_> =
        document["components"]["schemas"]["Vector"]["oneOf"].as_array().expect("two kinds").iter().map(|it| it["type"].clone()).collect();
    assert_eq!(vector, ["array", "string"]);
    let fields = &document["components"]["schemas"]["EmbedResponse"]["properties"];
    let answer = embed(rig, &json!({ "text": "hello" })).body;
    for field in answer.as_object().expect("an object").keys() {
        assert!(fields.get(field).is_some(), "`{field}` is not in the document");
    }
}

#[test]
fn a_model_list() {
    let got = get(&shared().url("/api/v1/models")).body;
    let model = &got["models"][0];
    assert_eq!(
        (&model["name"], &model["default_variant"], &model["default_precision"]),
        (&json!("all-MiniLM-L6-v2"), &json!("fp32"), &json!("fp32"))
    );
    let variant = &model["variants"][0];
    assert_eq!((&variant["state"], &variant["provider"], &variant["progress"]), (&json!("ready"), &json!("cpu"), &json!(1.0)));
}

#[test]
fn a_graph_that_does_not_fit_its_manifest_is_refused_by_name() {
    Runtime::init(&akidb_testkit::onnxruntime()).unwrap();
    let refused = |change: &dyn Fn(&mut akidb_sidecar::engine::EngineSpec)| {
        let mut spec = engine_spec(&manifest());
        change(&mut spec);
        onnx::load(&spec).err().expect("a refusal").to_string()
    };
    let says = |message: String, expected: &str| assert!(message.contains(expected), "`{expected}` is not in `{message}`");
    says(refused(&|it| it.graph.inputs = vec!["ids".into()]), "expected ids, found attention_mask, input_ids");
    says(refused(&|it| it.graph.output = "pooled".into()), "expected `pooled`, found sentence_embedding");
    says(refused(&|it| it.dimension = 768), "expected float32 [batch, 768]");
    says(refused(&|it| it.path = "/nowhere.onnx".into()), "cannot be loaded");
    says(refused(&|it| it.provider = akidb_domain::vocabulary::ExecutionProvider::TensorRt), "`tensorrt` cannot serve here");
}
