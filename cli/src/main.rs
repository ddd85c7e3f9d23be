//! `akidb`. Enters: the command line. Leaves: an answer on stdout, or one sentence on stderr and an exit code. Never: anything else.

use std::process::ExitCode;

use akidb_cli::args::Cli;
use clap::Parser;

fn main() -> ExitCode {
    match akidb_cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
