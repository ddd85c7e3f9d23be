//! What both embedding benchmarks are made of.
//!
//! Enters: the names of bundles. Leaves: what their engines did, taking turns in this process. Never: tokenizer, HTTP or queue inside a
//! measured time; a figure of an engine that was not run.
//!
//! Rooms, in reading order: [`places`] (paths and names to bundles) -> [`engines`] (bundles to engines, or why not) -> [`turns`] (engines
//! taking turns) -> [`latency`] and [`matrix`], the two benchmarks. Beside them [`here`]: this machine, this tree, this command.
#![allow(dead_code, unused_imports, reason = "each binary uses a part of it, and unit tests run in `tests/it` only")]

pub(crate) mod engines;
pub(crate) mod here;
pub(crate) mod latency;
pub(crate) mod matrix;
pub(crate) mod places;
pub(crate) mod turns;

#[path = "../throughput/raw.rs"]
mod raw;
#[path = "../throughput/texts.rs"]
mod texts;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

/// Parses what cargo passed on and runs; exit 2 for what cannot be used.
pub(crate) fn main<A: Parser>(run: impl FnOnce(A) -> Result<ExitCode, String>) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // `cargo test` builds benches too, and passes `--test` when it runs them.
    if arguments.iter().any(|it| it == "--test") {
        return ExitCode::SUCCESS;
    }
    // `cargo bench` adds `--bench`.
    let parsed = A::parse_from(arguments.into_iter().filter(|it| it != "--bench"));
    run(parsed).unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        ExitCode::from(2)
    })
}
