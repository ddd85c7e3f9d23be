//! `config.toml`, then the environment, checked at once.
//!
//! long: one struct and one reader a concern, each field with its key, variable and default.
//!
//! Enters: the text of a file and variables. Leaves: a checked [`Config`], or every error there is. Never: a key or variable that is
//! passed over, a secret in an error.
//!
//! Rooms: [`reader`] keys one by one, [`models`] the `[embedding.models]` table, [`reference`](mod@reference) which model is the default.

pub mod models;
pub mod reader;
pub mod reference;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use akidb_domain::cost::WHOLE_DEVICE_PPM;
use akidb_domain::profile::Shape;
use akidb_domain::vocabulary::ExecutionProvider;

pub use models::{Entry, Models};
use reader::{Environment, Errors, Section};
pub use reference::DefaultModel;

/// Price book key of a device that nobody named.
pub const CPU_SKU: &str = "cpu";
/// Most GPUs that serve together.
pub(crate) const MAX_DEVICES: usize = akidb_domain::window::MAX_DEVICES as usize;
/// Most execution contexts a GPU.
pub(crate) const MAX_CONTEXTS: usize = 16;
/// Most shapes that run as CUDA graphs from the first time on.
const MAX_GRAPHS: usize = 64;
/// Most shapes that become CUDA graphs because they run often.
const MAX_OFTEN: u64 = 1_024;

/// Everything a sidecar is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[storage]`
    pub storage: Storage,
    /// `[s3]`: `endpoint` (`AKIDB_S3_ENDPOINT`), `region` (`AKIDB_S3_REGION`), `path_style` (`AKIDB_S3_PATH_STYLE`); keys come from the
    /// usual AWS places.
    pub s3: akidb_store::S3Options,
    /// `[control_plane]`; none: the sidecar runs from its configuration alone.
    pub control_plane: Option<ControlPlane>,
    /// `[identity]`
    pub identity: Identity,
    /// `[device]`
    pub device: Device,
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[logs]`
    pub logs: Logs,
    /// `[traces]`
    pub traces: Traces,
    /// `[embedding.batching]`
    pub batching: Batching,
    /// `[embedding.models]`
    pub models: Models,
}

/// `[server]`: where it listens and how it leaves.
#[derive(Debug, Clone)]
pub struct Server {
    /// `listen`, `AKIDB_LISTEN`: the embedding API; default 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// `ops_listen`, `AKIDB_OPS_LISTEN`: `/healthz`, `/readyz` and `/metrics`; default 127.0.0.1:9464. Probes from outside the pod need
    /// the pod's address or 0.0.0.0 here.
    pub ops_listen: SocketAddr,
    /// `unix_socket`, `AKIDB_UNIX_SOCKET`: the embedding API too; default none.
    pub unix_socket: Option<PathBuf>,
    /// `drain_timeout_ms`, `AKIDB_DRAIN_TIMEOUT_MS`: how long requests in flight may take after SIGTERM; default 20,000.
    pub drain_timeout: Duration,
}

/// `[storage]`: what it may write, and how much.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `state_folder`, `AKIDB_STATE_FOLDER`: snapshot, spool, markers; default `/var/lib/akidb`.
    pub state: PathBuf,
    /// `cache_folder`, `AKIDB_CACHE_FOLDER`: artifacts; default `cache` in the state folder.
    pub cache: PathBuf,
    /// `cache_limit_bytes`, `AKIDB_CACHE_LIMIT_BYTES`: default 20 GiB.
    pub cache_limit_bytes: u64,
    /// `spool_limit_bytes`, `AKIDB_SPOOL_LIMIT_BYTES`: telemetry that waits for the control plane; default 64 MiB.
    pub spool_limit_bytes: u64,
}

/// `[control_plane]`
#[derive(Clone)]
pub struct ControlPlane {
    /// `address`, `AKIDB_CONTROL_PLANE`: e.g. `http://akidb-control-plane:7071`.
    pub address: String,
    /// `token_file`, `AKIDB_CONTROL_PLANE_TOKEN_FILE`: read at every connection, so it may be rotated.
    pub token_file: Option<PathBuf>,
    /// `AKIDB_CONTROL_PLANE_TOKEN`; only a variable, so that no token stands in a file meant for settings.
    pub token: Option<String>,
}

