//! The program itself: its exit codes, and what a kill leaves behind.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use akidb_sidecar::telemetry::segments::Segments;
use serde_json::{Value, json};

use super::entry;

pub(super) struct Program {
    pub(super) child: Child,
    pub(super) base: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command(folder: &Path, text: &str) -> Command {
    let path = folder.join("config.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_akidb-sidecar"));
    command.arg("--config").arg(path).env("AKIDB_ONNXRUNTIME", akidb_testkit::onnxruntime()).stdin(Stdio::null());
    // After a batch that met a machine which stood still, the usual queue would refuse what waits behind the next one.
    command.env("AKIDB_MAX_QUEUED_MS", "300000");
    command
}

fn output(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn good(folder: &Path) -> String {
    let models = entry(akidb_testkit::bundle().to_str().unwrap(), "");
    format!("[server]\nops_listen = \"127.0.0.1:0\"\n[storage]\nstate_folder = \"{}\"\n{models}", folder.join("state").display())
}

fn start(folder: &Path) -> Program {
    start_with(folder, &good(folder))
}

/// Starts the program and waits until it is ready.
pub(super) fn start_with(folder: &Path, text: &str) -> Program {
    let program = spawn(folder, text);
    let until = Instant::now() + Duration::from_secs(180);
    while !program.is_ready() {
        assert!(Instant::now() < until, "not ready within three minutes: {}", std::fs::read_to_string(folder.join("log")).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    program
}

/// Starts the program; what it logs is appended to `log`.
pub(super) fn spawn(folder: &Path, text: &str) -> Program {
    let port = akidb_testkit::free_port();
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let child = command(folder, text).env("AKIDB_LISTEN", format!("127.0.0.1:{port}")).stderr(log).spawn().unwrap();
    Program { child, base: format!("http://127.0.0.1:{port}") }
}

impl Program {
    pub(super) fn is_ready(&self) -> bool {
        ureq::get(format!("{}/readyz", self.base)).call().is_ok()
    }

    pub(super) fn models(&self) -> Value {
        ureq::get(format!("{}/api/v1/models", self.base)).call().unwrap().body_mut().read_json().unwrap()
    }

    pub(super) fn metrics(&self) -> String {
        ureq::get(format!("{}/metrics", self.base)).call().unwrap().body_mut().read_to_string().unwrap()
    }
}

fn embed(program: &Program) {
    ureq::post(format!("{}/api/v1/embed", program.base)).send_json(json!({"text": "hello"})).unwrap();
}

#[test]
fn the_configuration_is_checked_without_serving() {
    let folder = tempfile::tempdir().unwrap();
    let mut check = command(folder.path(), &good(folder.path()));
    assert_eq!(check.arg("--check").output().unwrap().status.code(), Some(0));
    assert!(!folder.path().join("state").exists());
    let (code, told) = output(command(folder.path(), "a = 1\nb = 2\n"));
    assert!(code == Some(1) && told.contains("`a`") && told.contains("`b`"), "{told}");
}

#[test]
fn a_missing_runtime_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &good(folder.path()));
    command.env("AKIDB_ONNXRUNTIME", "/no/such/libonnxruntime.so").env("AKIDB_LISTEN", "127.0.0.1:0");
    let (code, told) = output(command);
    assert!(code == Some(1) && told.contains("/no/such/libonnxruntime.so") && told.contains("AKIDB_ONNXRUNTIME"), "{told}");
}

#[test]
fn a_kill_loses_at_most_the_open_window_and_sigterm_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut killed = start(folder.path());
    for _ in 0..5 {
        embed(&killed);
    }
    // The window is closed after a second, and on disk soon after.
    let until = Instant::now() + Duration::from_secs(60);
    while spooled(folder.path()) != [(5, false)] {
        assert!(Instant::now() < until, "{:?}", spooled(folder.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();

    let mut ended = start(folder.path());
    embed(&ended);
    let pid = rustix::process::Pid::from_child(&ended.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(ended.child.wait().unwrap().code(), Some(0));

    assert_eq!(spooled(folder.path()), [(5, false), (1, true)]);
}

/// Requests of each boot in the spool, and whether its last window is there. Read from a copy: a program may be writing.
fn spooled(folder: &Path) -> Vec<(u64, bool)> {
    let copy = tempfile::tempdir().unwrap();
    for boot in std::fs::read_dir(folder.join("state/spool")).unwrap() {
        let boot = boot.unwrap();
        akidb_testkit::copy_folder(&boot.path(), &copy.path().join(boot.file_name()));
    }
    let mut segments = Segments::open(copy.path(), 1 << 20, "later", u64::MAX).unwrap();
    let mut boots = Vec::new();
    while let Some(pending) = segments.pending(64).unwrap() {
        let windows = &pending.windows;
        let last = windows.last().unwrap();
        boots.push((windows.iter().flat_map(|it| &it.lanes).map(|it| it.requests).sum::<u64>(), last.last));
        segments.acknowledge(&pending.boot_id, last.sequence, 0);
    }
    boots
}
