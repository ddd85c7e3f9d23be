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
