//! One stream a sidecar: identity in, snapshots out, acknowledgements and artifact states in.
//!
//! Enters: the sidecar's messages. Leaves: `Welcome`, then the newest snapshot whenever its content changes for this sidecar. Never: a
//! queue of snapshots; a slow sidecar skips to the newest.

use std::collections::BTreeSet;
use std::time::Duration;

use akidb_domain::bundle::is_sha256;
use akidb_domain::vocabulary::is_name;
use akidb_proto::v1::artifact_status::State;
use akidb_proto::v1::{self, watch_request, watch_response};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::connections::Connection;
use super::{FleetService, identity, internal};
use crate::access::Caller;
use crate::db::sidecars::{self, SidecarRow, StatusRow};
use crate::db::{Conn, Error, meta};
use crate::db::{boots, lanes};
use crate::leases::Renewal;
use crate::publisher::DeviceKind;

type Out = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// How long a sidecar may take to say who it is, and how often its token is looked at again.
const IDENTITY_WITHIN: Duration = Duration::from_secs(10);
const TOKEN_CHECKED_EVERY: Duration = Duration::from_secs(30);
/// Messages on their way to a sidecar: a snapshot, and the leases of some experiments.
const QUEUED: usize = 64;
/// Longest reason that is kept.
const MOST_REASON: usize = 1_024;

/// A stream of a registered sidecar.
struct Stream {
    service: FleetService,
    caller: Caller,
    sidecar_id: String,
    app: String,
    devices: BTreeSet<DeviceKind>,
    connection: Connection,
    out: Out,
}

