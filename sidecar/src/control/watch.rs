//! The stream that snapshots come on. Enters: welcome, snapshots, leases. Leaves: plans, acknowledgements, statuses. Never: an end, until
//! told to stop; a broken stream is opened again with exponential backoff.

use std::sync::Arc;
use std::time::Duration;

use akidb_domain::snapshot::{Snapshot, SnapshotVersion};
use akidb_proto::v1;
use akidb_proto::v1::fleet_client::FleetClient;
use akidb_proto::v1::watch_request::Message as Out;
use akidb_proto::v1::watch_response::Message as In;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::status::Told;
use super::{Shared, file};
use crate::backoff::Backoff;

/// Messages that may wait for the control plane.
const OUTBOX: usize = 64;
/// A message that waits longer for the stream means that the stream is dead.
const STALLED: Duration = Duration::from_secs(10);
/// Statuses are told this often at most.
const STATUS_PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let ended = tokio::select! {
            () = shared.link.stop.cancelled() => return,
            ended = session(&shared, &mut backoff) => ended,
        };
        shared.connected.send_replace(false);
        let (wait, status) = (backoff.next_wait(), ended.err());
        let cause = status.map_or_else(|| "the stream ended".to_owned(), |it| format!("{}: {}", it.code(), it.message()));
        tracing::warn!(address = shared.plane.address, cause, ?wait, "no link to the control plane; serving goes on");
        tokio::select! {
            () = shared.link.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn session(shared: &Shared, backoff: &mut Backoff) -> Result<(), Status> {
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let active = **shared.active.load();
    let identity = v1::Identity { active: Some(active.into()), spooled_boots: shared.link.spool.boots().await, ..shared.identity.clone() };
    send(&outbox, Out::Identity(identity)).await?;
    let mut client = FleetClient::new(shared.channel.clone()).max_decoding_message_size(akidb_proto::MAX_MESSAGE_BYTES);
    let mut inbox = client.watch(shared.request(ReceiverStream::new(messages))?).await?.into_inner();
    let (mut told, mut changes) = (Told::default(), shared.models.changes());
    changes.mark_changed();
    loop {
        tokio::select! {
            message = inbox.message() => match message?.and_then(|it| it.message) {
                Some(In::Welcome(welcome)) => {
                    backoff.reset();
                    welcomed(shared, &welcome);
                }
                Some(In::Snapshot(snapshot)) => send(&outbox, take(shared, snapshot).await).await?,
                Some(In::Lease(lease)) => shared.link.leases.renew(&lease.experiment, lease.ttl_ms),
                None => return Ok(()),
            },
            table = changes.changed() => {
                if table.is_err() {
                    return Ok(());
                }
                let news = told.news(&shared.models.table().load());
                for status in news {
                    send(&outbox, Out::Artifact(status)).await?;
                }
                tokio::time::sleep(STATUS_PAUSE).await;
            }
        }
    }
}

fn welcomed(shared: &Shared, welcome: &v1::Welcome) {
    tracing::info!(epoch = welcome.epoch, "linked to the control plane");
    let now = shared.link.clock.now_ns();
    for mark in &welcome.marks {
        shared.link.spool.acknowledge(&mark.boot_id, mark.high_water_mark, now);
    }
    shared.connected.send_replace(true);
}

/// Checks, keeps and follows a snapshot: ack, or nack with the reason.
async fn take(shared: &Shared, wire: v1::Snapshot) -> Out {
    let version: SnapshotVersion = wire.version.map(Into::into).unwrap_or_default();
    let active = **shared.active.load();
    match follow(shared, wire, active).await {
        Ok(()) => Out::Ack(v1::Ack { version: Some(version.into()) }),
        Err(reason) => {
            tracing::error!(%version, reason, "a snapshot was refused");
            Out::Nack(v1::Nack { version: Some(version.into()), active: Some(active.into()), reason })
        }
    }
}

async fn follow(shared: &Shared, wire: v1::Snapshot, active: SnapshotVersion) -> Result<(), String> {
    let snapshot = Snapshot::try_from(wire.clone()).map_err(|e| e.to_string())?;
    if snapshot.version == active {
        return Ok(());
    }
    if snapshot.version < active {
        return Err(format!("it is older than {active}, which is active"));
    }
    file::write(&shared.state, &wire).map_err(|e| format!("it cannot be kept in {}: {e}", shared.state.display()))?;
    shared.link.recorder.follow(&snapshot).await;
    shared.active.store(Arc::new(snapshot.version));
    shared.models.follow(shared.link.plan(&snapshot, shared.default.as_ref()));
    tracing::info!(version = %snapshot.version, models = snapshot.models.len(), "following a snapshot");
    Ok(())
}

async fn send(outbox: &mpsc::Sender<v1::WatchRequest>, message: Out) -> Result<(), Status> {
    let sent = tokio::time::timeout(STALLED, outbox.send(v1::WatchRequest { message: Some(message) })).await;
    sent.map_err(|_| Status::deadline_exceeded("the stream takes no messages"))?.map_err(|_| Status::unavailable("the stream is closed"))
}
