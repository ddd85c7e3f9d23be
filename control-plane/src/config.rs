//! Configuration: a TOML file, then `AKIDB_CP_*` variables.
//!
//! Enters: a path and the environment. Leaves: a checked [`Config`], or every problem at once. Never: a secret; S3 credentials come
//! from the standard AWS places.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akidb_store::{ObjectUri, S3Options};
use figment::providers::{Env, Format, Toml};
use figment::{Figment, Provider};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Everything that can be set. The variable of a key is `AKIDB_CP_` and the key in upper case.
#[derive(Debug, Clone)]
pub struct Config {
    /// `listen_rest`, default `127.0.0.1:7070`.
    pub listen_rest: SocketAddr,
    /// `listen_grpc`, default `127.0.0.1:7071`. Plain text: put TLS in front of it when it leaves the machine.
    pub listen_grpc: SocketAddr,
    /// `data_dir`, default `.akidb/control-plane`: the database and, unless told otherwise, the artifacts.
    pub data_dir: PathBuf,
    /// `artifact_store`, default `file://<data_dir>/objects`; `s3://bucket/prefix` is the other choice.
    pub artifact_store: ObjectUri,
    /// `s3_endpoint`, `s3_region`, `s3_path_style`.
    pub s3: S3Options,
    /// `snapshot_debounce_ms`, default 50: changes this close together reach the sidecars as one.
    pub snapshot_debounce: Duration,
    /// What is kept for how long.
    pub retention: Retention,
    /// How experiments are decided.
    pub experiments: Experiments,
    /// `admin_token_file`, default `<data_dir>/admin-token`: where the first start leaves a token.
    pub admin_token_file: PathBuf,
    /// `log_format`, `text` (default) or `json`.
    pub log_format: LogFormat,
    /// `shutdown_deadline_ms`, default 10,000.
    pub shutdown_deadline: Duration,
    /// `max_blob_bytes`, default 16 GiB: the largest file of a bundle.
    pub max_blob_bytes: u64,
}

/// What is kept for how long.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// `window_retention_days`, default 7: single windows; their hourly sums stay.
    pub windows: Duration,
    /// `sidecar_retention_days`, default 30: sidecars not seen, their boots and gaps, finished imports, revoked tokens.
    pub sidecars: Duration,
}

/// How experiments are decided.
#[derive(Debug, Clone, Copy)]
pub struct Experiments {
    /// `experiment_look_ms`, default 10,000: the stretch of telemetry that a look takes.
    pub look: Duration,
    /// `experiment_tick_ms`, default 1,000: how often it is asked whether a look is due.
    pub tick: Duration,
    /// `experiment_lease_ms`, default 30,000: a sidecar that hears nothing for so long goes back to the baseline. Renewed six times as often.
    pub lease: Duration,
    /// `experiment_silent_ms`, default 30,000: how long a look waits for windows before their sidecar counts as silent.
    pub silent_after: Duration,
    /// `experiment_lost_ms`, default 300,000: a silent sidecar that is not connected for so long counts as lost and no longer takes part.
    pub lost_after: Duration,
    /// `experiment_prepare_ms`, default 600,000: how long the first look waits for sidecars to load the canary.
    pub prepare_within: Duration,
    /// `experiment_window_retention_hours`, default 24: windows of experiments that looks were taken of.
    pub windows: Duration,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Every problem of a configuration, one a line.
#[derive(Debug, thiserror::Error)]
#[error("configuration:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);

const KEYS: &[&str] = &[
    "listen_rest",
    "listen_grpc",
    "data_dir",
    "artifact_store",
    "s3_endpoint",
    "s3_region",
    "s3_path_style",
    "snapshot_debounce_ms",
    "experiment_look_ms",
    "experiment_tick_ms",
    "experiment_lease_ms",
    "experiment_silent_ms",
    "experiment_lost_ms",
    "experiment_prepare_ms",
    "experiment_window_retention_hours",
    "window_retention_days",
    "sidecar_retention_days",
    "admin_token_file",
    "log_format",
    "shutdown_deadline_ms",
    "max_blob_bytes",
];

impl Config {
    /// Reads the file, when one is given, and the environment over it.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            if !file.is_file() {
                return Err(ConfigError(vec![format!("file `{}` does not exist", file.display())]));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        Self::from_figment(&figment.merge(Env::prefixed("AKIDB_CP_").ignore(&["config"])))
    }