/// Registers the sidecar and serves it from then on.
pub(crate) async fn open(
    service: FleetService,
    caller: Caller,
    mut incoming: Streaming<v1::WatchRequest>,
) -> Result<ReceiverStream<Result<v1::WatchResponse, Status>>, Status> {
    let first = tokio::time::timeout(IDENTITY_WITHIN, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no `identity` came within 10 s"))??;
    let Some(v1::WatchRequest { message: Some(watch_request::Message::Identity(it)) }) = first else {
        return Err(Status::invalid_argument("the first message must be `identity`"));
    };
    let it = identity::check(&caller, it)?;
    // Only who may speak for a sidecar may end its older stream.
    let welcome = register(&service, &caller, &it).await?;
    let connection = service.connections.open(&it.sidecar_id, &service.stop);
    let connection = connection.ok_or_else(|| Status::resource_exhausted("too many sidecars are connected"))?;
    let (out, answers) = mpsc::channel(QUEUED);
    let devices = identity::device_kinds(&it);
    let stream = Stream { service, caller, sidecar_id: it.sidecar_id, app: it.app, devices, connection, out };
    tracing::info!(sidecar = stream.sidecar_id, boot = it.boot_id, "sidecar connected");
    tokio::spawn(stream.serve(welcome, incoming));
    Ok(ReceiverStream::new(answers))
}

/// Writes the sidecar and its boot down; answers what it may forget of its spool.
async fn register(service: &FleetService, caller: &Caller, it: &v1::Identity) -> Result<v1::Welcome, Status> {
    let at = service.clock.now_ms();
    let mut tx = service.db.begin().await.map_err(|e| internal(&e))?;
    let known = sidecars::find(&mut tx, &it.sidecar_id).await.map_err(|e| internal(&e))?;
    if let Some(there) = known.filter(|there| !caller.may_be(&there.namespace, &there.app)) {
        return Err(Status::permission_denied(format!(
            "sidecar `{}` belongs to app `{}` in namespace `{}`",
            there.id, there.app, there.namespace
        )));
    }
    let (welcome, unclean) = write(&mut tx, it, at).await.map_err(|e| internal(&e))?;
    let owned = boots::find(&mut tx, &it.boot_id).await.map_err(|e| internal(&e))?.is_some_and(|boot| boot.sidecar_id == it.sidecar_id);
    if !owned {
        return Err(Status::permission_denied(format!("boot `{}` belongs to another sidecar", it.boot_id)));
    }
    tx.commit().await.map_err(|e| internal(&e))?;
    service.metrics.unclean_ends.inc_by(unclean);
    Ok(welcome)
}

async fn write(conn: &mut Conn, it: &v1::Identity, at: i64) -> Result<(v1::Welcome, u64), Error> {
    let previous = sidecars::find(conn, &it.sidecar_id).await?;
    sidecars::register(conn, &row(it, at)).await?;
    if previous.is_some_and(|there| there.boot_id != it.boot_id) {
        lanes::note_canaries(conn, &it.sidecar_id).await?;
        sidecars::clear_statuses(conn, &it.sidecar_id).await?;
    }
    boots::ensure(conn, &it.boot_id, &it.sidecar_id, it.boot_unix_ns, at).await?;
    let unclean = boots::note_unclean_ends(conn, &it.sidecar_id, &it.boot_id, at).await?;
    let mut marks = Vec::new();
    for boot_id in it.spooled_boots.iter().chain([&it.boot_id]) {
        let boot = boots::find(conn, boot_id).await?.filter(|boot| boot.sidecar_id == it.sidecar_id);
        let high_water_mark = boot.map_or(0, |boot| boot.high_water_mark as u64);
        if !marks.iter().any(|mark: &v1::Mark| mark.boot_id == *boot_id) {
            marks.push(v1::Mark { boot_id: boot_id.clone(), high_water_mark });
        }
    }
    let epoch = meta::version(conn).await?.epoch;
    Ok((v1::Welcome { epoch, marks }, unclean))
}

fn row(it: &v1::Identity, at: i64) -> SidecarRow {
    let device = |it: &v1::Device| {
        json!({"uuid": it.uuid, "sku": it.sku, "region": it.region, "share_ppm": it.share_ppm,
               "compute_capability": it.compute_capability, "memory_bytes": it.memory_bytes})
    };
    let provider = |it: &v1::Provider| json!({"name": it.name, "version": it.version});
    let active = it.active.unwrap_or_default();
    SidecarRow {
        id: it.sidecar_id.clone(),
        namespace: it.namespace.clone(),
        app: it.app.clone(),
        pod: it.pod.clone(),
        node: it.node.clone(),
        version: it.version.clone(),
        devices: json!(it.devices.iter().map(device).collect::<Vec<_>>()).to_string(),
        providers: json!(it.providers.iter().map(provider).collect::<Vec<_>>()).to_string(),
        boot_id: it.boot_id.clone(),
        active_epoch: active.epoch as i64,
        active_n: active.n as i64,
        nack_reason: String::new(),
        first_seen_at: at,
        last_seen_at: at,
    }
}

impl Stream {
    async fn serve(self, welcome: v1::Welcome, mut incoming: Streaming<v1::WatchRequest>) {
        let ended = tokio::select! {
            () = self.connection.replaced.cancelled() => Err(Status::aborted("the control plane stops, or a newer stream of this sidecar opened")),
            ended = self.send(welcome) => ended,
            ended = self.receive(&mut incoming) => ended,
            ended = self.watch_token() => ended,
        };
        if let Err(status) = ended {
            // The sidecar may be gone already; then nobody is left to tell.
            drop(self.out.try_send(Err(status)));
        }
        tracing::info!(sidecar = self.sidecar_id, "sidecar disconnected");
    }

    /// The newest snapshot, each time it says something new to this sidecar, and the leases of the experiments in it.
    async fn send(&self, welcome: v1::Welcome) -> Result<(), Status> {
        self.put(watch_response::Message::Welcome(welcome)).await?;
        let (mut published, mut renewals) = (self.service.published.clone(), self.service.renewals.clone());
        let mut last = None;
        let mut experiments: Vec<String> = Vec::new();
        loop {
            let newest = published.borrow_and_update().clone();
            let mut snapshot = newest.for_sidecar(&self.app, &self.devices);
            let version = std::mem::take(&mut snapshot.version);
            if last.as_ref() != Some(&(version.epoch, snapshot.clone())) {
                let splits = snapshot.splits.iter().map(|it| it.experiment.clone()).collect();
                last = Some((version.epoch, snapshot.clone()));
                snapshot.version = version;
                self.put(watch_response::Message::Snapshot(snapshot.into())).await?;
                self.service.metrics.snapshots_sent.inc();
                experiments = splits;
                // A split without a lease would be a gap until the next renewal.
                self.lease(&experiments, &renewals.borrow_and_update().clone());
            }
            let stops = |_| Status::unavailable("the control plane stops");
            loop {
                tokio::select! {
                    changed = published.changed() => {
                        changed.map_err(stops)?;
                        break;
                    }
                    renewed = renewals.changed() => {
                        renewed.map_err(stops)?;
                        self.lease(&experiments, &renewals.borrow_and_update().clone());
                    }
                }
            }
        }
    }

    /// Passes on what is left of each lease. One that finds no room is not kept for later: it would renew what may have run out by then.
    fn lease(&self, experiments: &[String], renewal: &Renewal) {
        for experiment in experiments {
            let Some(ttl_ms) = renewal.left_ms(experiment) else { continue };
            let lease = v1::Lease { experiment: experiment.clone(), ttl_ms };
            if self.out.try_send(Ok(v1::WatchResponse { message: Some(watch_response::Message::Lease(lease)) })).is_ok() {
                self.service.metrics.leases_sent.inc();
            }
        }
    }

    async fn put(&self, message: watch_response::Message) -> Result<(), Status> {
        let sent = self.out.send(Ok(v1::WatchResponse { message: Some(message) })).await;
        sent.map_err(|_| Status::cancelled("the sidecar is gone"))
    }

    async fn receive(&self, incoming: &mut Streaming<v1::WatchRequest>) -> Result<(), Status> {
        while let Some(message) = incoming.next().await {
            if let Some(message) = message?.message {
                self.take(message).await?;
            }
        }
        Ok(())
    }

    async fn take(&self, message: watch_request::Message) -> Result<(), Status> {
        let (at, id) = (self.service.clock.now_ms(), self.sidecar_id.as_str());
        let mut tx = self.service.db.begin().await.map_err(|e| internal(&e))?;
        let written = match message {
            watch_request::Message::Identity(_) => return Err(Status::invalid_argument("`identity` came twice")),
            watch_request::Message::Ack(it) => {
                let version = it.version.unwrap_or_default();
                sidecars::active(&mut tx, id, version.epoch, version.n, "", at).await
            }
            watch_request::Message::Nack(it) => {
                self.service.metrics.nacks.inc();
                let (active, reason) = (it.active.unwrap_or_default(), short(&it.reason));
                tracing::warn!(sidecar = id, version = ?it.version, reason, "sidecar refused a snapshot");
                sidecars::active(&mut tx, id, active.epoch, active.n, reason, at).await
            }
            watch_request::Message::Artifact(it) => sidecars::put_status(&mut tx, id, &status(&it, at)?).await,
        };
        written.map_err(|e| internal(&e))?;
        tx.commit().await.map_err(|e| internal(&e))
    }

    /// A revoked token ends its stream.
    async fn watch_token(&self) -> Result<(), Status> {
        loop {
            tokio::time::sleep(TOKEN_CHECKED_EVERY).await;
            if !self.service.access.still_good(&self.caller).await.unwrap_or(true) {
                return Err(Status::unauthenticated("the token was revoked"));
            }
        }
    }
}

fn status(it: &v1::ArtifactStatus, at: i64) -> Result<StatusRow, Status> {
    if !is_sha256(&it.digest) || !is_name(&it.model) || !is_name(&it.variant) || it.version.len() > 256 || it.provider.len() > 64 {
        return Err(Status::invalid_argument(
            "fields `artifact.digest`, `model`, `variant`, `version`, `provider`: a digest and four names are needed",
        ));
    }
    let state = match it.state() {
        State::Unspecified => return Err(Status::invalid_argument("field `artifact.state` is unspecified")),
        State::Pulling => "pulling",
        State::Cached => "cached",
        State::Loading => "loading",
        State::Ready => "ready",
        State::Failed => "failed",
    };
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(StatusRow {
        digest: it.digest.clone(),
        model: it.model.clone(),
        version: it.version.clone(),
        variant: it.variant.clone(),
        state: state.to_owned(),
        provider: it.provider.clone(),
        reason: short(&it.reason).to_owned(),
        done_bytes: bytes(it.done_bytes),
        total_bytes: bytes(it.total_bytes),
        updated_at: at,
    })
}

/// The start of a text, cut between characters.
fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_REASON)]
}
