//! The command line of `akidb-control-plane`. Enters: words. Leaves: a command. Never: a setting; those are in the configuration.

use std::path::PathBuf;

use akidb_control_plane::token;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Control plane of AkiDB Inference")]
pub(crate) struct Arguments {
    /// TOML file; `AKIDB_CP_*` variables go over it.
    #[arg(long, env = "AKIDB_CP_CONFIG", global = true)]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve (the default).
    Serve,
    /// Copy the database to a file or to `s3://bucket/key`, also while serving.
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
    /// Decide again from a decision record (`GET /api/v1/experiments/{id}/decision/record`); exit code 1 names the first difference.
    Replay { record: PathBuf },
    /// Make a token and print it.
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// In the database itself, also while serving.
    Create(token::Arguments),
}
