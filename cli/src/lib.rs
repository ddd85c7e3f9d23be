//! `akidb`: the control plane's admin API at a prompt.
//!
//! Rooms, in reading order: [`args`] (the command line) -> `commands` (one file a noun: call, then print) -> [`client`] (HTTP, and the token
//! from `token`) -> `table` and `units` (what people read). `bundle` reads and verifies a local bundle before an import. [`failure`] holds
//! every way to fail and its exit code.

pub mod args;
mod bundle;
pub mod client;
mod commands;
pub mod failure;
mod table;
mod token;
mod units;

use std::io::Write;

use serde::de::DeserializeOwned;

use crate::args::Cli;
use crate::client::{Answer, Client};
use crate::failure::Failure;

/// Runs one command; what it prints is on stdout when it returns.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let client = Client::new(&cli.options.server, &token::find(&cli.options)?)?;
    commands::run(&Session { client, json: cli.options.json }, cli.command)
}

/// What every command needs.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) json: bool,
}

impl Session {
    /// Prints an answer: as it came with `--json`, else as `text` makes of it.
    pub(crate) fn show<T: DeserializeOwned>(&self, answer: &Answer, text: impl FnOnce(T) -> String) -> Result<(), Failure> {
        if self.json {
            return show_json(answer);
        }
        print(&text(answer.read()?))
    }

    /// Prints a sentence where the answer itself says nothing; nothing with `--json` when it is empty.
    pub(crate) fn done(&self, answer: &Answer, sentence: &str) -> Result<(), Failure> {
        if self.json { show_json(answer) } else { print(sentence) }
    }
}

fn show_json(answer: &Answer) -> Result<(), Failure> {
    if answer.body.is_empty() { Ok(()) } else { print(&String::from_utf8_lossy(&answer.body)) }
}

/// Writes a text and the line end it lacks. A reader that went away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match std::io::stdout().write_all(format!("{text}{end}").as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Input(format!("stdout cannot be written: {error}"))),
        _ => Ok(()),
    }
}
