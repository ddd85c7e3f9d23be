//! The sidecar's own program, started for the benchmark.
//!
//! Enters: settings. Leaves: an address, metrics, memory. Never: a sidecar left behind; it is killed when dropped.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::load::{Connection, cpu_seconds};

pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    folder: tempfile::TempDir,
}

/// Counters of a moment, or between two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// Batches of at most so many texts, growing.
    pub(crate) sizes: Vec<(f64, f64)>,
    pub(crate) tokens: f64,
    pub(crate) padded_tokens: f64,
    pub(crate) engine_seconds: f64,
    pub(crate) probe_seconds: f64,
    pub(crate) probes: f64,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let models =
            format!("[[embedding.models.available]]\nname = \"all-MiniLM-L6-v2\"\npath = \"{}\"\n", akidb_testkit::bundle().display());
        Self::serving(&models, settings)
    }

    /// Starts it to serve what a control plane on a port says, and waits until it is ready.
    pub(crate) fn linked(port: u16) -> Self {
        let address = format!("http://127.0.0.1:{port}");
        Self::serving("", &[("AKIDB_CONTROL_PLANE", &address), ("AKIDB_CONTROL_PLANE_TOKEN", "a token")])
    }

    fn serving(models: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = format!("127.0.0.1:{}", akidb_testkit::free_port());
        let text = format!(
            "[server]\nlisten = \"{address}\"\nops_listen = \"127.0.0.1:0\"\n[storage]\nstate_folder = \"{}\"\n{models}",
            folder.path().join("state").display()
        );
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).expect("a configuration");
        let mut command = Command::new(env!("CARGO_BIN_EXE_akidb-sidecar"));
        command.arg("--config").arg(file).env("AKIDB_ONNXRUNTIME", akidb_testkit::onnxruntime()).env("AKIDB_LOG", "warn");
        command.envs(settings.iter().copied()).stdin(Stdio::null());
        let child = command.spawn().expect("the sidecar");
        let server = Self { child, address, folder };
        server.wait();
        server
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while ureq::get(format!("http://{}/readyz", self.address)).call().is_err() {
            assert!(Instant::now() < until, "not ready within a minute");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A file in a folder that goes with the server.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its resident memory now, MB.
    pub(crate) fn rss_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("its status");
        let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("kB") * 1_024.0 / 1e6
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.child.id().to_string())
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut connection = Connection::open(&self.address);
        let text = String::from_utf8_lossy(connection.exchange(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")).into_owned();
        let mut counters = Counters::default();
        for line in text.lines().filter(|it| !it.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let value: f64 = value.parse().unwrap_or(0.0);
            match name.split('{').next() {
                Some("akidb_batch_size_bucket") => {
                    let le = name.split("le=\"").nth(1).and_then(|it| it.split('"').next()).unwrap_or("");
                    counters.sizes.push((le.parse().unwrap_or(f64::INFINITY), value));
                }
                Some("akidb_batch_tokens_total") => counters.tokens += value,
                Some("akidb_batch_padded_tokens_total") => counters.padded_tokens += value,
                Some("akidb_engine_seconds_total") => counters.engine_seconds += value,
                Some("akidb_engine_overhead_seconds_total") if name.contains("cause=\"probe\"") => counters.probe_seconds += value,
                Some("akidb_probes_total") if name.contains("outcome=\"made\"") => counters.probes += value,
                _ => {}
            }
        }
        counters
    }
}

impl Counters {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let sizes = self.sizes.iter().zip(&before.sizes).map(|(a, b)| (a.0, a.1 - b.1)).collect();
        Self {
            sizes,
            tokens: self.tokens - before.tokens,
            padded_tokens: self.padded_tokens - before.padded_tokens,
            engine_seconds: self.engine_seconds - before.engine_seconds,
            probe_seconds: self.probe_seconds - before.probe_seconds,
            probes: self.probes - before.probes,
        }
    }

    /// Padding's part of what was computed, percent.
    pub(crate) fn padding(&self) -> f64 {
        100.0 * (1.0 - self.tokens / self.padded_tokens.max(1.0))
    }

    /// `<=8: 10 %, <=16: 90 %`
    pub(crate) fn distribution(&self) -> String {
        let all = self.sizes.last().map_or(1.0, |it| it.1.max(1.0));
        let mut below = 0.0;
        let mut parts = Vec::new();
        for (le, count) in &self.sizes {
            let share = 100.0 * (count - below) / all;
            below = *count;
            if share >= 0.5 {
                parts.push(format!("<={le}: {share:.0} %"));
            }
        }
        parts.join(", ")
    }
}
