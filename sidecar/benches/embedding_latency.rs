//! Latency of engines in this process: a baseline against its rivals, taking turns.
//!
//! Enters: options (`-- --help`); without any, fp32 and int8 of all-MiniLM-L6-v2. Leaves: p50, p95, p99 and texts a second by batch, with the
//! ratio of medians. Never: an engine that was named and not run without a word. `cargo bench --bench embedding_latency`

#[path = "embedding/rooms.rs"]
mod embedding;

use std::process::ExitCode;

fn main() -> ExitCode {
    embedding::main(|it| embedding::latency::run(&it, &akidb_testkit::root()))
}
