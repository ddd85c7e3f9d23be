//! `akidb-loadtest`. Enters: the command line. Leaves: a report and an exit code (0 fine, 1 failed requests, 2 bad input). Never: a measurement;
//! those are made in the library.

use std::io::Write;
use std::process::ExitCode;

use akidb_loadtest::plan::{Plan, RunArgs};
use akidb_loadtest::report::Report;
use akidb_loadtest::run;
use clap::{Parser, Subcommand};

/// Measures an embedding server under load.
#[derive(Debug, Parser)]
#[command(name = "akidb-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send one stream of requests and report latency, throughput and errors.
    Run(RunArgs),
}

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    match measure(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn measure(args: RunArgs) -> anyhow::Result<ExitCode> {
    let (file, allow_errors) = (args.json.clone(), args.allow_errors);
    let plan = Plan::try_from(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report: Report = runtime.block_on(run::run(&plan, &run::progress_bar(&plan)));
    // A closed pipe loses the text only; the exit code and the file still tell.
    drop(std::io::stdout().write_all(report.text().as_bytes()));
    if let Some(file) = file {
        report.write_json(&file)?;
    }
    Ok(if report.failed == 0 || allow_errors { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
