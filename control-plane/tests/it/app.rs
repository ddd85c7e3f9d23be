//! A control plane in a temporary folder on random ports, and a client for its REST API.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use akidb_control_plane::app::App;
use akidb_control_plane::clock::{Clock, SystemClock};
use akidb_control_plane::config::Config;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running control plane; stopped when dropped.
pub(crate) struct TestApp {
    pub(crate) runtime: Runtime,
    pub(crate) folder: TempDir,
    pub(crate) config: Config,
    pub(crate) rest: String,
    pub(crate) grpc: String,
    pub(crate) admin: String,
    clock: Arc<dyn Clock>,
    running: Option<(oneshot::Sender<()>, JoinHandle<anyhow::Result<()>>)>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    pub(crate) text: String,
}

impl Answer {
    /// Its JSON, after the status was seen to be right.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// Its error message, after status and code were seen to be right.
    pub(crate) fn refused(self, status: u16, code: &str) -> String {
        let body = self.expect(status);
        assert_eq!(body["error"]["code"], code, "{body}");
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

impl TestApp {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::at(Arc::new(SystemClock), change)
    }

    /// With a clock of the test's own.
    pub(crate) fn at(clock: Arc<dyn Clock>, change: impl FnOnce(&mut Config)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut config = Config::load(None).unwrap();
        config.listen_rest.set_port(0);
        config.listen_grpc.set_port(0);
        config.data_dir = folder.path().join("data");
        config.artifact_store = format!("file://{}", folder.path().join("objects").display()).parse().unwrap();
        config.admin_token_file = folder.path().join("admin-token");
        config.shutdown_deadline = Duration::from_secs(3);
        config.snapshot_debounce = Duration::from_millis(10);
        // The windows of these tests stand on fixed days of long ago.
        config.retention.sidecars = Duration::from_secs(100 * 365 * 86_400);
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (rest, grpc, admin) = (String::new(), String::new(), String::new());
        let mut app = Self { runtime, folder, config, rest, grpc, admin, clock, running: None };
        app.run();
        app
    }

    /// Starts it on the data that are there.
    pub(crate) fn run(&mut self) {
        let app = self.runtime.block_on(App::build(self.config.clone(), self.clock.clone())).unwrap();
        self.rest = format!("http://{}", app.rest_addr().unwrap());
        self.grpc = format!("http://{}", app.grpc_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = self.runtime.spawn(app.run(async {
            stopped.await.ok();
        }));
        self.running = Some((stop, task));
        std::fs::read_to_string(&self.config.admin_token_file).unwrap().trim().clone_into(&mut self.admin);
    }

    pub(crate) fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            stop.send(()).ok();
            self.runtime.block_on(task).unwrap().unwrap();
        }
    }

    /// Calls `/api/v1/<path>` as the first admin.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.call_as(&self.admin, &[], method, path, body)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).expect(200)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", path, Some(body)).expect(201)
    }

    pub(crate) fn call_as(&self, token: &str, headers: &[(&str, &str)], method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(|it| it.to_string().into_bytes());
        send(&format!("{}/api/v1/{path}", self.rest), token, headers, method, body, "application/json")
    }

    /// Uploads a file as a blob.
    pub(crate) fn put_blob(&self, sha256: &str, bytes: Vec<u8>) -> Answer {
        send(&format!("{}/api/v1/blobs/{sha256}", self.rest), &self.admin, &[], "PUT", Some(bytes), "application/octet-stream")
    }

    /// Imports a bundle and waits for its end.
    pub(crate) fn import(&self, uri: &str) -> Value {
        let id = self.call("POST", "imports", Some(&serde_json::json!({"uri": uri}))).expect(202)["id"].as_str().unwrap().to_owned();
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let import = self.get(&format!("imports/{id}"));
            if import["state"] != "running" {
                return import;
            }
            assert!(Instant::now() < deadline, "{import}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Imports a folder that must be good.
    pub(crate) fn import_folder(&self, folder: &Path) -> Value {
        let import = self.import(&format!("file://{}", folder.display()));
        assert_eq!(import["state"], "succeeded", "{import}");
        import
    }

    pub(crate) fn token(&self, role: &str, namespace: &str, app: &str) -> String {
        let body = serde_json::json!({"name": role, "role": role, "namespace": namespace, "app": app});
        self.post("tokens", &body)["token"].as_str().unwrap().to_owned()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.stop();
    }
}

/// One HTTP call; any status is an answer.
pub(crate) fn send(url: &str, token: &str, headers: &[(&str, &str)], method: &str, body: Option<Vec<u8>>, content_type: &str) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = match body {
        Some(body) => agent.run(request.header("content-type", content_type).body(body).unwrap()),
        None => agent.run(request.body(()).unwrap()),
    };
    let mut answer = answer.unwrap();
    let etag = answer.headers().get("etag").map(|it| it.to_str().unwrap().to_owned());
    Answer { status: answer.status().as_u16(), etag, text: answer.body_mut().read_to_string().unwrap_or_default() }
}
