//! Makes the parts in the order in which they need each other. Enters: a [`Config`]. Leaves: an [`App`]. Never: a part that is used
//! before it is there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use akidb_domain::vocabulary::ExecutionProvider;
use akidb_store::Store;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::App;
use crate::artifacts::Artifacts;
use crate::batcher::{Batcher, BatcherConfig};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::control::{self, Control};
use crate::engine::device::{self, Facts, Gpu};
use crate::engine::onnx::Runtime;
use crate::engine::{EngineError, GpuSpec};
use crate::http::{AppState, Limits, Listener, Readiness, TextLog};
use crate::lease::Leases;
use crate::metrics::{Metrics, MetricsError};
use crate::models::bundles::Bundles;
use crate::models::entries::{self, DefaultRefused};
use crate::models::memory::Memory;
use crate::models::{Machine, Models, Parts};
use crate::telemetry::{Energy, Recorder, Spool, Telemetry, recorder};
use crate::tokenizer::{TokenizerError, TokenizerPool};
use crate::traces::{Traces, TracesError};

/// Texts that may wait for a GPU: a fraction of a second of its work.
const GPU_QUEUED_TEXTS: usize = 65_536;

/// Why a sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The demanded provider is not there.
    #[error("`runtime.provider` (`AKIDB_EMBEDDING_PROVIDER`) demands `{provider}`, which cannot serve here: {why}")]
    Provider {
        /// Which.
        provider: ExecutionProvider,
        /// What is missing.
        why: String,
    },
    /// GPUs that are not there, or that cannot serve together.
    #[error("{0}")]
    Devices(String),
    /// No ONNX Runtime.
    #[error("{0}: set `runtime.onnxruntime` (`AKIDB_ONNXRUNTIME`) to its library")]
    Runtime(EngineError),
    /// The default model cannot be served.
    #[error(transparent)]
    Default(#[from] DefaultRefused),
    /// An address or socket is taken.
    #[error("cannot listen on {at}: {cause}")]
    Listen {
        /// Which.
        at: String,
        /// Why.
        cause: io::Error,
    },
    /// A folder cannot be used.
    #[error("{what} {}: {cause}", .path.display())]
    Folder {
        /// What for.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The operating system refuses threads.
    #[error("threads cannot be started: {0}")]
    Threads(#[from] io::Error),
    /// As it says.
    #[error(transparent)]
    Tokenizers(#[from] TokenizerError),
    /// As it says.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// As it says.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// The control plane is told of this boot by a name of its own.
pub(super) async fn build(mut config: Config, store: Option<Store>) -> Result<App, StartError> {
    Runtime::init(&config.runtime.onnxruntime).map_err(StartError::Runtime)?;
    let machine = machine(&config)?;
    name_device(&mut config.device, &machine);
    let (clock, metrics, stop) = (Clock::start(), Metrics::new()?, CancellationToken::new());
    let boot_id = uuid::Uuid::now_v7().to_string();
    let sidecar_id = sidecar_id(&config)?;
    let store = store.unwrap_or_else(|| Store::new(config.s3.clone()));
    let artifacts = Artifacts::open(&config.storage.cache, config.storage.cache_limit_bytes, store.clone(), metrics.clone())
        .map_err(|cause| folder("`storage.cache_folder`", &config.storage.cache, cause))?;

    let bundles = Bundles::new(store, &config.storage.cache);
    let configured = entries::resolve(&config.models, &machine, &bundles, config.control_plane.is_none()).await?;

    let (telemetry, observations) = Telemetry::channel(clock);
    let spool_folder = config.storage.state.join("spool");
    let spool = Spool::start(&spool_folder, config.storage.spool_limit_bytes, (&boot_id, clock.boot_unix_ns()), metrics.clone())
        .map_err(|cause| folder("the telemetry spool", &spool_folder, cause))?;
    let leases = Leases::default();
    let energy = Energy::default();
    #[cfg(feature = "tensorrt")]
    let watch = super::gpus::Watch::start(&machine, metrics.clone(), energy.clone());
    let (device, at_recorder) = (config.device.clone(), leases.clone());
    let parts = recorder::Parts { device, spool: spool.clone(), metrics: metrics.clone(), clock, leases: at_recorder, energy };
    let (recorder, recording) = Recorder::start(parts, telemetry.clone(), observations);

    let (batcher, _executors) = Batcher::start(batching(&config, &machine), &telemetry, &metrics)?;
    let parts = Parts {
        artifacts: artifacts.clone(),
        batcher: batcher.clone(),
        tokenizers: TokenizerPool::start(config.runtime.threads)?,
        metrics: metrics.clone(),
        telemetry: telemetry.clone(),
        clock,
        state: config.storage.state.clone(),
        threads: config.runtime.threads,
        machine: machine.clone(),
        gpu: gpu(&config),
        memory: memory(&config, &machine),
        load_timeout: config.models.load_timeout,
    };
    let link = control::Link {
        runtime: Runtime::version(),
        boot_id,
        sidecar_id,
        clock,
        machine,
        spool: spool.clone(),
        recorder: recorder.clone(),
        configured,
        leases: leases.clone(),
        stop: stop.clone(),
    };
    let first = link.first_plan(&config).await;
    let (models, loading) = Models::start(parts, first, stop.clone());
    let mut tasks = vec![recording, loading];
    #[cfg(feature = "tensorrt")]
    tasks.push(tokio::spawn(watch.run(stop.clone())));
    let control = match &config.control_plane {
        Some(plane) => {
            let (control, linked) = Control::start(&config, plane.clone(), link, models.clone());
            tasks.extend(linked);
            Some(control)
        }
        None => None,
    };

    let (address, ops_address, listeners, ops) = listen(&config).await?;
    let state = AppState {
        serving: models.table(),
        demand: models.demand(),
        batcher,
        telemetry,
        metrics,
        clock,
        limits: Limits::default(),
        readiness: Readiness::default(),
        traces: Traces::start(&config.traces, clock)?,
        text_log: TextLog::new(config.logs.texts),
        leases,
    };
    Ok(App { state, address, ops_address, models, config, recorder, spool, artifacts, listeners, ops, control, tasks, stop })
}

async fn listen(config: &Config) -> Result<(std::net::SocketAddr, std::net::SocketAddr, Vec<Listener>, Listener), StartError> {
    let tcp = async |at: std::net::SocketAddr| {
        let fail = |cause| StartError::Listen { at: at.to_string(), cause };
        let listener = TcpListener::bind(at).await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok::<_, StartError>((listener, address))
    };
    let (api, address) = tcp(config.server.listen).await?;
    let (ops, ops_address) = tcp(config.server.ops_listen).await?;
    let mut listeners = vec![Listener::Tcp(api)];
    if let Some(path) = &config.server.unix_socket {
        listeners.push(Listener::Unix(unix(path).map_err(|cause| StartError::Listen { at: path.display().to_string(), cause })?));
    }
    Ok((address, ops_address, listeners, Listener::Tcp(ops)))
}

/// A socket that a dead process left behind is replaced; one that answers, and anything that is not a socket, is not.
fn unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    if let Ok(meta) = fs::symlink_metadata(path) {
        let taken = !meta.file_type().is_socket() || std::os::unix::net::UnixStream::connect(path).is_ok();
        if taken {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "something is there already"));
        }
        fs::remove_file(path)?;
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let listener = UnixListener::bind(path)?;
    // The application runs as another user of the pod; who may come in is decided by who may see the folder.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// What this machine has. A demanded provider that cannot serve is an error, never a fallback; one that is only preferred is told of once.
fn machine(config: &Config) -> Result<Machine, StartError> {
    let devices = config.runtime.device_ids.clone();
    let demanded = config.runtime.provider;
    let facts = match demanded {
        // Nobody needs a GPU to be looked for.
        Some(ExecutionProvider::Cpu) => Facts::cpu_only("`runtime.provider` demands `cpu`"),
        _ => device::detect(&config.runtime.onnxruntime, &devices),
    };
    for gpu in &facts.gpus {
        let Gpu { index, name, compute_capability, memory_bytes, .. } = gpu;
        let (driver, tensorrt) = (facts.driver.as_deref(), facts.tensorrt.as_deref());
        tracing::info!(index, name, compute_capability, memory_bytes, driver, tensorrt, "GPU");
    }
    if let Some((provider, why)) = demanded.and_then(|it| Some((it, facts.refusal(it)?.to_owned()))) {
        return Err(StartError::Provider { provider, why });
    }
    // Whoever names GPUs does not want the CPU in their place.
    if let Some(why) = facts.wrong_devices(&devices) {
        return Err(StartError::Devices(why));
    }
    if demanded.is_none() && !facts.gpus.is_empty() {
        for (provider, why) in &facts.refused {
            tracing::warn!(provider, why, "a provider cannot serve here; others stand in");
        }
    }
    Ok(Machine { facts, devices, demanded })
}

/// What is paid for: as many GPUs as serve; where the configuration left it open, their name.
fn name_device(device: &mut config::Device, machine: &Machine) {
    let gpus = machine.gpus();
    let Some(gpu) = gpus.first() else { return };
    device.count = gpus.len() as u32;
    if device.sku == config::CPU_SKU {
        device.sku = gpu.name.to_ascii_lowercase().replace(|it: char| !it.is_ascii_alphanumeric(), "-");
        if device.uuid.starts_with("cpu-") {
            device.uuid.clone_from(&gpu.uuid);
        }
    }
}

/// How engines use its GPUs; what is an engine's own comes with the engine.
fn gpu(config: &Config) -> GpuSpec {
    let it = &config.runtime;
    let (devices, contexts, cuda_graphs, tf32) = (it.device_ids.clone(), it.contexts, it.cuda_graphs.clone(), it.tf32);
    GpuSpec { devices, contexts, cuda_graphs, cuda_graph_limit: it.cuda_graph_limit, tf32, ..GpuSpec::default() }
}

fn memory(config: &Config, machine: &Machine) -> Memory {
    let it = &config.models;
    Memory::new(it.memory_limit_bytes, it.gpu_memory_limit_bytes, machine, config.runtime.contexts)
}

fn batching(config: &Config, machine: &Machine) -> BatcherConfig {
    let (it, usual) = (&config.batching, BatcherConfig::default());
    let (on_gpu, devices) = (machine.best() != ExecutionProvider::Cpu, machine.gpus().len().max(1));
    BatcherConfig {
        enabled: it.enabled,
        max_batch_size: it.max_batch_size.unwrap_or(usual.max_batch_size),
        learn_size: it.max_batch_size.is_none(),
        workers: if on_gpu { config.runtime.contexts * devices } else { 1 },
        devices,
        max_wait: it.max_wait,
        adaptive: it.adaptive,
        max_batch_tokens: it.max_batch_tokens.unwrap_or(usual.max_batch_tokens),
        learn_budget: it.max_batch_tokens.is_none(),
        max_queued_texts: it.max_queued_texts.unwrap_or(if on_gpu { GPU_QUEUED_TEXTS } else { usual.max_queued_texts }),
        max_queued: it.max_queued,
    }
}

/// The configured id, or one made once and kept in the state folder.
fn sidecar_id(config: &Config) -> Result<String, StartError> {
    let state = &config.storage.state;
    let fail = |cause| folder("`storage.state_folder`", state, cause);
    fs::create_dir_all(state).map_err(fail)?;
    if let Some(id) = &config.identity.sidecar_id {
        return Ok(id.clone());
    }
    let path = state.join("sidecar_id");
    if let Ok(id) = fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return Ok(id.trim().to_owned());
    }
    let id = uuid::Uuid::new_v4().to_string();
    fs::write(&path, &id).map_err(fail)?;
    Ok(id)
}

fn folder(what: &'static str, path: &Path, cause: io::Error) -> StartError {
    StartError::Folder { what, path: path.to_owned(), cause }
}
