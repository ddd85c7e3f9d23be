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
use std::time::{Duration, Instant};

use akidb_sidecar::batcher::BatcherConfig;
use akidb_sidecar::http::Limits;
use serde_json::Value;

use rig::Rig;

/// The rig that tests share when they do not change it.
fn shared() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| Rig::start_with(patient(), Limits { deadline: Duration::from_secs(300), ..Limits::default() }))
}

/// A queue that is full of texts, not of time: a batch that met a machine which stood still would make it refuse what waits behind the next one.
fn patient() -> BatcherConfig {
    BatcherConfig { max_queued: Duration::from_secs(100_000), ..BatcherConfig::default() }
}

/// Waits until something holds, for as long as a busy machine may need.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "not within two minutes: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Texts that wait for a variant's engine.
fn waiting(rig: &Rig, variant: &str) -> i64 {
    rig.state.metrics.lane(&rig.manifest.model.name, variant).queue_depth.get()
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

/// A client that is never silent for good: a server that does not answer is a failure, not a test without an end.
fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(300))).build().into()
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