    fn from_figment(figment: &Figment) -> Result<Self, ConfigError> {
        let mut reader = Reader { figment, problems: Vec::new() };
        reader.refuse_unknown();
        let days = |n: u64| Duration::from_secs(n * 86_400);
        let data_dir = std::path::absolute(reader.get("data_dir", PathBuf::from(".akidb/control-plane"))).unwrap_or_default();
        let store = reader.get("artifact_store", format!("file://{}", data_dir.join("objects").display()));
        let s3 = S3Options {
            endpoint: reader.get("s3_endpoint", None),
            region: reader.get("s3_region", None),
            path_style: reader.get("s3_path_style", None),
            keys: None,
        };
        let config = Self {
            listen_rest: reader.get("listen_rest", SocketAddr::from(([127, 0, 0, 1], 7070))),
            listen_grpc: reader.get("listen_grpc", SocketAddr::from(([127, 0, 0, 1], 7071))),
            artifact_store: reader.artifact_store(&store, &data_dir),
            s3,
            snapshot_debounce: Duration::from_millis(reader.within("snapshot_debounce_ms", 50, 0, 10_000)),
            retention: Retention {
                windows: days(reader.within("window_retention_days", 7, 1, 3_650)),
                sidecars: days(reader.within("sidecar_retention_days", 30, 1, 3_650)),
            },
            experiments: reader.experiments(),
            admin_token_file: reader.get("admin_token_file", data_dir.join("admin-token")),
            log_format: reader.get("log_format", LogFormat::Text),
            shutdown_deadline: Duration::from_millis(reader.within("shutdown_deadline_ms", 10_000, 100, 600_000)),
            max_blob_bytes: reader.within("max_blob_bytes", 16 << 30, 1, 1 << 40),
            data_dir,
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigError(reader.problems)) }
    }
}

/// Reads key after key and collects what is wrong.
struct Reader<'a> {
    figment: &'a Figment,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn refuse_unknown(&mut self) {
        let profiles = match self.figment.data() {
            Ok(profiles) => profiles,
            Err(error) => return self.problems.extend(error.into_iter().map(|it| it.to_string())),
        };
        for key in profiles.values().flat_map(|dict| dict.keys()).filter(|key| !KEYS.contains(&key.as_str())) {
            self.problems.push(format!("unknown key `{key}`; known are {}", KEYS.join(", ")));
        }
    }

    fn get<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        if self.figment.find_value(key).is_err() {
            return default;
        }
        self.figment.extract_inner(key).unwrap_or_else(|error| {
            self.problems.extend(error.into_iter().map(|it| format!("`{key}`: {}", it.kind)));
            default
        })
    }

    fn within(&mut self, key: &str, default: u64, least: u64, most: u64) -> u64 {
        let value = self.get(key, default);
        if !(least..=most).contains(&value) {
            self.problems.push(format!("`{key}`: {value} is not in {least}..={most}"));
        }
        value.clamp(least, most)
    }

    fn experiments(&mut self) -> Experiments {
        let mut ms = |key, default, least| Duration::from_millis(self.within(key, default, least, 86_400_000));
        let (look, tick) = (ms("experiment_look_ms", 10_000, 1_000), ms("experiment_tick_ms", 1_000, 10));
        let (lease, silent_after) = (ms("experiment_lease_ms", 30_000, 1_000), ms("experiment_silent_ms", 30_000, 1_000));
        let (lost_after, prepare_within) = (ms("experiment_lost_ms", 300_000, 1_000), ms("experiment_prepare_ms", 600_000, 1_000));
        let windows = Duration::from_secs(3_600 * self.within("experiment_window_retention_hours", 24, 1, 24 * 365));
        Experiments { look, tick, lease, silent_after, lost_after, prepare_within, windows }
    }

    fn artifact_store(&mut self, text: &str, data_dir: &Path) -> ObjectUri {
        text.parse().unwrap_or_else(|error| {
            self.problems.push(format!("`artifact_store`: {error}"));
            ObjectUri::File(data_dir.to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Config, ConfigError> {
        Config::from_figment(&Figment::new().merge(Toml::string(toml)))
    }

    #[test]
    fn defaults_hold_without_a_file() {
        let config = read("").unwrap();
        assert_eq!(config.listen_rest.port(), 7070);
        assert!(config.artifact_store.to_string().ends_with("/.akidb/control-plane/objects"));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let error = read("listen_rest = \"nowhere\"\nretention = 3\nwindow_retention_days = 0\nartifact_store = \"ftp://x\"")
            .unwrap_err()
            .to_string();
        for part in
            ["`listen_rest`", "unknown key `retention`", "`window_retention_days`: 0 is not in 1..=3650", "`ftp://x` is not an object URI"]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
