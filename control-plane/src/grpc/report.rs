//! Telemetry in. Enters: a report. Leaves: the boot's high-water mark. Never: a part of a report.

use akidb_proto::{MAX_WINDOWS, v1};
use tonic::{Code, Status};

use super::{FleetService, identity, internal};
use crate::access::Caller;
use crate::db::boots::{self, BootRow};
use crate::db::{Conn, meta, sidecars};
use crate::ledger::book::{self, BookError, Outcome, Report, Sender};
use crate::ledger::check;

/// Name of the response header that names a refused window.
pub(crate) const REJECTED_HEADER: &str = "akidb-rejected-sequence";

/// Counts a report in one transaction.
pub(crate) async fn count(service: &FleetService, caller: &Caller, request: v1::ReportRequest) -> Result<v1::ReportResponse, Status> {
    identity::id("sidecar_id", &request.sidecar_id)?;
    identity::id("boot_id", &request.boot_id)?;
    check::boot_ns(request.boot_unix_ns).map_err(Status::invalid_argument)?;
    if request.windows.len() > MAX_WINDOWS {
        return Err(Status::invalid_argument(format!(
            "field `windows`: {} windows; at most {MAX_WINDOWS} are allowed",
            request.windows.len()
        )));
    }
    let at = service.clock.now_ms();
    let mut tx = service.db.begin().await.map_err(|e| internal(&e))?;
    let mut sender = sender(&mut tx, caller, &request.sidecar_id, at).await?;
    sender.oldest_ns = service.clock.now_ns().saturating_sub(service.keep_marks.as_nanos() as u64);
    let mut boot = boot(&mut tx, &request, at).await?;
    let windows = Report { windows: request.windows, lost_through: request.lost_through };
    match book::count(&mut tx, &mut boot, &sender, windows).await {
        Ok(outcome) => {
            sidecars::seen(&mut tx, &boot.sidecar_id, at).await.map_err(|e| internal(&e))?;
            let epoch = meta::version(&mut tx).await.map_err(|e| internal(&e))?.epoch;
            tx.commit().await.map_err(|e| internal(&e))?;
            measure(service, outcome);
            Ok(v1::ReportResponse { epoch, high_water_mark: outcome.mark })
        }
        Err(BookError::Rejected { sequence, problem }) => {
            drop(tx);
            Err(reject(service, &boot, sequence, &problem).await)
        }
        Err(BookError::Malformed(problem)) => Err(Status::invalid_argument(problem)),
        Err(BookError::Db(error)) => Err(internal(&error)),
    }
}

/// The namespace and app that the ledger shows: those the sidecar registered with, as far as the token allows them.
async fn sender(conn: &mut Conn, caller: &Caller, sidecar_id: &str, received_at: i64) -> Result<Sender, Status> {
    let known = sidecars::find(conn, sidecar_id).await.map_err(|e| internal(&e))?;
    let (namespace, app) = known.map_or_else(|| (caller.namespace.clone(), caller.app.clone()), |it| (it.namespace, it.app));
    if !caller.may_be(&namespace, &app) {
        return Err(Status::permission_denied(format!(
            "sidecar `{sidecar_id}` belongs to app `{app}` in namespace `{namespace}`, which this token does not speak for"
        )));
    }
    Ok(Sender { namespace, app, received_at, oldest_ns: 0 })
}

/// The boot's row; after a restore it may have to be made again.
async fn boot(conn: &mut Conn, request: &v1::ReportRequest, at: i64) -> Result<BootRow, Status> {
    boots::ensure(conn, &request.boot_id, &request.sidecar_id, request.boot_unix_ns, at).await.map_err(|e| internal(&e))?;
    let boot = boots::find(conn, &request.boot_id).await.map_err(|e| internal(&e))?;
    let boot = boot.ok_or_else(|| Status::internal("the boot's row is gone"))?;
    if boot.sidecar_id != request.sidecar_id {
        return Err(Status::permission_denied(format!("boot `{}` belongs to another sidecar", request.boot_id)));
    }
    if boot.boot_ns as u64 != request.boot_unix_ns {
        return Err(Status::invalid_argument(format!(
            "field `boot_unix_ns`: {} now, {} before, of the same boot",
            request.boot_unix_ns, boot.boot_ns
        )));
    }
    Ok(boot)
}

/// Remembers the refused window outside the transaction that was dropped with it.
async fn reject(service: &FleetService, boot: &BootRow, sequence: u64, problem: &str) -> Status {
    service.metrics.windows_rejected.inc();
    tracing::warn!(sidecar = boot.sidecar_id, boot = boot.boot_id, sequence, problem, "a window was refused");
    let noted = async {
        let mut tx = service.db.begin().await?;
        boots::ensure(&mut tx, &boot.boot_id, &boot.sidecar_id, boot.boot_ns as u64, service.clock.now_ms()).await?;
        boots::reject(&mut tx, &boot.boot_id, sequence).await?;
        tx.commit().await
    };
    if let Err(error) = noted.await {
        return internal(&error);
    }
    let message = format!(
        "window {sequence}: {problem}: nothing of this report was counted; send it again without that window, and with `lost_through` at or above {sequence}"
    );
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert(REJECTED_HEADER, sequence.into());
    Status::with_metadata(Code::InvalidArgument, message, metadata)
}

fn measure(service: &FleetService, outcome: Outcome) {
    service.metrics.windows_counted.inc_by(outcome.counted);
    service.metrics.windows_duplicate.inc_by(outcome.duplicates);
    service.metrics.windows_lost.inc_by(outcome.lost);
}
