//! The sidecar's program. Enters: `--config FILE`, variables, signals; or a command about GPUs. Leaves: an exit code. Never: logic.

use std::path::PathBuf;
use std::process::ExitCode;

use akidb_sidecar::app::build_engine::{self, BuildEngine};
use akidb_sidecar::app::{self, App};
use akidb_sidecar::config::Config;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

/// Turns text into embeddings on localhost.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The configuration; without it, only variables count.
    #[arg(long, env = "AKIDB_CONFIG")]
    config: Option<PathBuf>,
    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds a TensorRT engine for this machine's GPU from a bundle with an ONNX graph.
    BuildEngine(BuildEngine),
    /// Shows this machine's GPUs and which execution providers can serve here.
    Devices(build_engine::Devices),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ran = match &arguments.command {
        None => serve(&arguments),
        Some(Command::BuildEngine(build)) => build_engine::run(build),
        Some(Command::Devices(devices)) => build_engine::devices(devices),
    };
    ran.map_or_else(
        |error| {
            eprintln!("akidb-sidecar: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let env = std::env::vars().collect();
    let config = Config::load(arguments.config.as_deref(), &env)?;
    if arguments.check {
        println!("the configuration is good");
        return Ok(());
    }
    app::log(&config.logs)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    app::on_signal(shutdown.clone())?;
    let app = tokio::select! {
        built = App::build(config) => built?,
        () = shutdown.cancelled() => return Ok(()),
    };
    app.run(shutdown).await;
    Ok(())
}
