//! OpenAI's shape: `/v1/embeddings` and `/v1/models` answer as OpenAI does, errors included.

use std::collections::BTreeSet;

use akidb_domain::reference::cosine;
use akidb_domain::snapshot::{TrafficSplit, VariantRef};
use akidb_sidecar::batcher::BatcherConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::rig::Rig;
use super::{Got, agent, embed, get, numbers, post, send, shared};

fn ask(body: &Value) -> Got {
    post(&shared().url("/v1/embeddings"), body)
}

fn input(input: impl Into<Value>) -> Got {
    ask(&json!({ "model": "all-MiniLM-L6-v2", "input": input.into() }))
}

fn vectors(got: &Got) -> Vec<Vec<f32>> {
    assert_eq!(got.status, 200, "{}", got.body);
    got.body["data"].as_array().unwrap().iter().map(|it| numbers(&it["embedding"])).collect()
}

fn refused(got: &Got, status: u16, code: &str, says: &str) {
    let error = &got.body["error"];
    assert_eq!((got.status, error["code"].as_str()), (status, Some(code)), "{}", got.body);
    assert_eq!(error["type"], "invalid_request_error");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains(says), "`{says}` is not in `{message}`");
    let mut keys: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "message", "param", "type"]);
}

#[test]
fn every_form_of_input_gives_the_same_vectors() {
    let ours = embed(shared(), &json!({ "texts": ["hello", "hello world"] })).vectors();
    // [CLS] hello [SEP]; [CLS] hello world [SEP]
    let (one, two) = (json!([101, 7592, 102]), json!([101, 7592, 2088, 102]));
    let forms = [(json!("hello"), 1), (json!(["hello", "hello world"]), 2), (one.clone(), 1), (json!([one, two]), 2)];
    for (form, count) in forms {
        let got = input(form.clone());
        let found = vectors(&got);
        assert_eq!(found.len(), count, "{form}");
        for (found, ours) in found.iter().zip(&ours) {
            assert!(cosine(found, ours) > 0.999_99, "{form}: {}", cosine(found, ours));
        }
        let tokens = if count == 1 { 3 } else { 7 };
        assert_eq!(got.body["usage"], json!({ "prompt_tokens": tokens, "total_tokens": tokens }));
    }
}

#[test]
fn every_field_of_the_answer() {
    let got = input(json!(["a", "b"]));
    assert_eq!((&got.body["object"], &got.body["model"]), (&json!("list"), &json!("all-MiniLM-L6-v2")));
    assert_eq!((&got.body["data"][1]["object"], &got.body["data"][1]["index"]), (&json!("embedding"), &json!(1)));
    assert_eq!(got.header("x-akidb-variant"), "fp32");
    assert!(got.header("server-timing").contains("queue;dur="));
}