/// `[identity]`: who reports.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// `sidecar_id`, `AKIDB_SIDECAR_ID`: default made once and kept in the state folder.
    pub sidecar_id: Option<String>,
    /// `namespace`, `AKIDB_NAMESPACE`
    pub namespace: String,
    /// `app`, `AKIDB_APP`
    pub app: String,
    /// `pod`, `AKIDB_POD`: default the host's name.
    pub pod: String,
    /// `node`, `AKIDB_NODE`: default the host's name.
    pub node: String,
}

/// `[device]`: what is paid for.
#[derive(Debug, Clone)]
pub struct Device {
    /// `sku`, `AKIDB_DEVICE_SKU`: price book key; default `cpu`, on a GPU its name such as `nvidia-h100-80gb-hbm3`.
    pub sku: String,
    /// `region`, `AKIDB_DEVICE_REGION`: price book key; default `local`.
    pub region: String,
    /// `uuid`, `AKIDB_DEVICE_UUID`: default `cpu-<node>`, on a GPU its own.
    pub uuid: String,
    /// `share_ppm`, `AKIDB_DEVICE_SHARE_PPM`: part of the device, of several each, that this sidecar occupies, in parts in a million; default all of it.
    pub share_ppm: u32,
    /// How many there are: on GPUs those of `[runtime] device_ids`, known at the start; else 1.
    pub count: u32,
}

/// `[runtime]`: what runs engines.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// `onnxruntime`, `AKIDB_ONNXRUNTIME` or `ORT_DYLIB_PATH`: ONNX Runtime's library; default `libonnxruntime.so`, searched by the loader.
    pub onnxruntime: PathBuf,
    /// `threads`, `AKIDB_THREADS`: threads of an operator; default the CPUs that the container may use.
    pub threads: usize,
    /// `provider`, `AKIDB_EMBEDDING_PROVIDER`: demanded; none: the best there is.
    pub provider: Option<ExecutionProvider>,
    /// `device_ids`, `AKIDB_DEVICE_IDS` (`0,1`): GPUs that serve every model together, all of one kind, at most 8; default the first.
    pub device_ids: Vec<u32>,
    /// `contexts`, `AKIDB_CONTEXTS`: execution contexts a GPU, each with a thread of its own, so that one batch is prepared and answered
    /// while the GPU runs another; 1 to 16, default 2.
    pub contexts: usize,
    /// `cuda_graphs`, `AKIDB_CUDA_GRAPHS` (`1x16,1x32`): padded shapes of TensorRT engines that run as CUDA graphs from the first time on, at
    /// most 64; default these two.
    pub cuda_graphs: Vec<Shape>,
    /// `cuda_graph_limit`, `AKIDB_CUDA_GRAPH_LIMIT`: most shapes of a context that become CUDA graphs because they run often; 0 to 1024,
    /// default 128.
    pub cuda_graph_limit: usize,
    /// `tf32`, `AKIDB_TF32`: whether the `cuda` provider may use TF32 for fp32 graphs; default true.
    pub tf32: bool,
}

/// `[logs]`
#[derive(Debug, Clone)]
pub struct Logs {
    /// `format`, `AKIDB_LOG_FORMAT`: `text` (default) or `json`.
    pub format: LogFormat,
    /// `level`, `AKIDB_LOG`: a filter such as `info` (default) or `info,akidb_sidecar=debug`.
    pub level: String,
    /// The opt-in `embed_request` event.
    pub texts: TextSample,
}

/// `[logs] embed_request_*`: which texts are logged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextSample {
    /// `embed_request_sample`, `AKIDB_EMBED_REQUEST_SAMPLE`: part of the texts, 0 (default: none) to 1.
    pub share: f64,
    /// `embed_request_max_bytes`, `AKIDB_EMBED_REQUEST_MAX_BYTES`: a longer text is cut; default 2,048.
    pub max_bytes: usize,
    /// `embed_request_per_second`, `AKIDB_EMBED_REQUEST_PER_SECOND`: most lines a second; default 10.
    pub per_second: u32,
}

/// `[traces]`: OpenTelemetry.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// `otlp_endpoint`, `AKIDB_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`: a collector's gRPC address, e.g. `http://localhost:4317`;
    /// default none: nothing is traced.
    pub otlp_endpoint: Option<String>,
    /// `sample_ratio`, `AKIDB_TRACE_SAMPLE_RATIO`: part of the requests without a `traceparent` that is traced, 0 to 1 (default); with one,
    /// its sampled flag decides.
    pub sample_ratio: f64,
}

