//! Vectors are those of sentence-transformers, alone and in company.

use akidb_domain::reference::{Reference, cosine};
use serde_json::{Value, json};

use super::{embed, numbers, shared};

#[test]
fn golden_vectors() {
    let path = akidb_testkit::root().join("scripts/tests/data/minilm_sentence_transformers.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let texts = golden["texts"].as_array().unwrap();
    let expected: Vec<Vec<f32>> = golden["vectors"].as_array().unwrap().iter().map(numbers).collect();
    let together = embed(shared(), &json!({ "texts": texts })).vectors();
    for (i, text) in texts.iter().enumerate() {
        let alone = embed(shared(), &json!({ "text": text })).vector();
        assert!(cosine(&alone, &expected[i]) >= 0.9999, "{text}: {}", cosine(&alone, &expected[i]));
        assert!(cosine(&together[i], &alone) >= 0.9999, "{text}, co-batched: {}", cosine(&together[i], &alone));
    }
}

#[test]
fn bundle_reference() {
    let json = std::fs::read(akidb_testkit::bundle().join("reference.json")).unwrap();
    let reference = Reference::parse(&json, 384).unwrap();
    let got = embed(shared(), &json!({ "texts": reference.texts })).vectors();
    assert!(reference.min_cosine(&got) >= 0.9999, "{}", reference.min_cosine(&got));
}

#[test]
fn the_first_numbers_of_a_known_text() {
    let got = embed(shared(), &json!({ "text": "What is Deep Learning?" }));
    for (found, expected) in got.vector().iter().zip([-0.077_851, -0.033_280, 0.019_743]) {
        assert!((found - expected).abs() < 2e-5, "{found} for {expected}");
    }
    assert_eq!((got.body["usage"]["tokens"].as_u64(), got.body["usage"]["truncated"].as_u64()), (Some(7), Some(0)));
}

#[test]
fn a_text_over_the_limit_is_cut_and_counted() {
    let long = "word ".repeat(2_000);
    let got = embed(shared(), &json!({ "texts": [long, "short"] }));
    assert_eq!((got.body["usage"]["tokens"].as_u64(), got.body["usage"]["truncated"].as_u64()), (Some(256 + 3), Some(1)));
    let exact = "word ".repeat(254);
    assert_eq!(embed(shared(), &json!({ "text": exact })).body["usage"]["truncated"], 0);
    assert!(cosine(&got.vectors()[0], &embed(shared(), &json!({ "text": exact })).vector()) > 0.9999);
}

#[test]
fn every_field_of_the_answer() {
    let got = embed(shared(), &json!({ "text": "hello", "model": "ALL-minilm-l6-v2@Stable" }));
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.body["model"], "all-MiniLM-L6-v2");
    assert_eq!((&got.body["variant"], &got.body["precision"], &got.body["dimension"]), (&json!("fp32"), &json!("fp32"), &json!(384)));
    assert!(got.body["embedding_space"].as_str().is_some_and(|it| it.starts_with("all-minilm-l6-v2@sha256:")));
    assert_eq!((&got.body["cost"], got.body.get("embeddings")), (&Value::Null, None));
    assert_eq!(got.header("x-akidb-variant"), "fp32");
    for part in ["tokenize;dur=", "queue;dur=", "infer;dur="] {
        assert!(got.header("server-timing").contains(part), "{}", got.header("server-timing"));
    }
}

#[test]
fn dimensions_base64_and_prompts() {
    let whole = embed(shared(), &json!({ "text": "hello" })).vector();
    let cut = embed(shared(), &json!({ "text": "hello", "dimensions": 64 }));
    assert_eq!((cut.vector().len(), &cut.body["dimension"]), (64, &json!(64)));
    assert!((cosine(&cut.vector(), &whole[..64]) - 1.0).abs() < 1e-6);
    let norm: f32 = cut.vector().iter().map(|it| it * it).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");

    let encoded = embed(shared(), &json!({ "text": "hello", "encoding_format": "base64" }));
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded.body["embedding"].as_str().unwrap()).unwrap();
    let decoded: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect();
    assert!(cosine(&decoded, &whole) > 0.999_999);

    let prompted = embed(shared(), &json!({ "text": "hello", "prompt_name": "query" })).vector();
    let by_hand = embed(shared(), &json!({ "text": "query: hello" })).vector();
    assert!(cosine(&prompted, &by_hand) > 0.999_999);
}