#[test]
fn base64_dimensions_and_fields_that_mean_nothing_here() {
    let whole = &vectors(&input("hello"))[0];
    let got = ask(&json!({ "model": "all-MiniLM-L6-v2@fp32", "input": "hello", "encoding_format": "base64", "dimensions": 64, "user": "u",
        "some_field": {} }));
    let bytes = STANDARD.decode(got.body["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let cut: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect();
    assert_eq!(cut.len(), 64);
    assert!((cosine(&cut, &whole[..64]) - 1.0).abs() < 1e-6);
}

#[test]
fn a_text_over_the_limit_is_cut_and_ids_over_it_are_refused() {
    assert_eq!(input("word ".repeat(1_000)).body["usage"]["prompt_tokens"], 256);
    assert_eq!(input(vec![7592; 256]).status, 200);
    refused(&input(vec![7592; 257]), 422, "invalid", "257 token ids, more than the model's 256");
}

#[test]
fn errors_have_openais_shape() {
    let rig = shared();
    let unknown = ask(&json!({ "model": "text-embedding-3-small", "input": "a" }));
    refused(&unknown, 404, "model_not_found", "there are: all-MiniLM-L6-v2");
    assert_eq!(unknown.body["error"]["param"], "model");
    refused(&ask(&json!({ "input": "a" })), 400, "malformed", "missing field `model`");
    refused(&ask(&json!({ "model": "all-MiniLM-L6-v2" })), 400, "malformed", "missing field `input`");
    refused(&input(json!({ "a": 1 })), 400, "malformed", "a string, an array of strings");
    for id in [30_522, -1, 1_i64 << 40] {
        refused(&input(json!([101, id])), 422, "invalid", &format!("token id {id} is not in the vocabulary"));
    }
    for empty in [json!([]), json!(""), json!(["a", ""]), json!([[]])] {
        refused(&input(empty), 422, "invalid", "");
    }
    refused(&input(vec!["a"; 1_025]), 422, "invalid", "1025 texts");
    refused(&get(&rig.url("/v1/embeddings")), 405, "method_not_allowed", "GET");
    refused(&get(&rig.url("/v1/chat/completions")), 404, "not_found", "/v1/chat/completions");
    let text = send(agent().post(rig.url("/v1/embeddings")).content_type("text/plain").send("hi"));
    refused(&text, 415, "unsupported_media_type", "text/plain");
    refused(&input("a".repeat(3 << 20)), 413, "body_too_large", "2097152 bytes");
}

#[test]
fn models() {
    let list = get(&shared().url("/v1/models")).body;
    let id = json!("all-MiniLM-L6-v2");
    assert_eq!((&list["object"], &list["data"][0]["id"], &list["data"][0]["object"]), (&json!("list"), &id, &json!("model")));
    let one = get(&shared().url("/v1/models/ALL-minilm-l6-v2")).body;
    assert_eq!(one, list["data"][0]);
    assert!(one["created"].as_u64().is_some_and(|it| it > 1_600_000_000));
    assert_eq!(get(&shared().url("/v1/models/all-MiniLM-L6-v2@stable")).body["id"], "all-MiniLM-L6-v2@stable");
    refused(&get(&shared().url("/v1/models/nope")), 404, "model_not_found", "there are: all-MiniLM-L6-v2");
    refused(&get(&shared().url("/v1/models/all-MiniLM-L6-v2@nope")), 404, "model_not_found", "fp32");
    refused(&get(&shared().url("/v1/models/%FF")), 400, "malformed", "UTF-8");
}

#[test]
fn the_user_is_the_sticky_unit_unless_a_key_is_given() {
    let rig = Rig::start(BatcherConfig::default());
    let vectors = |batch: &akidb_sidecar::engine::TokenBatch| Ok(vec![0.05; batch.rows * 384]);
    let at = |name: &str| VariantRef { version: "1".into(), variant: name.into() };
    let split = TrafficSplit {
        model: "all-MiniLM-L6-v2".into(),
        experiment: "e1".into(),
        phase: 1,
        salt: "s".into(),
        sticky: true,
        baseline: at("base"),
        canary: at("new"),
        canary_ppm: 500_000,
        control_ppm: 0,
        apps_all_traffic: Vec::new(),
        lease_ms: 60_000,
        canary_sample_ppm: 0,
        burn_in: false,
        probe: None,
        latency_threshold_s: Vec::new(),
        canary_latency_threshold_s: Vec::new(),
    };
    rig.publish(vec![rig.fake("base", vectors), rig.fake("new", vectors)], Some(split));
    let served = |user: u32, key: Option<&str>| {
        let request = agent().post(rig.url("/v1/embeddings")).content_type("application/json");
        let request = key.into_iter().fold(request, |it, key| it.header("x-akidb-key", key));
        let body = json!({ "model": "all-MiniLM-L6-v2", "input": "a", "user": format!("user-{user}") });
        send(request.send(body.to_string())).header("x-akidb-variant").to_owned()
    };
    let mut all = BTreeSet::new();
    for user in 0..20 {
        let met: BTreeSet<String> = (0..4).map(|_| served(user, None)).collect();
        assert_eq!(met.len(), 1, "user {user} met {met:?}");
        all.extend(met);
    }
    assert_eq!(all.len(), 2, "20 users met only {all:?}");
    let keyed: BTreeSet<String> = (0..20).map(|user| served(user, Some("one"))).collect();
    assert_eq!(keyed.len(), 1, "one key met {keyed:?}");
}
