//! The embedding API with the real model: what comes back, and what every error looks like.

pub(crate) mod rig;

mod engine;
mod errors;
mod gpu;
mod load;
mod logs;
mod openai;
mod profile;
mod tei;
mod traces;
mod vectors;

use std::sync::OnceLock;

use akidb_sidecar::batcher::BatcherConfig;
use serde_json::Value;

use rig::Rig;

/// The rig that tests share when they do not change it.
fn shared() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| Rig::start(BatcherConfig::default()))
}

/// An answer.
struct Got {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: Value,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default()
    }

    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn vector(&self) -> Vec<f32> {
        numbers(&self.body["embedding"])
    }

    fn vectors(&self) -> Vec<Vec<f32>> {
        self.body["embeddings"].as_array().expect("embeddings").iter().map(numbers).collect()
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap_or_else(|| panic!("a vector, not {value}")).iter().map(|it| it.as_f64().unwrap() as f32).collect()
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn post(url: &str, body: &Value) -> Got {
    send(agent().post(url).content_type("application/json").send(body.to_string()))
}

fn embed(rig: &Rig, body: &Value) -> Got {
    post(&rig.url("/api/v1/embed"), body)
}

fn get(url: &str) -> Got {
    send(agent().get(url).call())
}

fn send(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Got {
    let mut response = result.expect("an answer");
    let text = response.body_mut().with_config().limit(64 << 20).read_to_string().expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Got { status: response.status().as_u16(), headers: response.headers().clone(), body }
}
