//! The sidecar's program. Enters: `--config FILE`, variables, signals. Leaves: an exit code. Never: logic.

use std::path::PathBuf;
use std::process::ExitCode;

use akidb_sidecar::app::{self, App};
use akidb_sidecar::config::Config;
use clap::Parser;
use tokio_util::sync::CancellationToken;

/// Turns text into embeddings on localhost.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration; without it, only variables count.
    #[arg(long, env = "AKIDB_CONFIG")]
    config: Option<PathBuf>,
    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let env = std::env::vars().collect();
    let config = match Config::load(arguments.config.as_deref(), &env) {
        Ok(config) => config,
        Err(errors) => return fail(&errors),
    };
    if arguments.check {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    if let Err(error) = app::log(&config.logs) {
        return fail(&error);
    }
    let ran = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|it| it.block_on(run(config)));
    ran.map_or_else(|error| fail(&format!("{error:#}")), |()| ExitCode::SUCCESS)
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

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("akidb-sidecar: {error}");
    ExitCode::FAILURE
}
