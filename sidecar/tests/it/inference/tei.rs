//! The shape of Text Embeddings Inference: `/embed`, `/info` and `/health`, errors included.

use std::time::Duration;

use akidb_domain::reference::cosine;
use akidb_sidecar::batcher::BatcherConfig;
use akidb_sidecar::engine::EngineError;
use serde_json::{Value, json};

use super::rig::Rig;
use super::{Got, embed, get, numbers, post, shared, until, waiting};

fn ask(body: &Value) -> Got {
    post(&shared().url("/embed"), body)
}

fn vectors(got: &Got) -> Vec<Vec<f32>> {
    assert_eq!(got.status, 200, "{}", got.body);
    got.body.as_array().unwrap().iter().map(numbers).collect()
}

fn refused(got: &Got, status: u16, error_type: &str, says: &str) {
    assert_eq!((got.status, got.body["error_type"].as_str()), (status, Some(error_type)), "{}", got.body);
    let message = got.body["error"].as_str().unwrap_or_default();
    assert!(message.contains(says), "`{says}` is not in `{message}`");
    assert_eq!(got.body.as_object().unwrap().len(), 2);
}

#[test]
fn a_text_or_texts_give_a_list_of_vectors() {
    let ours = embed(shared(), &json!({ "texts": ["hello", "world"] })).vectors();
    for path in ["/embed", "/"] {
        let together = vectors(&post(&shared().url(path), &json!({ "inputs": ["hello", "world"] })));
        let alone = vectors(&post(&shared().url(path), &json!({ "inputs": "hello", "normalize": true, "unknown": 1 })));
        assert_eq!((together.len(), alone.len()), (2, 1));
        for (found, ours) in together.iter().chain(&alone).zip([&ours[0], &ours[1], &ours[0]]) {
            assert!(cosine(found, ours) > 0.999_99);
        }
    }
    let prompted = vectors(&ask(&json!({ "inputs": "hello", "prompt_name": "query", "dimensions": 64 })));
    let by_hand = embed(shared(), &json!({ "text": "query: hello", "dimensions": 64 })).vector();
    assert!(cosine(&prompted[0], &by_hand) > 0.999_99);
}

#[test]
fn a_text_is_cut_only_when_asked() {
    let long = "word ".repeat(1_000);
    refused(&ask(&json!({ "inputs": long })), 413, "Validation", "256 tokens");
    let cut = vectors(&ask(&json!({ "inputs": long, "truncate": true, "truncation_direction": "Right" })));
    assert!(cosine(&cut[0], &embed(shared(), &json!({ "text": "word ".repeat(254) })).vector()) > 0.9999);
    refused(&ask(&json!({ "inputs": long, "truncate": true, "truncation_direction": "Left" })), 413, "Validation", "Right");
}

#[test]
fn errors_have_teis_shape_and_status() {
    for empty in [json!(""), json!([]), json!(["a", ""])] {
        refused(&ask(&json!({ "inputs": empty })), 400, "Empty", "");
    }
    refused(&ask(&json!({})), 400, "Validation", "missing field `inputs`");
    refused(&ask(&json!({ "inputs": vec!["a"; 1_025] })), 413, "Validation", "1025 texts");
    refused(&ask(&json!({ "inputs": "a", "prompt_name": "nope" })), 413, "Validation", "there are: query");
    refused(&ask(&json!({ "inputs": "a", "normalize": false })), 413, "Validation", "normalize: false");
    refused(&ask(&json!({ "inputs": "a".repeat(3 << 20) })), 413, "Validation", "2097152 bytes");
    refused(&get(&shared().url("/embed")), 405, "Validation", "GET");
}

#[test]
fn what_serves() {
    let info = get(&shared().url("/info")).body;
    assert_eq!((&info["model_id"], &info["model_dtype"]), (&json!("all-MiniLM-L6-v2"), &json!("float32")));
    assert_eq!((&info["max_input_length"], &info["max_client_batch_size"]), (&json!(256), &json!(1_024)));
    assert_eq!(info["model_type"], json!({ "embedding": { "pooling": "mean" } }));
    let health = get(&shared().url("/health"));
    assert_eq!((health.status, health.body), (200, json!("")));
}

#[test]
fn an_engine_that_fails_a_full_queue_and_a_model_that_is_not_ready() {
    let rig = Rig::start(BatcherConfig { max_queued_texts: 2, max_queued: Duration::from_millis(1), ..BatcherConfig::default() });
    let ask = |inputs: Value| post(&rig.url("/embed"), &json!({ "inputs": inputs }));
    rig.publish(vec![rig.fake("failing", |_| Err(EngineError::Run("secret".into())))], None);
    refused(&ask(json!("a")), 424, "Backend", "log");
    let (slow, held) = rig.held("slow");
    rig.publish(vec![slow], None);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(ask(json!(["a", "b"])).status, 200, "an empty queue takes any"));
        held.inside();
        scope.spawn(|| assert_eq!(ask(json!(["a", "b"])).status, 200, "nobody waits yet"));
        until("two texts that wait", || waiting(&rig, "slow") == 2);
        let got = ask(json!(["a", "b"]));
        refused(&got, 429, "Overloaded", "try again");
        assert!(got.header("retry-after").parse::<u64>().is_ok_and(|it| it > 0));
        drop(held);
    });
    let mut loading = rig.real();
    (loading.loaded, loading.state) = (None, akidb_sidecar::serving::VariantState::Loading);
    rig.publish(vec![loading], None);
    for got in [ask(json!("a")), get(&rig.url("/info")), get(&rig.url("/health"))] {
        refused(&got, 503, "Unhealthy", "loading");
        assert_eq!(got.header("retry-after"), "5");
    }
}
