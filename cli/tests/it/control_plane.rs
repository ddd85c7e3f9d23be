//! A real control plane of its own for one test, and `akidb` pointed at it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use akidb_testkit::free_port;
use serde_json::Value;
use tempfile::TempDir;

/// A running control plane; stopped and wiped when dropped.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    child: Child,
    folder: TempDir,
    pub(crate) url: String,
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further variables.
    pub(crate) fn start_with(variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let (rest, grpc) = (free_port(), free_port());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program())
            .env("AKIDB_CP_LISTEN_REST", format!("127.0.0.1:{rest}"))
            .env("AKIDB_CP_LISTEN_GRPC", format!("127.0.0.1:{grpc}"))
            .env("AKIDB_CP_DATA_DIR", folder.path().join("data"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { child, folder, url: format!("http://127.0.0.1:{rest}") };
        this.wait();
        this
    }

    /// Where the first start left the admin token.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.path().join("data/admin-token")
    }

    /// `akidb` with the admin token.
    pub(crate) fn akidb(&self, args: &[&str]) -> Done {
        self.command(args).env("AKIDB_TOKEN_FILE", self.token_file()).run()
    }

    /// The same, which must succeed; its stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let done = self.akidb(args);
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        done.out
    }

    /// The same with `--json`.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error} in {out}"))
    }

    /// `akidb` without a token.
    pub(crate) fn command(&self, args: &[&str]) -> Akidb {
        Akidb::new(args).env("AKIDB_SERVER", &self.url)
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(180);
        while !(self.token_file().is_file() && self.answers()) {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the control plane did not become ready within 180 s: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        self.akidb(&["models", "list"]).code == 0
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to stop.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The control plane's program lies beside the tool's: `cargo test --workspace` builds both.
fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_akidb")).with_file_name("akidb-control-plane");
    assert!(program.is_file(), "{} is missing: run `cargo build --workspace`", program.display());
    program
}

/// One call of the tool, in an environment of its own.
#[derive(Debug)]
pub(crate) struct Akidb(Command);

impl Akidb {
    pub(crate) fn new(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_akidb"));
        command.args(args).env_clear();
        Self(command)
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn run(mut self) -> Done {
        let Output { status, stdout, stderr } = self.0.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }
}
