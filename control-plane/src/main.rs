//! `akidb-control-plane`: serves, backs up, restores, replays decisions, makes tokens. Enters: arguments. Leaves: an exit code. Never: logic.

mod arguments;

use std::process::ExitCode;
use std::sync::Arc;

use akidb_control_plane::app::App;
use akidb_control_plane::clock::SystemClock;
use akidb_control_plane::config::Config;
use akidb_control_plane::{backup, logs, replay, signals, token};
use clap::Parser;

use crate::arguments::{Arguments, Command, TokenCommand};

#[tokio::main]
async fn main() -> ExitCode {
    run().await.map_or_else(
        |error| {
            eprintln!("akidb-control-plane: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

async fn run() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // A record is replayed anywhere, whatever is configured.
    if let Some(Command::Replay { record }) = &arguments.command {
        println!("{}", replay::replay(record)?);
        return Ok(());
    }
    let config = Config::load(arguments.config.as_deref())?;
    logs::start(config.log_format);
    let clock = Arc::new(SystemClock);
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => App::build(config, clock).await?.run(signals::stop()).await,
        Command::Backup { to } => backup::backup(&config, &to).await,
        Command::Restore { from, force } => backup::restore(&config, clock.as_ref(), &from, force).await.map(drop),
        Command::Replay { .. } => Ok(()),
        Command::Token(TokenCommand::Create(arguments)) => token::print(&config, clock.as_ref(), arguments).await,
    }
}
