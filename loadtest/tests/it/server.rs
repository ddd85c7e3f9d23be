//! A real HTTP server on a free loopback port that answers like an embedding server, as well or as badly as a test asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::RwLock;

/// How it answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Behaviour {
    /// Before each answer.
    pub(crate) delay: Duration,
    /// At this request everything stands still for this long.
    pub(crate) stall: Option<(u64, Duration)>,
    /// Every n-th request is answered 429; 0: none.
    pub(crate) refuse_every: u64,
    /// At every n-th request the connection breaks; 0: none.
    pub(crate) break_every: u64,
    /// More delay where the model `slow` is asked for.
    pub(crate) slow: Duration,
    /// Vectors left out of each answer.
    pub(crate) vectors_missing: usize,
}

#[derive(Debug)]
struct Shared {
    behaviour: Behaviour,
    requests: AtomicU64,
    apps: Mutex<BTreeMap<String, u64>>,
    gate: RwLock<()>,
}

/// A running server; its tasks end with the test's runtime.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

impl Server {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let shared = Arc::new(Shared { behaviour, requests: AtomicU64::new(0), apps: Mutex::default(), gate: RwLock::new(()) });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/api/v1/embed", listener.local_addr().unwrap());
        let router = Router::new().route("/api/v1/embed", post(embed)).route("/metrics", get(metrics)).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// Requests that arrived by `x-akidb-app`; without it under an empty name.
    pub(crate) fn apps(&self) -> BTreeMap<String, u64> {
        self.shared.apps.lock().unwrap().clone()
    }

    /// Requests that arrived.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

/// Every request was a batch of one.
async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    let n = shared.requests.load(Ordering::SeqCst);
    format!("akidb_batch_size_bucket{{le=\"1\"}} {n}\nakidb_batch_size_bucket{{le=\"+Inf\"}} {n}\nakidb_batch_size_sum {n}\n")
}

async fn embed(State(shared): State<Arc<Shared>>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let Behaviour { delay, stall, refuse_every, break_every, slow, vectors_missing } = shared.behaviour;
    let delay = if body["model"] == "slow" { delay + slow } else { delay };
    let app = headers.get("x-akidb-app").map_or("", |it| it.to_str().unwrap());
    *shared.apps.lock().unwrap().entry(app.to_owned()).or_default() += 1;
    let n = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some((_, length)) = stall.filter(|(at, _)| *at == n) {
        let _everyone_waits = shared.gate.write().await;
        tokio::time::sleep(length).await;
    }
    drop(shared.gate.read().await);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if refuse_every > 0 && n.is_multiple_of(refuse_every) {
        return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")]).into_response();
    }
    // A handler that panics takes its connection with it: no answer, no status.
    assert!(break_every == 0 || !n.is_multiple_of(break_every), "this connection breaks, as the test asked");
    let vector = [0.25, 0.5];
    let answer = match body["texts"].as_array() {
        Some(texts) => json!({"embeddings": vec![vector; texts.len() - vectors_missing]}),
        None => json!({"embedding": vector}),
    };
    ([("x-akidb-variant", "fp32")], Json(answer)).into_response()
}
