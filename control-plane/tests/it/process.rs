//! The program itself: its commands, and a `kill -9` in the middle of reports.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use akidb_proto::v1;
use akidb_proto::v1::fleet_client::FleetClient;

use crate::app::send;
use crate::sidecar::{BOOT_NS, PATIENCE, window};

const PROGRAM: &str = env!("CARGO_BIN_EXE_akidb-control-plane");

struct Server {
    folder: tempfile::TempDir,
    rest: u16,
    grpc: u16,
    child: Option<Child>,
}

impl Server {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), rest: akidb_testkit::free_port(), grpc: akidb_testkit::free_port(), child: None }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env("AKIDB_CP_DATA_DIR", self.folder.path()).env("AKIDB_CP_LOG_FORMAT", "json");
        command
            .env("AKIDB_CP_LISTEN_REST", format!("127.0.0.1:{}", self.rest))
            .env("AKIDB_CP_LISTEN_GRPC", format!("127.0.0.1:{}", self.grpc))
            .env("AKIDB_CP_SIDECAR_RETENTION_DAYS", "3650");
        command
    }

    /// Starts it and waits until it answers: both its addresses are bound then.
    fn start(&mut self) {
        self.child = Some(self.command(&[]).stderr(Stdio::null()).spawn().unwrap());
        let ready = format!("http://127.0.0.1:{}/readyz", self.rest);
        until("the server is ready", || ureq::get(&ready).call().is_ok());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn output(&self, arguments: &[&str]) -> (bool, String) {
        let got = self.command(arguments).output().unwrap();
        (got.status.success(), String::from_utf8_lossy(if got.status.success() { &got.stdout } else { &got.stderr }).trim().to_owned())
    }

    fn get(&self, path: &str) -> serde_json::Value {
        let admin = std::fs::read_to_string(self.folder.path().join("admin-token")).unwrap();
        send(&format!("http://127.0.0.1:{}/api/v1/{path}", self.rest), admin.trim(), &[], "GET", None, "").expect(200)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_kill_loses_no_acknowledged_window_and_counts_none_twice() {
    let mut server = Server::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    server.start();
    let token = server.output(&["token", "create", "--name", "s", "--role", "sidecar"]).1;
    let mut mark = 0;
    for round in 0..4u64 {
        let (address, seen) = (format!("http://127.0.0.1:{}", server.grpc), Arc::new(AtomicU64::new(mark)));
        let reports = runtime.spawn(report_until_gone(address, token.clone(), seen.clone()));
        until("a report is acknowledged", || seen.load(Ordering::SeqCst) > mark);
        std::thread::sleep(Duration::from_millis(17 * round));
        server.kill();
        runtime.block_on(reports).unwrap();
        let seen = seen.load(Ordering::SeqCst);
        server.start();
        let counted = server.get("cost-per-request")["requests"].as_u64().unwrap();
        assert!(seen > mark && counted >= seen && counted <= seen + 3, "{counted} windows are counted, {seen} were acknowledged");
        mark = counted;
    }
    assert_eq!(server.get("audit/verify")["valid"], true);
}

/// Sends three windows at a time, above the last mark that came back.
async fn report_until_gone(address: String, token: String, seen: Arc<AtomicU64>) {
    let mut client = FleetClient::connect(address).await.unwrap();
    loop {
        let mark = seen.load(Ordering::SeqCst);
        let message = v1::ReportRequest {
            sidecar_id: "s".into(),
            boot_id: "b".into(),
            boot_unix_ns: BOOT_NS,
            windows: (mark + 1..=mark + 3).map(|n| window(n, 1)).collect(),
            lost_through: 0,
        };
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        match client.report(request).await {
            Ok(answer) => seen.store(answer.into_inner().high_water_mark, Ordering::SeqCst),
            Err(_) => return,
        }
    }
}

#[test]
fn commands_say_what_they_do_and_what_is_wrong() {
    let mut server = Server::new();
    server.start();
    let copy = server.folder.path().join("copy.db").display().to_string();
    let (made, text) = server.output(&["backup", "--to", &copy]);
    assert!(made, "{text}");
    let (restored, text) = server.output(&["restore", "--from", &copy, "--force"]);
    assert!(!restored && text.contains("held by a control plane that runs"), "{text}");
    server.kill();
    let (restored, text) = server.output(&["restore", "--from", &copy]);
    assert!(!restored && text.contains("add --force"), "{text}");
    let (restored, text) = server.output(&["restore", "--from", &copy, "--force"]);
    assert!(restored, "{text}");
    let got = server.command(&[]).env("AKIDB_CP_LISTEN", "x").env("AKIDB_CP_RETENTION", "3").output().unwrap();
    let text = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(text.contains("unknown key `listen`") && text.contains("unknown key `retention`"), "{text}");
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let mut server = Server::new();
    let log = server.folder.path().join("log");
    let out = std::fs::File::create(&log).unwrap();
    server.child = Some(server.command(&[]).env("AKIDB_CP_LOG_FORMAT", "text").stderr(out).spawn().unwrap());
    let written = || std::fs::read_to_string(&log).unwrap();
    until("it is up", || written().contains("control plane is up"));
    assert!(written().contains("control plane is up") && !written().contains('\u{1b}'), "{:?}", written());
}

#[test]
fn without_s3_credentials_one_sentence_says_so() {
    let mut server = Server::new();
    server.start();
    server.kill();
    let mut command = server.command(&["backup", "--to", "s3://bucket/key"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", server.folder.path()).env("RUST_BACKTRACE", "1");
    let got = command.output().unwrap();
    let text = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(!got.status.success(), "{text}");
    assert!(text.starts_with("akidb-control-plane: `s3://bucket/key`: no S3 credentials were found: set AWS_ACCESS_KEY_ID"), "{text}");
    assert_eq!(text.trim().lines().count(), 1, "{text}");
}
