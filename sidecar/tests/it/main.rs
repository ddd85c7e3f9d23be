//! The sidecar as its users meet it.

#[path = "../../benches/embedding/rooms.rs"]
mod embedding;
mod inference;
mod supply;
