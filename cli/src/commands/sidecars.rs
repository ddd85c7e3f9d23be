//! The fleet. Enters: nothing, or an id. Leaves: tables. Never: a change; sidecars are changed through aliases.

use serde::Deserialize;
use serde_json::Value;

use crate::Session;
use crate::args::Sidecars;
use crate::client::encode;
use crate::failure::Failure;
use crate::table::{Rows, or_dash};
use crate::units;

#[derive(Deserialize)]
struct Sidecar {
    id: String,
    namespace: String,
    app: String,
    pod: String,
    node: String,
    version: String,
    connected: bool,
    last_seen: String,
    #[serde(default)]
    active_snapshot: Value,
    #[serde(default)]
    nack_reason: Option<String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    providers: Vec<Value>,
    #[serde(default)]
    artifacts: Vec<Artifact>,
    #[serde(default)]
    boots: Vec<Boot>,
    #[serde(default)]
    gaps: Vec<Gap>,
}

#[derive(Deserialize)]
struct Device {
    #[serde(default)]
    uuid: String,
    #[serde(default)]
    sku: String,
    #[serde(default)]
    region: String,
}

#[derive(Deserialize)]
struct Artifact {
    digest: String,
    model: String,
    version: String,
    variant: String,
    state: String,
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    done_bytes: u64,
    #[serde(default)]
    total_bytes: u64,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names of the API")]
struct Boot {
    boot_id: String,
    high_water_mark: u64,
    #[serde(default)]
    finished: bool,
    #[serde(default)]
    lost_observations: u64,
}

#[derive(Deserialize)]
struct Gap {
    boot_id: String,
    kind: String,
    from_sequence: u64,
    to_sequence: u64,
    #[serde(default)]
    noticed_at: String,
}

pub(super) fn run(session: &Session, command: &Sidecars) -> Result<(), Failure> {
    match command {
        Sidecars::List(page) => super::list(session, "sidecars", page, |sidecars: Vec<Sidecar>| {
            let mut rows = Rows::new(&["ID", "NAMESPACE", "APP", "POD", "DEVICES", "SNAPSHOT", "CONNECTED", "LAST SEEN"]);
            for it in sidecars {
                let (devices, snapshot) = (devices(&it), snapshot(&it.active_snapshot));
                rows.add([it.id, it.namespace, it.app, it.pod, devices, snapshot, yes(it.connected), it.last_seen]);
            }
            rows.text("no sidecar has connected yet")
        }),
        Sidecars::Show { id } => session.show(&session.client.get(&format!("sidecars/{}", encode(id)), &[])?, |it| describe(&it)),
    }
}

fn describe(it: &Sidecar) -> String {
    let providers = it.providers.iter().map(provider).collect::<Vec<_>>().join(", ");
    let mut text = vec![
        format!("{} ({}/{}), pod {} on node {}, version {}", it.id, it.namespace, it.app, it.pod, it.node, it.version),
        format!("connected {}, last seen {}, snapshot {}", yes(it.connected), it.last_seen, snapshot(&it.active_snapshot)),
        format!("devices {}; providers {}", devices(it), or_dash(Some(providers))),
    ];
    if let Some(reason) = it.nack_reason.as_ref().filter(|it| !it.is_empty()) {
        text.push(format!("it could not read the last snapshot: {reason}"));
    }
    text.extend([String::new(), artifacts(&it.artifacts), String::new(), boots(&it.boots), String::new(), gaps(&it.gaps)]);
    text.join("\n")
}

fn artifacts(artifacts: &[Artifact]) -> String {
    let mut rows = Rows::new(&["MODEL", "VERSION", "VARIANT", "ARTIFACT", "STATE", ">DONE", "PROVIDER", "REASON"]);
    for it in artifacts {
        let done = if it.done_bytes < it.total_bytes {
            format!("{} of {}", units::bytes(it.done_bytes), units::bytes(it.total_bytes))
        } else {
            units::bytes(it.done_bytes)
        };
        let place = [it.model.clone(), it.version.clone(), it.variant.clone(), units::short(&it.digest), it.state.clone(), done];
        rows.add(place.into_iter().chain([or_dash(it.provider.clone()), or_dash(it.reason.clone())]));
    }
    rows.text("it holds no artifacts")
}

fn boots(boots: &[Boot]) -> String {
    let mut rows = Rows::new(&["BOOT", ">COUNTED TO", "ENDED", ">LOST"]);
    for it in boots {
        rows.add([it.boot_id.clone(), it.high_water_mark.to_string(), yes(it.finished), it.lost_observations.to_string()]);
    }
    rows.text("no boots")
}

fn gaps(gaps: &[Gap]) -> String {
    let mut rows = Rows::new(&["GAP", "BOOT", ">FROM", ">TO", "NOTICED"]);
    for it in gaps {
        rows.add([it.kind.clone(), it.boot_id.clone(), it.from_sequence.to_string(), it.to_sequence.to_string(), it.noticed_at.clone()]);
    }
    rows.text("nothing is missing")
}

fn devices(it: &Sidecar) -> String {
    let each = it.devices.iter().map(|it| format!("{} ({}) {}", it.sku, it.region, it.uuid).trim_end().to_owned());
    or_dash(Some(each.collect::<Vec<_>>().join(", ")))
}

/// A provider's name, with its version when there is one.
fn provider(it: &Value) -> String {
    let of = |key: &str| it.get(key).map(super::plain).unwrap_or_default();
    if it.is_object() { format!("{} {}", of("name"), of("version")).trim().to_owned() } else { super::plain(it) }
}

fn snapshot(it: &Value) -> String {
    let of = |key: &str| it.get(key).map(super::plain);
    match (of("epoch"), of("n")) {
        (Some(epoch), Some(n)) => format!("{epoch}.{n}"),
        _ => or_dash(Some(super::plain(it))),
    }
}

fn yes(it: bool) -> String {
    if it { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_shows_what_it_holds_and_what_is_missing_of_it() {
        let json = serde_json::json!({
            "id": "s1", "namespace": "shop", "app": "search", "pod": "search-0", "node": "n1", "version": "0.1.0", "boot_id": "b2",
            "devices": [{"uuid": "cpu-1", "sku": "cpu", "region": "local", "share_ppm": 1_000_000}],
            "providers": [{"name": "cpu", "version": "1.24"}], "connected": true, "active_snapshot": {"epoch": 1, "n": 7},
            "nack_reason": null, "first_seen": "2026-01-01T00:00:00Z", "last_seen": "2026-01-02T00:00:00Z",
            "artifacts": [{"digest": "ab".repeat(32), "model": "m", "version": "1", "variant": "int8", "state": "pulling", "provider": "",
                           "reason": "", "done_bytes": 1_000_000, "total_bytes": 90_000_000, "updated_at": "2026-01-02T00:00:00Z"}],
            "boots": [{"boot_id": "b2", "high_water_mark": 12, "finished": false, "lost_observations": 3}],
            "gaps": [{"boot_id": "b1", "kind": "unclean_end", "from_sequence": 4, "to_sequence": 4, "noticed_at": "2026-01-02T00:00:00Z"}],
        });
        let text = describe(&serde_json::from_value(json).unwrap());
        for part in [
            "s1 (shop/search), pod search-0",
            "snapshot 1.7",
            "cpu (local) cpu-1; providers cpu 1.24",
            "1.0 MB of 90.0 MB",
            "abababababab",
            "unclean_end",
        ] {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
    }
}