/// `[embedding.batching]`: how batches are cut, and the bounds of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// `enabled`, `AKIDB_BATCHING_ENABLED`: false runs every request by itself; default true.
    pub enabled: bool,
    /// `max_batch_size`, `AKIDB_MAX_BATCH_SIZE`: most texts in a batch; default 64, or what the shape profile of an engine on a GPU says.
    pub max_batch_size: Option<usize>,
    /// `max_wait_time_ms`, `AKIDB_MAX_WAIT_TIME_MS`: longest that a request waits for others; default 10.
    pub max_wait: Duration,
    /// `adaptive`, `AKIDB_BATCHING_ADAPTIVE`: learn a shorter wait from arrivals and engine time; default true.
    pub adaptive: bool,
    /// `max_batch_tokens`, `AKIDB_MAX_BATCH_TOKENS`: most tokens in a batch, padding included; default: learnt for each engine when it is
    /// warmed up.
    pub max_batch_tokens: Option<usize>,
    /// `max_queued_texts`, `AKIDB_MAX_QUEUED_TEXTS`: most texts that wait; default 4,096, on a GPU 65,536.
    pub max_queued_texts: Option<usize>,
    /// `max_queued_ms`, `AKIDB_MAX_QUEUED_MS`: most estimated work that waits; default 4,000.
    pub max_queued: Duration,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} error(s):", self.0.len())?;
        self.0.iter().try_for_each(|it| write!(f, "\n  - {it}"))
    }
}

impl Config {
    /// Reads a file (none: all defaults), then the environment. Relative paths of the file are relative to its folder.
    pub fn load(file: Option<&Path>, env: &Environment) -> Result<Self, ConfigErrors> {
        let unreadable = |path: &Path, error: std::io::Error| ConfigErrors(vec![format!("`{}` cannot be read: {error}", path.display())]);
        let text = file.map(|it| std::fs::read_to_string(it).map_err(|e| unreadable(it, e))).transpose()?.unwrap_or_default();
        let folder = file.and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
        let folder = std::path::absolute(&folder).or_else(|_| std::env::current_dir()).unwrap_or(folder);
        Self::parse(&text, &folder, env)
    }

    /// Reads the text of a file in `folder`, then the environment.
    pub fn parse(text: &str, folder: &Path, env: &Environment) -> Result<Self, ConfigErrors> {
        let mut errors = Errors::default();
        let mut root = Section::root(text, &mut errors);
        let mut source = Source { folder, env, errors: &mut errors };
        let identity = identity(&mut root, &mut source);
        let mut embedding = root.table("embedding", source.errors);
        let config = Self {
            server: server(&mut root, &mut source),
            storage: storage(&mut root, &mut source),
            s3: s3(&mut root, &mut source),
            control_plane: control_plane(&mut root, &mut source),
            device: device(&mut root, &identity, &mut source),
            runtime: runtime(&mut root, &mut source),
            logs: logs(&mut root, &mut source),
            traces: traces(&mut root, &mut source),
            batching: batching(&mut embedding, &mut source),
            models: models::read(&mut embedding, &mut source),
            identity,
        };
        embedding.finish(&mut errors);
        root.finish(&mut errors);
        config.check(&mut errors);
        if errors.0.is_empty() { Ok(config) } else { Err(ConfigErrors(errors.0)) }
    }

    fn check(&self, errors: &mut Errors) {
        if self.models.available.is_empty() && self.control_plane.is_none() {
            errors.add(
                "there is nothing to serve: add `[[embedding.models.available]]` or set `control_plane.address` (`AKIDB_CONTROL_PLANE`)",
            );
        }
        if self.server.listen == self.server.ops_listen && self.server.listen.port() != 0 {
            errors.add(format!("`server.listen` and `server.ops_listen` are both {}: give them different ports", self.server.listen));
        }
    }
}

/// Where values come from and where complaints go.
pub(crate) struct Source<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) env: &'a Environment,
    pub(crate) errors: &'a mut Errors,
}

