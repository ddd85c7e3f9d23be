//! Windows from the spool to the control plane. Enters: what is above a boot's mark. Leaves: reports, the oldest boot first. Never: a
//! window given up because the control plane is away; only one that it refuses by itself, three times.

use std::sync::Arc;
use std::time::Duration;

use akidb_proto::v1::ReportRequest;
use akidb_proto::v1::fleet_client::FleetClient;
use tonic::{Code, Status};

use super::Shared;
use crate::backoff::Backoff;
use crate::telemetry::segments::Pending;

/// A report that takes longer has failed.
const REPORT: Duration = Duration::from_secs(20);
/// Refusals after which a window is given up.
const TRIES: u32 = 3;

/// How reports go.
struct Pace {
    /// Windows in the next report: one by one after a refusal, to find the one that is meant.
    most: usize,
    refusals: u32,
    backoff: Backoff,
}

pub(super) async fn run(shared: Arc<Shared>) {
    let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let mut pace = Pace { most: akidb_proto::MAX_WINDOWS, refusals: 0, backoff };
    let work = async {
        let (mut connected, mut appended) = (shared.connected.subscribe(), shared.link.spool.appended());
        while connected.wait_for(|it| *it).await.is_ok() {
            appended.mark_unchanged();
            if let Some(pending) = shared.link.spool.pending(pace.most).await {
                report(&shared, pending, &mut pace).await;
                continue;
            }
            tokio::select! {
                changed = appended.changed() => if changed.is_err() { return },
                // Marks may have gone back.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    };
    tokio::select! {
        () = shared.link.stop.cancelled() => {}
        () = work => {}
    }
}

async fn report(shared: &Shared, pending: Pending, pace: &mut Pace) {
    let sequences =
        (pending.windows.first().map_or(0, |it| it.sequence), pending.windows.last().map_or(pending.lost_through, |it| it.sequence));
    let boot_id = pending.boot_id.clone();
    match send(shared, pending).await {
        Ok(mark) => {
            shared.link.spool.acknowledge(&boot_id, mark, shared.link.clock.now_ns());
            if mark < sequences.1 {
                tracing::warn!(boot_id, mark, sent = sequences.1, "the control plane has counted less than it was sent; sending again");
                tokio::time::sleep(pace.backoff.next_wait()).await;
                return;
            }
            pace.backoff.reset();
            (pace.most, pace.refusals) = ((pace.most * 2).min(akidb_proto::MAX_WINDOWS), 0);
        }
        Err(status) if status.code() == Code::InvalidArgument && pace.most > 1 => pace.most = 1,
        Err(status) if status.code() == Code::InvalidArgument && pace.refusals + 1 >= TRIES && sequences.0 > 0 => {
            tracing::error!(
                boot_id,
                sequence = sequences.0,
                cause = status.message(),
                "the control plane refuses a window; it is given up"
            );
            shared.link.spool.skip(&boot_id, sequences.0);
            pace.refusals = 0;
        }
        Err(status) => {
            pace.refusals += u32::from(status.code() == Code::InvalidArgument);
            let wait = pace.backoff.next_wait();
            tracing::warn!(code = %status.code(), cause = status.message(), ?wait, "a report failed; the spool keeps it");
            tokio::time::sleep(wait).await;
        }
    }
}

async fn send(shared: &Shared, pending: Pending) -> Result<u64, Status> {
    let request = ReportRequest {
        sidecar_id: shared.link.sidecar_id.clone(),
        boot_id: pending.boot_id,
        boot_unix_ns: pending.boot_unix_ns,
        windows: pending.windows,
        lost_through: pending.lost_through,
    };
    let mut client = FleetClient::new(shared.channel.clone()).max_encoding_message_size(akidb_proto::MAX_MESSAGE_BYTES);
    let response = tokio::time::timeout(REPORT, client.report(shared.request(request)?)).await;
    Ok(response.map_err(|_| Status::deadline_exceeded("no answer within 20 s"))??.into_inner().high_water_mark)
}
