//! A whole system on free loopback ports: a control plane and sidecars, as processes. Enters: nothing. Leaves: their addresses, and ways to
//! stop, kill and start each. Never: a part that is not the real one.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, program};
use crate::{bundle, free_port, onnxruntime};

/// How long a program may take to become ready where many share the machine.
const READY: Duration = Duration::from_secs(180);

/// A control plane and a sidecar with state in a temporary folder; [`System::another_sidecar`] starts more.
#[derive(Debug)]
pub struct System {
    folder: TempDir,
    rest: u16,
    grpc: u16,
    api: u16,
    ops: u16,
    /// Extra environment of the control plane.
    pub control_env: Vec<(&'static str, String)>,
    /// Extra lines of the sidecar's configuration.
    pub sidecar_config: String,
    /// The control plane, while it runs.
    pub control: Option<Process>,
    /// The sidecar, while it runs.
    pub sidecar: Option<Process>,
}

impl System {
    /// Reserves ports and a folder; nothing runs yet.
    pub fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a temporary folder"),
            rest: free_port(),
            grpc: free_port(),
            api: free_port(),
            ops: free_port(),
            control_env: Vec::new(),
            sidecar_config: String::new(),
            control: None,
            sidecar: None,
        }
    }

    /// The usual system: MiniLM imported, a price, a sidecar ready.
    pub fn ready(price_per_hour: Option<&str>) -> Self {
        let mut system = Self::new();
        system.start_control();
        system.akidb(&["models", "import", &bundle().display().to_string()]);
        if let Some(price) = price_per_hour {
            system.akidb(&["prices", "set", "cpu", "--per-hour", price, "--region", "local", "--source", "test"]);
        }
        system.start_sidecar();
        system
    }

    /// A path below the system's folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// The control plane's environment, for its other commands.
    pub fn control_environment(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("AKIDB_CP_DATA_DIR", self.path("control-plane").display().to_string()),
            ("AKIDB_CP_LISTEN_REST", format!("127.0.0.1:{}", self.rest)),
            ("AKIDB_CP_LISTEN_GRPC", format!("127.0.0.1:{}", self.grpc)),
        ];
        env.extend(self.control_env.iter().cloned());
        env
    }

    /// Starts the control plane and waits until it is ready.
    pub fn start_control(&mut self) {
        self.control =
            Some(Process::start("akidb-control-plane", &["serve"], &self.control_environment(), &self.path("control-plane.log")));
        let url = format!("http://127.0.0.1:{}/readyz", self.rest);
        wait_ready(self.control.as_mut(), &url, READY);
    }

    /// Starts the sidecar and waits until it is ready.
    pub fn start_sidecar(&mut self) {
        let token = self.path("sidecar-token");
        if !token.is_file() {
            let made = self.akidb(&["tokens", "create", "--name", "test", "--role", "sidecar"]);
            std::fs::write(&token, made["token"].as_str().expect("a token")).expect("the token's file");
        }
        self.spawn_sidecar();
        let url = format!("http://127.0.0.1:{}/readyz", self.api);
        wait_ready(self.sidecar.as_mut(), &url, READY);
    }

    /// Starts the sidecar without waiting.
    pub fn spawn_sidecar(&mut self) {
        self.sidecar = Some(self.spawn("sidecar", self.api, self.ops));
    }

    /// Starts one more sidecar, with ports and state of its own and the first one's token, and waits until it is ready.
    pub fn another_sidecar(&self, name: &str) -> Sidecar {
        let api = free_port();
        let mut process = Some(self.spawn(name, api, free_port()));
        wait_ready(process.as_mut(), &format!("http://127.0.0.1:{api}/readyz"), READY);
        Sidecar { api, _process: process }
    }

    fn spawn(&self, name: &str, api: u16, ops: u16) -> Process {
        let config = self.path(&format!("{name}.toml"));
        std::fs::write(&config, self.config(name, api, ops)).expect("the sidecar's configuration");
        let arguments = ["--config", &config.display().to_string()];
        // After a batch that met a machine which stood still, the usual queue would refuse what waits behind the next one.
        let patient = [("AKIDB_MAX_QUEUED_MS", "300000".to_owned())];
        Process::start("akidb-sidecar", &arguments, &patient, &self.path(&format!("{name}.log")))
    }

    fn config(&self, name: &str, api: u16, ops: u16) -> String {
        let grpc = self.grpc;
        let (runtime, state, token) = (onnxruntime(), self.path(name), self.path("sidecar-token"));
        format!(
            r#"
[server]
listen = "127.0.0.1:{api}"
ops_listen = "127.0.0.1:{ops}"
[storage]
state_folder = "{}"
[control_plane]
address = "http://127.0.0.1:{grpc}"
token_file = "{}"
[runtime]
onnxruntime = "{}"
{}
"#,
            state.display(),
            token.display(),
            runtime.display(),
            self.sidecar_config
        )
    }

    /// Runs the command line with `--json` as the first administrator.
    pub fn akidb(&self, arguments: &[&str]) -> Value {
        let out = self.akidb_plain(&[&["--json"], arguments].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("akidb {arguments:?} printed `{out}`: {e}"))
    }

    /// Runs the command line as the first administrator; what it printed.
    pub fn akidb_plain(&self, arguments: &[&str]) -> String {
        let done = Command::new(program("akidb")).args(arguments).envs(self.client_environment()).output().expect("the command line runs");
        assert!(done.status.success(), "akidb {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Server and token of the first administrator, as clients read them.
    pub fn client_environment(&self) -> [(&'static str, String); 2] {
        let token = self.path("control-plane/admin-token").display().to_string();
        [("AKIDB_SERVER", format!("http://127.0.0.1:{}", self.rest)), ("AKIDB_TOKEN_FILE", token)]
    }

    /// A call of the admin REST API as the first administrator: status and body.
    pub fn rest(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let token = std::fs::read_to_string(self.path("control-plane/admin-token")).expect("the admin token");
        let request = ureq::http::Request::builder().method(method).uri(format!("http://127.0.0.1:{}/api/v1/{path}", self.rest));
        let request = request.header("authorization", format!("Bearer {}", token.trim())).header("content-type", "application/json");
        let sent = match body {
            Some(body) => agent().run(request.body(body.to_string()).expect("a request")),
            None => agent().run(request.body(()).expect("a request")),
        };
        read(sent.unwrap_or_else(|e| panic!("{method} {path}: {e}")))
    }

    /// GET of a path of the sidecar's API: status and body.
    pub fn get(&self, path: &str) -> (u16, Value) {
        get(&format!("http://127.0.0.1:{}{path}", self.api))
    }

    /// POST of one embed request: status and body.
    pub fn embed(&self, body: &Value) -> (u16, Value) {
        self.client().embed(body)
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::of(self.api)
    }

    /// Waits until the sidecar has taken the control plane's newest change, which must be one that it is told of.
    pub fn until_followed(&self) {
        self.until(Duration::from_secs(120), |it| {
            let newest = &it.rest("GET", "snapshot?sku=cpu&region=local", None).1["version"]["n"];
            let active = &it.rest("GET", "sidecars", None).1["sidecars"][0]["active_snapshot"]["n"];
            if newest == active { Ok(()) } else { Err(format!("at {active}, the control plane at {newest}")) }
        });
    }

    /// Waits until `what` holds.
    pub fn until(&self, limit: Duration, mut what: impl FnMut(&Self) -> Result<(), String>) {
        let deadline = Instant::now() + limit;
        while let Err(still) = what(self) {
            assert!(Instant::now() < deadline, "after {limit:?} still {still}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A sidecar beside the system's first; killed when dropped.
#[derive(Debug)]
pub struct Sidecar {
    api: u16,
    _process: Option<Process>,
}

impl Sidecar {
    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::of(self.api)
    }
}

/// An application of a sidecar.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
}

impl Client {
    fn of(api: u16) -> Self {
        Self { agent: agent(), url: format!("http://127.0.0.1:{api}/api/v1/embed") }
    }

    /// The variant (`x-akidb-variant`) that answers a sticky unit (`x-akidb-key`).
    pub fn variant_of(&self, key: &str, body: &Value) -> String {
        let sent = self.agent.post(&self.url).header("x-akidb-key", key).send_json(body);
        let answer = sent.unwrap_or_else(|e| panic!("POST {} as {key}: {e}", self.url));
        let variant = answer.headers().get("x-akidb-variant").and_then(|it| it.to_str().ok()).map(str::to_owned);
        let (status, body) = read(answer);
        variant.filter(|_| status == 200).unwrap_or_else(|| panic!("{status} and no variant for {key}: {body}"))
    }

    /// POST of one embed request: status and body.
    pub fn embed(&self, body: &Value) -> (u16, Value) {
        read(self.agent.post(&self.url).send_json(body).unwrap_or_else(|e| panic!("POST {}: {e}", self.url)))
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(60))).build().into()
}

fn read(mut answer: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let text = answer.body_mut().read_to_string().expect("a body");
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// GET: status and body.
pub fn get(url: &str) -> (u16, Value) {
    read(agent().get(url).call().unwrap_or_else(|e| panic!("GET {url}: {e}")))
}

fn wait_ready(process: Option<&mut Process>, url: &str, limit: Duration) {
    let process = process.expect("a process to wait for");
    let deadline = Instant::now() + limit;
    loop {
        assert!(process.ended().is_none(), "it ended before it was ready:\n{}", process.log());
        if agent().get(url).call().is_ok_and(|it| it.status() == 200) {
            return;
        }
        assert!(Instant::now() < deadline, "{url} was not ready within {limit:?}:\n{}", process.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}
