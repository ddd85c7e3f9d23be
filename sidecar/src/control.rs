//! The link to the control plane: snapshots come, windows and statuses go.
//!
//! Enters: snapshots, marks, leases. Leaves: plans for `models`, acknowledgements, reports. Never: a request that waits for it; while the
//! control plane is away, the last persisted snapshot is served.
//!
//! Rooms, in reading order:
//! - [`file`](mod@file): the last snapshot on disk
//! - `watch`: the stream that snapshots come on
//! - `status`: what is told of artifacts
//! - `reporter`: windows from the spool to the control plane

pub mod file;
mod reporter;
mod status;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use akidb_domain::snapshot::{Snapshot, SnapshotVersion};
use akidb_domain::vocabulary::ExecutionProvider;
use akidb_proto::v1;
use arc_swap::ArcSwap;
use tokio::sync::watch as cell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use crate::clock::Clock;
use crate::config::{Config, ControlPlane, DefaultModel};
use crate::lease::Leases;
use crate::models::{Machine, Models, Plan};
use crate::telemetry::{Recorder, Spool};

/// What the link needs of the other rooms.
#[derive(Debug, Clone)]
pub struct Link {
    /// New at every start.
    pub boot_id: String,
    /// Stable over restarts.
    pub sidecar_id: String,
    /// Time.
    pub clock: Clock,
    /// Version of what runs engines.
    pub runtime: String,
    /// What runs here.
    pub machine: Machine,
    /// Windows on disk.
    pub spool: Spool,
    /// Cuts windows.
    pub recorder: Recorder,
    /// What the configuration serves by itself.
    pub configured: Plan,
    /// Leases of experiments.
    pub leases: Leases,
    /// Ends every task.
    pub stop: CancellationToken,
}

/// The handle.
#[derive(Debug, Clone)]
pub struct Control {
    spool: Spool,
    connected: cell::Receiver<bool>,
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    link: Link,
    identity: v1::Identity,
    models: Models,
    plane: ControlPlane,
    default: Option<DefaultModel>,
    state: std::path::PathBuf,
    active: ArcSwap<SnapshotVersion>,
    connected: cell::Sender<bool>,
    channel: Channel,
}

/// A connection attempt that takes longer has failed.
const CONNECT: Duration = Duration::from_secs(5);

impl Link {
    /// What to serve before the control plane has said anything: the persisted snapshot, else the configuration.
    pub async fn first_plan(&self, config: &Config) -> Plan {
        let Some(snapshot) = config.control_plane.as_ref().and_then(|_| file::read(&config.storage.state)) else {
            return self.configured.clone();
        };
        tracing::info!(version = %snapshot.version, "starting from the persisted snapshot");
        self.recorder.follow(&snapshot).await;
        self.plan(&snapshot, config.models.default.as_ref())
    }

    fn plan(&self, snapshot: &Snapshot, default: Option<&DefaultModel>) -> Plan {
        Plan::of_snapshot(snapshot, &self.machine).with_configured(&self.configured, default.and_then(|it| it.selector.as_deref()))
    }
}

impl Control {
    /// Starts the tasks. `link.first_plan` is what `models` serves already.
    pub fn start(config: &Config, plane: ControlPlane, link: Link, models: Models) -> (Self, Vec<JoinHandle<()>>) {
        let (connected, watched) = cell::channel(false);
        let active = file::read(&config.storage.state).map(|it| it.version).unwrap_or_default();
        let shared = Arc::new(Shared {
            identity: identity(config, &link),
            channel: endpoint(&plane).connect_lazy(),
            models,
            plane,
            default: config.models.default.clone(),
            state: config.storage.state.clone(),
            active: ArcSwap::from_pointee(active),
            connected,
            link,
        });
        let control = Self { spool: shared.link.spool.clone(), connected: watched };
        let tasks = vec![tokio::spawn(watch::run(shared.clone())), tokio::spawn(reporter::run(shared))];
        (control, tasks)
    }

    /// Waits until everything is reported, at most `most`; at once when the control plane is away.
    pub async fn flush(&self, most: Duration) {
        let drained = async {
            while *self.connected.borrow() && self.spool.pending(1).await.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(most, drained).await.is_err() {
            tracing::warn!("not everything was reported in time; the rest stays in the spool");
        }
    }
}

impl Shared {
    /// A request with the sidecar's token. The file is read each time, so that it may be rotated.
    fn request<T>(&self, message: T) -> Result<tonic::Request<T>, tonic::Status> {
        let mut request = tonic::Request::new(message);
        let from_file = self.plane.token_file.as_ref().map(|path| {
            std::fs::read_to_string(path)
                .map_err(|e| tonic::Status::unauthenticated(format!("token file {} cannot be read: {e}", path.display())))
        });
        let Some(token) = from_file.transpose()?.or_else(|| self.plane.token.clone()) else { return Ok(request) };
        let value: MetadataValue<_> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| tonic::Status::unauthenticated("the token has characters that no token has"))?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

fn endpoint(plane: &ControlPlane) -> Endpoint {
    // The configuration was checked; an address that slipped through fails to connect and says so.
    let endpoint = Endpoint::from_shared(plane.address.clone()).unwrap_or_else(|_| Endpoint::from_static("http://127.0.0.1:7071"));
    endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
}

fn identity(config: &Config, link: &Link) -> v1::Identity {
    let memory = rustix::system::sysinfo();
    let machine = &link.machine;
    let device = |uuid: &str, compute_capability: &str, memory_bytes| v1::Device {
        uuid: uuid.to_owned(),
        sku: config.device.sku.clone(),
        region: config.device.region.clone(),
        share_ppm: config.device.share_ppm,
        compute_capability: compute_capability.to_owned(),
        memory_bytes,
    };
    let mut devices: Vec<_> = machine.gpus().iter().map(|it| device(&it.uuid, &it.compute_capability, it.memory_bytes)).collect();
    match devices.first_mut() {
        // The name that the configuration may give is the first one's, and the windows'.
        Some(first) => first.uuid.clone_from(&config.device.uuid),
        None => devices.push(device(&config.device.uuid, "", (memory.totalram as u64).saturating_mul(u64::from(memory.mem_unit)))),
    }
    let version = |provider: ExecutionProvider| match provider {
        ExecutionProvider::TensorRt => machine.facts.tensorrt.clone().unwrap_or_default(),
        ExecutionProvider::Cuda | ExecutionProvider::Cpu => link.runtime.clone(),
    };
    let allowed = |it: &ExecutionProvider| machine.demanded.is_none_or(|demanded| demanded == *it);
    let usable = machine.facts.usable().into_iter().filter(allowed);
    let providers = usable.map(|it| v1::Provider { name: it.to_string(), version: version(it) }).collect();
    v1::Identity {
        sidecar_id: link.sidecar_id.clone(),
        boot_id: link.boot_id.clone(),
        boot_unix_ns: link.clock.boot_unix_ns(),
        pod: config.identity.pod.clone(),
        namespace: config.identity.namespace.clone(),
        app: config.identity.app.clone(),
        node: config.identity.node.clone(),
        devices,
        providers,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        active: None,
        spooled_boots: Vec::new(),
    }
}
