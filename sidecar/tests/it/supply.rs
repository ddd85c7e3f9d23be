//! The supply half: configuration, artifacts, models, telemetry on disk and the link to the control plane.

mod budget;
mod config;
mod experiment;
mod link;
mod plane;
mod program;
mod pull;
mod refusals;
mod serve;
mod swaps;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use akidb_sidecar::app::{App, StartError};
use akidb_sidecar::config::Config;
use akidb_sidecar::http::AppState;
use akidb_sidecar::models::Models;
use akidb_sidecar::serving::{Variant, VariantState};
use akidb_store::Store;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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
        "[server]\nlisten = \"127.0.0.1:0\"\nops_listen = \"127.0.0.1:0\"\ndrain_timeout_ms = 5000\n[storage]\nstate_folder = \"{}\"\n\
         [runtime]\nonnxruntime = \"{}\"\n{more}",
        state.display(),
        akidb_testkit::onnxruntime().display(),
    );
    Config::parse(&text, state, &BTreeMap::new()).unwrap()
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
        let until = Instant::now() + Duration::from_secs(60);
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

/// A bundle of one's own to spoil.
struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    fn copy(to: &Path) -> Self {
        akidb_testkit::copy_folder(&akidb_testkit::bundle(), to);
        Self { folder: to.to_owned() }
    }

    /// A bundle that answers like the real one under a name, with a digest, of its own.
    fn twin(to: &Path, model: &str, n: usize) -> Self {
        let bundle = Self::copy(to);
        bundle.edit(|manifest| manifest["model"]["name"] = json!(model));
        let path = bundle.folder.join("reference.json");
        let text = std::fs::read_to_string(&path).unwrap() + &"\n".repeat(n);
        std::fs::write(path, text).unwrap();
        bundle.reseal("reference.json");
        bundle
    }

    fn uri(&self) -> String {
        format!("file://{}", self.folder.display())
    }

    fn manifest(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.join("manifest.json")).unwrap()).unwrap()
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest();
        change(&mut manifest);
        std::fs::write(self.folder.join("manifest.json"), manifest.to_string()).unwrap();
    }

    /// Makes the manifest tell the truth about a file again.
    fn reseal(&self, file: &str) {
        let bytes = std::fs::read(self.folder.join(file)).unwrap();
        let sha256 = hex::encode(Sha256::digest(&bytes));
        self.edit(|manifest| {
            if file == "tokenizer.json" {
                manifest["model"]["tokenizer_sha256"] = json!(sha256);
            }
            for entry in manifest["files"].as_array_mut().unwrap() {
                if entry["path"] == file {
                    (entry["sha256"], entry["bytes"]) = (json!(sha256), json!(bytes.len()));
                }
            }
        });
    }

    /// Makes its reference vectors those of some other engine.
    fn spoil_reference(&self) {
        let path = self.folder.join("reference.json");
        let mut reference: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let first = reference["vectors"][3].as_array_mut().unwrap();
        first.reverse();
        std::fs::write(path, reference.to_string()).unwrap();
        self.reseal("reference.json");
    }
}
