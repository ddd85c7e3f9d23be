//! A real S3 server (SeaweedFS) on free loopback ports. Enters: nothing. Leaves: endpoint and credentials. Never: a process after the drop.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{free_port, venv_program};

/// Runs a program until our end of its standard input closes: with us, however we end, a server kept in a `static` included.
const LEASHED: &str = r#""$@" </dev/null & child=$!; cat >/dev/null; kill -9 $child"#;

/// A running server; stopped and wiped when dropped.
#[derive(Debug)]
pub struct S3Server {
    child: Child,
    folder: TempDir,
    /// `http://127.0.0.1:PORT`
    pub endpoint: String,
    /// Access key of an account that may do everything.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl S3Server {
    /// Starts a server and waits until it answers; about 5 s.
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (access_key, secret_key) = ("akidb-test".to_owned(), "akidb-test-secret".to_owned());
        let accounts = format!(
            r#"{{"identities": [{{"name": "test", "credentials": [{{"accessKey": "{access_key}", "secretKey": "{secret_key}"}}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"]}}]}}"#
        );
        let config = folder.path().join("s3.json");
        std::fs::write(&config, accounts).expect("the accounts file");
        let (child, s3, master) = spawn(folder.path(), &config);
        let server = Self { child, folder, endpoint: format!("http://127.0.0.1:{s3}"), access_key, secret_key };
        server.wait(master);
        server
    }

    /// The environment that lets an AWS client in.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// A socket that listens does not mean that the server knows its accounts, nor a refusal that it has room for objects.
    fn wait(&self, master: u16) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let room = format!("http://127.0.0.1:{master}/dir/status");
        let is_ready =
            || asked(&self.endpoint).is_some_and(|it| it.0 == 403) && asked(&room).is_some_and(|it| it.1.contains("\"DataNodes\""));
        while !is_ready() {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the S3 server did not become ready within 120 s: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may have ended by itself; then there is nothing to wait for.
        drop(self.child.wait());
    }
}

/// The server, its S3 port and its master's.
fn spawn(folder: &Path, config: &Path) -> (Child, u16, u16) {
    let (s3, master) = (free_port(), free_port());
    let log = std::fs::File::create(folder.join("log")).expect("a log file");
    let mut weed = Command::new("sh");
    weed.args(["-c", LEASHED, "sh"]).arg(venv_program("weed"));
    weed.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-master.volumeSizeLimitMB=128", "-volume.max=20"]);
    weed.arg(format!("-dir={}", folder.display())).arg(format!("-s3.config={}", config.display()));
    weed.arg(format!("-s3.port={s3}")).arg(format!("-master.port={master}"));
    for listener in ["s3.port.grpc", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"] {
        weed.arg(format!("-{listener}={}", free_port()));
    }
    // Catalogs that nobody asked for, on fixed ports: a second server on the machine would end over them.
    weed.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
    weed.stdin(Stdio::piped()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    (weed.spawn().expect("the S3 server starts"), s3, master)
}

/// Status and body of a GET, if there is an answer.
fn asked(url: &str) -> Option<(u16, String)> {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(10))).build();
    let mut answer = ureq::Agent::from(agent).get(url).call().ok()?;
    Some((answer.status().as_u16(), answer.body_mut().read_to_string().ok()?))
}
