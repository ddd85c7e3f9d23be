//! `akidb-control-plane`: serves, backs up, restores, makes tokens. Enters: arguments. Leaves: an exit code. Never: logic.

use std::path::PathBuf;
use std::sync::Arc;

use akidb_control_plane::app::App;
use akidb_control_plane::clock::SystemClock;
use akidb_control_plane::config::Config;
use akidb_control_plane::{backup, logs, signals, token};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Control plane of AkiDB Inference")]
struct Arguments {
    /// TOML file; `AKIDB_CP_*` variables go over it.
    #[arg(long, env = "AKIDB_CP_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default).
    Serve,
    /// Copy the database to a file or to s3://bucket/key, also while serving.
    Backup {
        #[arg(long)]
        to: String,
    },
    /// Put a backup in the database's place; the server must be stopped.
    Restore {
        #[arg(long)]
        from: String,
        /// Replace a database that is there.
        #[arg(long)]
        force: bool,
    },
    /// Make a token and print it.
    Token(token::Arguments),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = Config::load(arguments.config.as_deref())?;
    logs::start(config.log_format);
    let clock = Arc::new(SystemClock);
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => App::build(config, clock).await?.run(signals::stop()).await,
        Command::Backup { to } => backup::backup(&config, &to).await,
        Command::Restore { from, force } => backup::restore(&config, clock.as_ref(), &from, force).await.map(drop),
        Command::Token(arguments) => token::print(&config, clock.as_ref(), arguments).await,
    }
}
