//! What a sidecar says of itself. Enters: an `Identity`. Leaves: a checked one. Never: an identity its token does not allow.

use std::collections::BTreeSet;

use akidb_proto::v1;
use tonic::Status;

use crate::access::Caller;
use crate::publisher::DeviceKind;

const MOST_DEVICES: usize = 64;
/// Boots whose marks are answered. A sidecar that crashed more often is let in all the same: it sends those boots from their start, and what
/// is counted already is ignored.
const MOST_SPOOLED: usize = 1_024;

/// Checks an identity against its own bounds and its sender's token. Empty namespace and app are filled in from the token.
pub(crate) fn check(caller: &Caller, mut it: v1::Identity) -> Result<v1::Identity, Status> {
    if it.namespace.is_empty() {
        it.namespace.clone_from(&caller.namespace);
    }
    if it.app.is_empty() {
        it.app.clone_from(&caller.app);
    }
    if !caller.may_be(&it.namespace, &it.app) {
        let problem = format!(
            "this token speaks for app `{}` in namespace `{}`, not for `{}` in `{}`",
            caller.app, caller.namespace, it.app, it.namespace
        );
        return Err(Status::permission_denied(problem));
    }
    id("sidecar_id", &it.sidecar_id)?;
    id("boot_id", &it.boot_id)?;
    for (field, text) in [("pod", &it.pod), ("namespace", &it.namespace), ("app", &it.app), ("node", &it.node), ("version", &it.version)] {
        within(field, text, 0)?;
    }
    if it.devices.len() > MOST_DEVICES || it.providers.len() > MOST_DEVICES {
        return Err(Status::invalid_argument("fields `devices`, `providers`: at most 64 entries each"));
    }
    it.spooled_boots.truncate(MOST_SPOOLED);
    for device in &it.devices {
        for text in [&device.uuid, &device.sku, &device.region, &device.compute_capability] {
            within("devices", text, 0)?;
        }
    }
    it.providers.iter().try_for_each(|it| within("providers", &it.name, 0).and(within("providers", &it.version, 0)))?;
    crate::ledger::check::boot_ns(it.boot_unix_ns).map_err(Status::invalid_argument)?;
    Ok(it)
}

/// A non-empty id of bounded length.
pub(crate) fn id(field: &str, text: &str) -> Result<(), Status> {
    within(field, text, 1)
}

fn within(field: &str, text: &str, least: usize) -> Result<(), Status> {
    if (least..=256).contains(&text.len()) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("field `{field}`: {} bytes; {least} to 256 are allowed", text.len())))
}

/// SKUs and regions whose prices matter to it.
pub(crate) fn device_kinds(it: &v1::Identity) -> BTreeSet<DeviceKind> {
    it.devices.iter().map(|it| (it.sku.clone(), it.region.clone())).collect()
}