impl Source<'_> {
    fn get<T: reader::Setting>(&mut self, section: &mut Section, key: &'static str, variable: &str) -> Option<T> {
        section.setting(key, variable, self.env, self.errors)
    }

    /// A number within bounds.
    fn number(&mut self, section: &mut Section, names: (&'static str, &str), default: u64, bounds: std::ops::RangeInclusive<u64>) -> u64 {
        self.optional(section, names, bounds).unwrap_or(default)
    }

    /// A number within bounds, if it is given.
    fn optional(
        &mut self,
        section: &mut Section,
        (key, variable): (&'static str, &str),
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.get(section, key, variable)?;
        if !bounds.contains(&value) {
            self.errors.add(format!("`{}` (`{variable}`): {value} is not in {}..={}", section.path_of(key), bounds.start(), bounds.end()));
        }
        Some(value)
    }

    /// A few words without repetition: an array in the file, separated by commas in the variable.
    fn list<T: FromStr + PartialEq + fmt::Display>(
        &mut self,
        section: &mut Section,
        (key, variable): (&'static str, &str),
        default: &str,
        (kind, allowed): (&str, impl Fn(&T) -> bool),
        most: usize,
    ) -> Vec<T> {
        let reader::Words(words) = self.get(section, key, variable).unwrap_or_else(|| reader::Words::of(default));
        let mut values: Vec<T> = Vec::new();
        for word in &words {
            let problem = match word.parse::<T>().ok().filter(&allowed) {
                Some(value) if !values.contains(&value) => {
                    values.push(value);
                    continue;
                }
                Some(value) => format!("{value} is there twice: name each once"),
                None => format!("`{word}` is not {kind}, e.g. {default}"),
            };
            self.errors.add(format!("`{}` (`{variable}`): {problem}", section.path_of(key)));
        }
        if values.len() > most {
            self.errors.add(format!("`{}` (`{variable}`): {} values; at most {most} are allowed", section.path_of(key), values.len()));
        }
        values
    }

    /// A part of the whole, 0 to 1.
    fn share(&mut self, section: &mut Section, (key, variable): (&'static str, &str), default: f64) -> f64 {
        let value = self.get(section, key, variable).unwrap_or(default);
        if !(0.0..=1.0).contains(&value) {
            self.errors.add(format!("`{}` (`{variable}`): {value} is not in 0..=1", section.path_of(key)));
        }
        value
    }

    fn text(&mut self, section: &mut Section, key: &'static str, variable: &str, default: impl FnOnce() -> String) -> String {
        let value = self.get(section, key, variable).unwrap_or_else(default);
        if value.len() > 256 {
            self.errors.add(format!("`{}` (`{variable}`) has {} bytes; at most 256 are allowed", section.path_of(key), value.len()));
        }
        value
    }

    fn path(&mut self, section: &mut Section, key: &'static str, variable: &str) -> Option<PathBuf> {
        self.get(section, key, variable).map(|it: PathBuf| self.folder.join(it))
    }
}

fn server(root: &mut Section, source: &mut Source<'_>) -> Server {
    let mut it = root.table("server", source.errors);
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let server = Server {
        listen: source.get(&mut it, "listen", "AKIDB_LISTEN").unwrap_or_else(|| local(8080)),
        ops_listen: source.get(&mut it, "ops_listen", "AKIDB_OPS_LISTEN").unwrap_or_else(|| local(9464)),
        unix_socket: source.path(&mut it, "unix_socket", "AKIDB_UNIX_SOCKET"),
        drain_timeout: Duration::from_millis(source.number(&mut it, ("drain_timeout_ms", "AKIDB_DRAIN_TIMEOUT_MS"), 20_000, 0..=600_000)),
    };
    it.finish(source.errors);
    server
}

fn storage(root: &mut Section, source: &mut Source<'_>) -> Storage {
    let mut it = root.table("storage", source.errors);
    let state = source.path(&mut it, "state_folder", "AKIDB_STATE_FOLDER").unwrap_or_else(|| "/var/lib/akidb".into());
    let storage = Storage {
        cache: source.path(&mut it, "cache_folder", "AKIDB_CACHE_FOLDER").unwrap_or_else(|| state.join("cache")),
        cache_limit_bytes: source.number(&mut it, ("cache_limit_bytes", "AKIDB_CACHE_LIMIT_BYTES"), 20 << 30, 1 << 20..=1 << 50),
        spool_limit_bytes: source.number(&mut it, ("spool_limit_bytes", "AKIDB_SPOOL_LIMIT_BYTES"), 64 << 20, 1 << 20..=1 << 40),
        state,
    };
    it.finish(source.errors);
    storage
}

fn s3(root: &mut Section, source: &mut Source<'_>) -> akidb_store::S3Options {
    let mut it = root.table("s3", source.errors);
    let options = akidb_store::S3Options {
        endpoint: source.get(&mut it, "endpoint", "AKIDB_S3_ENDPOINT"),
        region: source.get(&mut it, "region", "AKIDB_S3_REGION"),
        path_style: source.get(&mut it, "path_style", "AKIDB_S3_PATH_STYLE"),
        keys: None,
    };
    it.finish(source.errors);
    options
}

fn control_plane(root: &mut Section, source: &mut Source<'_>) -> Option<ControlPlane> {
    let mut it = root.table("control_plane", source.errors);
    let address: Option<String> = source.get(&mut it, "address", "AKIDB_CONTROL_PLANE");
    let token_file = source.path(&mut it, "token_file", "AKIDB_CONTROL_PLANE_TOKEN_FILE");
    let token = source.env.get("AKIDB_CONTROL_PLANE_TOKEN").filter(|it| !it.is_empty()).cloned();
    it.finish(source.errors);
    let address = address?;
    if !address.strip_prefix("http://").is_some_and(|it| !it.is_empty() && !it.contains(char::is_whitespace)) {
        source.errors.add(format!(
            "`control_plane.address` (`AKIDB_CONTROL_PLANE`): `{address}` is not http://host:port (TLS is not supported yet)"
        ));
    }
    Some(ControlPlane { address, token_file, token })
}

fn identity(root: &mut Section, source: &mut Source<'_>) -> Identity {
    let mut it = root.table("identity", source.errors);
    let host = source.env.get("HOSTNAME").cloned().unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let identity = Identity {
        sidecar_id: source.get(&mut it, "sidecar_id", "AKIDB_SIDECAR_ID"),
        namespace: source.text(&mut it, "namespace", "AKIDB_NAMESPACE", String::new),
        app: source.text(&mut it, "app", "AKIDB_APP", String::new),
        pod: source.text(&mut it, "pod", "AKIDB_POD", || host.clone()),
        node: source.text(&mut it, "node", "AKIDB_NODE", || host.clone()),
    };
    it.finish(source.errors);
    identity
}

fn device(root: &mut Section, identity: &Identity, source: &mut Source<'_>) -> Device {
    let mut it = root.table("device", source.errors);
    let share =
        source.number(&mut it, ("share_ppm", "AKIDB_DEVICE_SHARE_PPM"), u64::from(WHOLE_DEVICE_PPM), 1..=u64::from(WHOLE_DEVICE_PPM));
    let device = Device {
        sku: source.text(&mut it, "sku", "AKIDB_DEVICE_SKU", || CPU_SKU.into()),
        region: source.text(&mut it, "region", "AKIDB_DEVICE_REGION", || "local".into()),
        uuid: source.text(&mut it, "uuid", "AKIDB_DEVICE_UUID", || format!("cpu-{}", identity.node)),
        share_ppm: share as u32,
        count: 1,
    };
    it.finish(source.errors);
    device
}

fn runtime(root: &mut Section, source: &mut Source<'_>) -> Runtime {
    let mut it = root.table("runtime", source.errors);
    let library: Option<PathBuf> = source.get(&mut it, "onnxruntime", "AKIDB_ONNXRUNTIME");
    let elsewhere = || source.env.get("ORT_DYLIB_PATH").filter(|it| !it.is_empty()).map(PathBuf::from);
    let onnxruntime = library.or_else(elsewhere).unwrap_or_else(|| "libonnxruntime.so".into());
    let gpu_number = ("the number of a GPU, 0 to 63", |it: &u32| *it < 64);
    let shape = ("a shape, BATCHxTOKENS", |_: &Shape| true);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let runtime = Runtime {
        onnxruntime,
        threads: source.number(&mut it, ("threads", "AKIDB_THREADS"), cpus, 1..=1024) as usize,
        provider: source.get(&mut it, "provider", "AKIDB_EMBEDDING_PROVIDER"),
        device_ids: source.list(&mut it, ("device_ids", "AKIDB_DEVICE_IDS"), "0", gpu_number, MAX_DEVICES),
        contexts: source.number(&mut it, ("contexts", "AKIDB_CONTEXTS"), 2, 1..=MAX_CONTEXTS as u64) as usize,
        cuda_graphs: source.list(&mut it, ("cuda_graphs", "AKIDB_CUDA_GRAPHS"), "1x16,1x32", shape, MAX_GRAPHS),
        cuda_graph_limit: source.number(&mut it, ("cuda_graph_limit", "AKIDB_CUDA_GRAPH_LIMIT"), 128, 0..=MAX_OFTEN) as usize,
        tf32: source.get(&mut it, "tf32", "AKIDB_TF32").unwrap_or(true),
    };
    it.finish(source.errors);
    runtime
}

fn logs(root: &mut Section, source: &mut Source<'_>) -> Logs {
    let mut it = root.table("logs", source.errors);
    let logs = Logs {
        format: source.get(&mut it, "format", "AKIDB_LOG_FORMAT").unwrap_or_default(),
        level: source.text(&mut it, "level", "AKIDB_LOG", || "info".into()),
        texts: TextSample {
            share: source.share(&mut it, ("embed_request_sample", "AKIDB_EMBED_REQUEST_SAMPLE"), 0.0),
            max_bytes: source.number(&mut it, ("embed_request_max_bytes", "AKIDB_EMBED_REQUEST_MAX_BYTES"), 2_048, 16..=65_536) as usize,
            per_second: source.number(&mut it, ("embed_request_per_second", "AKIDB_EMBED_REQUEST_PER_SECOND"), 10, 1..=10_000) as u32,
        },
    };
    it.finish(source.errors);
    logs
}

fn traces(root: &mut Section, source: &mut Source<'_>) -> Traces {
    let mut it = root.table("traces", source.errors);
    let ours: Option<String> = source.get(&mut it, "otlp_endpoint", "AKIDB_OTLP_ENDPOINT");
    let usual = || source.env.get("OTEL_EXPORTER_OTLP_ENDPOINT").cloned();
    let otlp_endpoint = ours.or_else(usual).filter(|it| !it.is_empty());
    let sample_ratio = source.share(&mut it, ("sample_ratio", "AKIDB_TRACE_SAMPLE_RATIO"), 1.0);
    it.finish(source.errors);
    if let Some(bad) = otlp_endpoint.as_ref().filter(|it| !it.starts_with("http://")) {
        source.errors.add(format!(
            "`traces.otlp_endpoint` (`AKIDB_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT`): `{bad}` is not http://host:port (TLS is not supported)"
        ));
    }
    Traces { otlp_endpoint, sample_ratio }
}

fn batching(embedding: &mut Section, source: &mut Source<'_>) -> Batching {
    let mut it = embedding.table("batching", source.errors);
    let batching = Batching {
        enabled: source.get(&mut it, "enabled", "AKIDB_BATCHING_ENABLED").unwrap_or(true),
        max_batch_size: source.optional(&mut it, ("max_batch_size", "AKIDB_MAX_BATCH_SIZE"), 1..=65_536).map(|it| it as usize),
        max_wait: Duration::from_millis(source.number(&mut it, ("max_wait_time_ms", "AKIDB_MAX_WAIT_TIME_MS"), 10, 0..=60_000)),
        adaptive: source.get(&mut it, "adaptive", "AKIDB_BATCHING_ADAPTIVE").unwrap_or(true),
        max_batch_tokens: match source.number(&mut it, ("max_batch_tokens", "AKIDB_MAX_BATCH_TOKENS"), 0, 0..=16_777_216) {
            0 => None,
            tokens => Some(tokens as usize),
        },
        max_queued_texts: source.optional(&mut it, ("max_queued_texts", "AKIDB_MAX_QUEUED_TEXTS"), 1..=1_000_000).map(|it| it as usize),
        max_queued: Duration::from_millis(source.number(&mut it, ("max_queued_ms", "AKIDB_MAX_QUEUED_MS"), 4_000, 1..=300_000)),
    };
    it.finish(source.errors);
    batching
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane").field("address", &self.address).field("token_file", &self.token_file).finish_non_exhaustive()
    }
}
