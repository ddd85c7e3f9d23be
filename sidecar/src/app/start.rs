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
use crate::config::{Batching, Config};
use crate::control::{self, Control};
use crate::engine::EngineError;
use crate::engine::onnx::Runtime;
use crate::http::{AppState, Limits, Listener, Readiness, TextLog};
use crate::lease::Leases;
use crate::metrics::{Metrics, MetricsError};
use crate::models::bundles::Bundles;
use crate::models::entries::{self, DefaultRefused};
use crate::models::{Machine, Models, Parts, memory};
use crate::telemetry::{Recorder, Spool, Telemetry, recorder};
use crate::tokenizer::{TokenizerError, TokenizerPool};
use crate::traces::{Traces, TracesError};

/// Why a sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The demanded provider is not there.
    #[error(
        "`runtime.provider` (`AKIDB_EMBEDDING_PROVIDER`) demands `{0}`, but this build has only the `cpu` provider: unset it, or use a build for GPUs"
    )]
    Provider(ExecutionProvider),
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
pub(super) async fn build(config: Config, store: Option<Store>) -> Result<App, StartError> {
    // A demanded provider that cannot serve is an error, never a fallback.
    if let Some(demanded) = config.runtime.provider.filter(|it| *it != ExecutionProvider::Cpu) {
        return Err(StartError::Provider(demanded));
    }
    Runtime::init(&config.runtime.onnxruntime).map_err(StartError::Runtime)?;
    let (clock, metrics, stop) = (Clock::start(), Metrics::new()?, CancellationToken::new());
    let boot_id = uuid::Uuid::now_v7().to_string();
    let sidecar_id = sidecar_id(&config)?;
    let store = store.unwrap_or_else(|| Store::new(config.s3.clone()));
    let artifacts = Artifacts::open(&config.storage.cache, config.storage.cache_limit_bytes, store.clone(), metrics.clone())
        .map_err(|cause| folder("`storage.cache_folder`", &config.storage.cache, cause))?;

    let machine = Machine { provider: ExecutionProvider::Cpu };
    let bundles = Bundles::new(store, &config.storage.cache);
    let configured = entries::resolve(&config.models, machine, &bundles, config.control_plane.is_none()).await?;

    let (telemetry, observations) = Telemetry::channel(clock);
    let spool_folder = config.storage.state.join("spool");
    let spool = Spool::start(&spool_folder, config.storage.spool_limit_bytes, (&boot_id, clock.boot_unix_ns()), metrics.clone())
        .map_err(|cause| folder("the telemetry spool", &spool_folder, cause))?;
    let leases = Leases::default();
    let (device, at_recorder) = (config.device.clone(), leases.clone());
    let parts = recorder::Parts { device, spool: spool.clone(), metrics: metrics.clone(), clock, leases: at_recorder };
    let (recorder, recording) = Recorder::start(parts, telemetry.clone(), observations);

    let (batcher, _executor) = Batcher::start(batching(&config.batching), telemetry.clone(), metrics.clone())?;
    let parts = Parts {
        artifacts: artifacts.clone(),
        batcher: batcher.clone(),
        tokenizers: TokenizerPool::start(config.runtime.threads)?,
        metrics: metrics.clone(),
        telemetry: telemetry.clone(),
        clock,
        state: config.storage.state.clone(),
        threads: config.runtime.threads,
        provider: machine.provider,
        memory_limit_bytes: config.models.memory_limit_bytes.unwrap_or_else(memory::default_limit),
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

fn batching(it: &Batching) -> BatcherConfig {
    let usual = BatcherConfig::default();
    BatcherConfig {
        enabled: it.enabled,
        max_batch_size: it.max_batch_size,
        max_wait: it.max_wait,
        adaptive: it.adaptive,
        max_batch_tokens: it.max_batch_tokens.unwrap_or(usual.max_batch_tokens),
        learn_budget: it.max_batch_tokens.is_none(),
        max_queued_texts: it.max_queued_texts,
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
