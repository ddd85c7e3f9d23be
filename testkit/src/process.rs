//! Programs of the workspace, run as a user would run them. Enters: a program's name. Leaves: a child that dies with the test. Never: a
//! process after the drop.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where cargo put the workspace's programs.
pub fn program(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("the test's own path");
    let folder = me.ancestors().find(|it| it.join(name).is_file());
    folder.unwrap_or_else(|| panic!("{name} is not built: run `cargo build --workspace`, or `make test`")).join(name)
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program of the workspace; what it prints is appended to `log`.
    pub fn start(name: &str, arguments: &[&str], env: &[(&str, String)], log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("a log file");
        let mut command = Command::new(program(name));
        command.args(arguments).envs(env.iter().map(|(k, v)| (k, v))).stdin(Stdio::null());
        command.stdout(out.try_clone().expect("a second handle")).stderr(out);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Self { child, name: name.to_owned(), log: log.to_owned() }
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status, once it ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// `kill -9`, at once.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, and waits until it ends by itself.
    pub fn terminate(mut self) -> ExitStatus {
        let sent = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|it| it.success()), "SIGTERM could not be sent to {}", self.name);
        self.wait(Duration::from_secs(90))
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} did not end within {limit:?}:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self) {
        // It may have ended by itself; then there is nothing to kill or wait for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
