//! `akidb-loadtest`. Enters: the command line. Leaves: a report and an exit code (0 fine, 1 failed requests or missed targets, 2 bad input,
//! 3 a service to validate cannot be reached). Never: a measurement; those are made in the library.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use akidb_loadtest::benchmark::{self, ReportArgs};
use akidb_loadtest::compare::{self, Compare, CompareArgs};
use akidb_loadtest::http::Unreachable;
use akidb_loadtest::plan::{BadPlan, Run, RunArgs};
use akidb_loadtest::rehearse::{self, Rehearsal, RehearseArgs};
use akidb_loadtest::validate::{self, Validate, ValidateArgs};
use akidb_loadtest::{report, run, watch};
use clap::{Parser, Subcommand};
use serde::Serialize;
use tokio::runtime::Runtime;

/// Measures an embedding server under load, compares two, holds one against its objectives, and reports benchmarks of engines.
#[derive(Debug, Parser)]
#[command(name = "akidb-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send one stream of requests, or several classes at once, and report latency, throughput and errors.
    Run(Box<RunArgs>),
    /// Alternate two targets, models or plans in one run and report ratios with confidence intervals.
    Compare(Box<CompareArgs>),
    /// Hold a running service against its objectives: latency, throughput, GPU, cost, models. Sends no load.
    Validate(ValidateArgs),
    /// Rehearse a rollout before it goes live: the real decision engine, many times, on a simulated device.
    Rehearse(RehearseArgs),
    /// Render results of `cargo bench --bench embedding_comprehensive` as a Markdown page with SVG plots.
    Report(ReportArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(*args),
        Command::Compare(args) => compare(*args),
        Command::Validate(args) => validate(args),
        Command::Rehearse(args) => rehearse(args),
        Command::Report(args) => render(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(if error.is::<Unreachable>() { 3 } else { 2 })
    })
}

fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let (file, allow_errors) = (args.json.clone(), args.allow_errors);
    let plan = Run::try_from(args)?;
    if let Some(watch) = &plan.watch {
        watch::check(watch.pid).map_err(BadPlan)?;
    }
    let report = runtime()?.block_on(run::run(&plan, &run::progress_bar(run::total(&plan))));
    say(&report.text(), &report, file.as_deref())?;
    Ok(code(report.failed == 0 || allow_errors))
}

fn compare(args: CompareArgs) -> anyhow::Result<ExitCode> {
    let (file, allow_errors) = (args.json.clone(), args.allow_errors);
    let plan = Compare::try_from(args)?;
    let comparison = runtime()?.block_on(compare::compare(&plan, &run::progress_bar(None)));
    say(&comparison.text(), &comparison, file.as_deref())?;
    Ok(code(!comparison.any_failed() || allow_errors))
}

fn validate(args: ValidateArgs) -> anyhow::Result<ExitCode> {
    let file = args.json.clone();
    let plan = Validate::try_from(args)?;
    let verdict = runtime()?.block_on(validate::validate(&plan))?;
    say(&verdict.text(), &verdict, file.as_deref())?;
    Ok(code(verdict.success))
}

fn rehearse(args: RehearseArgs) -> anyhow::Result<ExitCode> {
    let file = args.json.clone();
    let rehearsal = Rehearsal::try_from(args)?;
    let report = rehearse::rehearse(&rehearsal, &run::progress_bar(None));
    say(&report.text(), &report, file.as_deref())?;
    Ok(code(report.missed.is_empty()))
}

fn render(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let written = benchmark::report(args)?;
    println!("{} and {} plots beside it", written.page.display(), written.plots.len());
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn say(text: &str, report: &impl Serialize, file: Option<&Path>) -> anyhow::Result<()> {
    // A closed pipe loses the text only; the exit code and the file still tell.
    drop(std::io::stdout().write_all(text.as_bytes()));
    file.map_or(Ok(()), |it| report::write_json(report, it))
}

fn code(fine: bool) -> ExitCode {
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
