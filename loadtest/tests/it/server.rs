//! A real HTTP server on a free loopback port that answers like an embedding server, as well or as badly as a test asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
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
    /// Vectors left out of each answer.
    pub(crate) vectors_missing: usize,
}

#[derive(Debug)]
struct Shared {
    behaviour: Behaviour,
    requests: AtomicU64,
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
        let shared = Arc::new(Shared { behaviour, requests: AtomicU64::new(0), gate: RwLock::new(()) });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/api/v1/embed", listener.local_addr().unwrap());
        let router = Router::new().route("/api/v1/embed", post(embed)).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    /// Requests that arrived.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

async fn embed(State(shared): State<Arc<Shared>>, Json(body): Json<Value>) -> Response {
    let Behaviour { delay, stall, refuse_every, break_every, vectors_missing } = shared.behaviour;
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
