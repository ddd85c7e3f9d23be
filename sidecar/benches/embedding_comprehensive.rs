//! Every model x precision x batch size, for `akidb-loadtest report`.
//!
//! Enters: options (`-- --help`). Leaves: a results file (`docs/BENCHMARKS.md`). Never: a cell that is simply absent.
//! `cargo bench --bench embedding_comprehensive -- --output results.json`

#[path = "embedding/rooms.rs"]
mod embedding;

use std::process::ExitCode;

fn main() -> ExitCode {
    embedding::main(|it| embedding::matrix::run(it, &akidb_testkit::root()))
}
