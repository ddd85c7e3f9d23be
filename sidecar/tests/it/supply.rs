//! The supply half: configuration, artifacts, models, telemetry on disk and the link to the control plane.

mod budget;
mod bundle;
mod catalogued;
mod config;
mod experiment;
mod link;
mod plane;
mod program;
mod pull;
mod refusals;
mod serve;
mod swaps;
mod told;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use akidb_sidecar::app::{App, StartError};
use akidb_sidecar::config::Config;
use akidb_sidecar::http::AppState;
use akidb_sidecar::models::Models;
use akidb_sidecar::serving::{Variant, VariantState};
use akidb_store::Store;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use bundle::Bundle;

const MODEL: &str = "all-minilm-l6-v2";

/// A sidecar made of a configuration, in this process.
struct Sidecar {
    state: AppState,
    models: Models,
    base: String,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

/// A configuration that needs `state` and nothing else of the machine.
fn config(state: &Path, more: &str) -> Config {
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\ndrain_timeout_ms = 60000\n[storage]\nstate_folder = \"{}\"\n\
         [runtime]\nonnxruntime = \"{}\"\n{more}",
        state.display(),
        akidb_testkit::onnxruntime().display(),
    );
    // After a batch that met a machine which stood still, the usual queue would refuse what waits behind the next one.
    let patient = BTreeMap::from([("AKIDB_MAX_QUEUED_MS".to_owned(), "300000".to_owned())]);
    Config::parse(&text, state, &patient).unwrap()
}

/// One entry of `[[embedding.models.available]]`.
fn entry(path: &str, more: &str) -> String {
    format!("[[embedding.models.available]]\nname = \"all-MiniLM-L6-v2\"\npath = \"{path}\"\n{more}\n")
}

impl Sidecar {
    async fn start(config: Config, store: Option<Store>) -> Result<Self, StartError> {
        let app = match store {
            Some(store) => App::build_with_store(config, store).await?,
            None => App::build(config).await?,
        };
        let (state, models, base) = (app.state.clone(), app.models.clone(), format!("http://{}", app.address));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(app.run(shutdown.clone()));
        Ok(Self { state, models, base, shutdown, running })
    }

    fn variant(&self, name: &str) -> Option<Variant> {
        let serving = self.state.serving.load();
        serving.models.get(MODEL)?.variants.iter().find(|it| it.name == name).cloned()
    }

    /// Waits for a variant to be as wanted.
    async fn wait(&self, name: &str, wanted: impl Fn(&Variant) -> bool) -> Variant {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let variant = self.variant(name);
            if let Some(variant) = variant.clone().filter(|it| wanted(it)) {
                return variant;
            }
            assert!(Instant::now() < until, "`{name}` is {variant:?}; problems: {:?}", self.state.serving.load().problems);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ready(&self, name: &str) -> Variant {
        self.wait(name, |it| it.state == VariantState::Ready).await
    }

    async fn failed(&self, name: &str) -> String {
        self.wait(name, |it| it.state == VariantState::Failed).await.reason
    }

    async fn embed(&self, body: Value) -> (u16, Value) {
        let url = format!("{}/api/v1/embed", self.base);
        let send = move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
            let mut answer = agent.post(&url).send_json(&body).unwrap();
            (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
        };
        tokio::task::spawn_blocking(send).await.unwrap()
    }

    async fn embed_ok(&self) -> Value {
        let (status, body) = self.embed(json!({"text": "a sidecar embeds text"})).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}
