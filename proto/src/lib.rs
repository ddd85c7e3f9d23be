//! The wire between a control plane and its sidecars, and its translation to and from the domain.
//!
//! Enters: decoded messages. Leaves: checked domain values, or an error that names the field. Never: a default for a
//! missing or unknown value that matters.
//!
//! Rooms, in reading order:
//! - [`v1`]: types generated from `akidb/v1/fleet.proto` when the crate is built
//! - [`error`]: what can be wrong with a message
//! - `snapshot`, `window`: conversions both ways
//! - `bytes`: a window as it lies on disk

mod bytes;
pub mod error;
mod snapshot;
mod window;

pub use bytes::{window_from_bytes, window_to_bytes};

/// Generated from `akidb/v1/fleet.proto`.
#[allow(missing_docs, clippy::pedantic, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("akidb.v1");
}

/// The largest message either side accepts, bytes: a snapshot of a few hundred artifacts, or 64 windows.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Most windows in one report.
pub const MAX_WINDOWS: usize = 64;
