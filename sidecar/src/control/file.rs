//! The last snapshot on disk. Enters: a snapshot that was checked. Leaves: the same after a restart. Never: half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use akidb_domain::snapshot::Snapshot;
use akidb_proto::v1;
use prost::Message;

const NAME: &str = "snapshot.pb";

/// Keeps a snapshot: written beside, synced, renamed.
pub fn write(state: &Path, snapshot: &v1::Snapshot) -> io::Result<()> {
    let partial = state.join("snapshot.partial");
    let mut file = File::create(&partial)?;
    file.write_all(&snapshot.encode_to_vec())?;
    file.sync_all()?;
    fs::rename(&partial, state.join(NAME))?;
    File::open(state)?.sync_all()
}

/// The snapshot kept; none when there is none, or when it cannot be read, which is logged.
pub fn read(state: &Path) -> Option<Snapshot> {
    let bytes = fs::read(state.join(NAME)).ok()?;
    let decoded = v1::Snapshot::decode(bytes.as_slice()).map_err(|e| e.to_string());
    let snapshot = decoded.and_then(|it| Snapshot::try_from(it).map_err(|e| e.to_string()));
    snapshot.inspect_err(|error| tracing::error!(error, "the persisted snapshot cannot be read")).ok()
}
