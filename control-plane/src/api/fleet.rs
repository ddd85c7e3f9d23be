//! The fleet as it is seen from here. Enters: ids. Leaves: sidecars with what they hold and what is missing of them. Never: a change.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::error::{ApiError, ErrorBody};
use super::extract::Params;
use super::page::Page;
use super::view;
use crate::clock::{rfc3339_ms, rfc3339_ns};
use crate::db::boots::{self, BootRow, GapRow};
use crate::db::sidecars::{self, SidecarRow, StatusRow};
use crate::publisher::Published;

/// Boots and gaps shown of a sidecar.
const MOST: i64 = 100;

/// A sidecar.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SidecarView {
    id: String,
    namespace: String,
    app: String,
    pod: String,
    node: String,
    version: String,
    #[schema(value_type = Vec<Object>)]
    devices: Value,
    #[schema(value_type = Vec<Object>)]
    providers: Value,
    boot_id: String,
    connected: bool,
    #[schema(value_type = Object)]
    active_snapshot: Value,
    /// Why it does not serve something newer; null when it does.
    nack_reason: Option<String>,
    first_seen: String,
    last_seen: String,
}

/// A page of sidecars.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Sidecars {
    sidecars: Vec<SidecarView>,
    next: Option<String>,
}

/// A sidecar with its artifacts, boots and gaps.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SidecarDetail {
    #[serde(flatten)]
    sidecar: SidecarView,
    #[schema(value_type = Vec<Object>)]
    artifacts: Vec<Value>,
    /// Newest first, at most 100.
    #[schema(value_type = Vec<Object>)]
    boots: Vec<Value>,
    /// Newest first, at most 100.
    #[schema(value_type = Vec<Object>)]
    gaps: Vec<Value>,
}

/// Whose snapshot.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SnapshotQuery {
    sku: Option<String>,
    region: Option<String>,
    /// App of the sidecar: experiments may be of some apps only.
    app: Option<String>,
}

impl SidecarView {
    fn of(it: SidecarRow, connected: bool) -> Self {
        Self {
            id: it.id,
            namespace: it.namespace,
            app: it.app,
            pod: it.pod,
            node: it.node,
            version: it.version,
            devices: view::json(&it.devices),
            providers: view::json(&it.providers),
            boot_id: it.boot_id,
            connected,
            active_snapshot: json!({"epoch": it.active_epoch, "n": it.active_n}),
            nack_reason: (!it.nack_reason.is_empty()).then_some(it.nack_reason),
            first_seen: rfc3339_ms(it.first_seen_at),
            last_seen: rfc3339_ms(it.last_seen_at),
        }
    }
}

/// Lists sidecars.
#[utoipa::path(get, path = "/sidecars", tag = "fleet", params(Page), responses((status = 200, body = Sidecars), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn list(State(state): State<ApiState>, Params(page): Params<Page>) -> Result<Json<Sidecars>, ApiError> {
    let mut rows = sidecars::list(&mut *state.db.reader().await?, page.after(), page.fetch()?).await?;
    let next = page.cut(&mut rows, |it| it.id.clone())?;
    let view = |it: SidecarRow| {
        let connected = state.connections.is_open(&it.id);
        SidecarView::of(it, connected)
    };
    Ok(Json(Sidecars { sidecars: rows.into_iter().map(view).collect(), next }))
}

/// A sidecar.
#[utoipa::path(get, path = "/sidecars/{id}", tag = "fleet", params(("id" = String, Path)), responses((status = 200, body = SidecarDetail), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn get(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<SidecarDetail>, ApiError> {
    let mut tx = state.db.begin_read().await?;
    let row = sidecars::find(&mut tx, &id).await?.ok_or_else(|| ApiError::NotFound(format!("sidecar `{id}` was never seen")))?;
    let artifacts = sidecars::statuses(&mut tx, &id).await?;
    let boots = boots::of_sidecar(&mut tx, &id, MOST).await?;
    let gaps = boots::gaps(&mut tx, &id, MOST).await?;
    Ok(Json(SidecarDetail {
        sidecar: SidecarView::of(row, state.connections.is_open(&id)),
        artifacts: artifacts.iter().map(status).collect(),
        boots: boots.iter().map(boot).collect(),
        gaps: gaps.iter().map(gap).collect(),
    }))
}

fn status(it: &StatusRow) -> Value {
    json!({"digest": it.digest, "model": it.model, "version": it.version, "variant": it.variant, "state": it.state, "provider": it.provider,
           "reason": it.reason, "done_bytes": it.done_bytes, "total_bytes": it.total_bytes, "updated_at": rfc3339_ms(it.updated_at)})
}

fn boot(it: &BootRow) -> Value {
    json!({"boot_id": it.boot_id, "booted_at": rfc3339_ns(i128::from(it.boot_ns)), "high_water_mark": it.high_water_mark, "finished": it.finished,
           "lost_observations": it.lost_observations, "first_seen": rfc3339_ms(it.created_at)})
}

fn gap(it: &GapRow) -> Value {
    json!({"boot_id": it.boot_id, "kind": it.kind, "from_sequence": it.from_sequence, "to_sequence": it.to_sequence, "noticed_at": rfc3339_ms(it.noticed_at)})
}

/// The snapshot as a sidecar with such a device would get it.
#[utoipa::path(get, path = "/snapshot", tag = "fleet", params(SnapshotQuery), responses((status = 200, body = Object), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn snapshot(State(state): State<ApiState>, Params(query): Params<SnapshotQuery>) -> Result<Json<Value>, ApiError> {
    let newest = Published::load(&state.db, state.clock.now_ns(), state.lease_ms).await?;
    let kinds: BTreeSet<_> = query.sku.zip(query.region).into_iter().collect();
    Ok(Json(json!(newest.for_sidecar(query.app.as_deref().unwrap_or_default(), &kinds))))
}
