//! Tokens made on this machine: the first admin's, and those of the command line.
//!
//! Enters: what a token is for. Leaves: its text, in a file only its owner reads, or to the caller. Never: a text in a log or a pipe.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use akidb_domain::vocabulary::Role;
use anyhow::Context;
use serde_json::json;

use crate::access::{NewToken, mint};
use crate::change::{Actor, Change};
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir;
use crate::db::{Db, meta, tokens};
use crate::publisher::Notifier;

/// What a token of the command line is for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Its name.
    #[arg(long)]
    pub name: String,
    /// `admin`, `viewer` or `sidecar`.
    #[arg(long)]
    pub role: Role,
    /// Binding of a sidecar's token; empty: any.
    #[arg(long, default_value = "")]
    pub namespace: String,
    /// Binding of a sidecar's token; empty: any.
    #[arg(long, default_value = "")]
    pub app: String,
}

/// Makes a token and prints it.
pub async fn print(config: &Config, clock: &dyn Clock, arguments: Arguments) -> anyhow::Result<()> {
    let text = create(config, clock, arguments).await?;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Makes a token in the database of `config`, also while a server uses it. Answers its text.
pub async fn create(config: &Config, clock: &dyn Clock, request: Arguments) -> anyhow::Result<String> {
    std::fs::create_dir_all(&config.data_dir)?;
    let db = Db::open(&data_dir::database(&config.data_dir)).await?;
    let mut change = Change::begin(&db, &Notifier::new(), Actor::cli(), clock.now_ms()).await?;
    meta::initialise(change.conn(), &uuid::Uuid::new_v4().to_string(), clock.now_ms()).await?;
    let text = write(&mut change, request).await?;
    change.commit().await?;
    db.close().await;
    Ok(text)
}

/// Leaves a token for the first admin, when there is no live one.
pub(crate) async fn first_admin(db: &Db, notifier: &Notifier, file: &Path, at: i64) -> anyhow::Result<()> {
    let mut change = Change::begin(db, notifier, Actor::system(), at).await?;
    if tokens::count_live_admins(change.conn()).await? > 0 {
        return Ok(());
    }
    let request = Arguments { name: "first admin".to_owned(), role: Role::Admin, namespace: String::new(), app: String::new() };
    let text = write(&mut change, request).await?;
    // The file first: a token that nobody can read must not exist.
    leave(file, &text).with_context(|| format!("admin token file `{}`", file.display()))?;
    change.commit().await?;
    tracing::info!(file = %file.display(), "first start: an admin token was left in a file");
    if std::io::stderr().is_terminal() {
        writeln!(std::io::stderr(), "admin token: {text}")?;
    }
    Ok(())
}

async fn write(change: &mut Change, it: Arguments) -> anyhow::Result<String> {
    let (row, text) = mint(NewToken { name: it.name, role: it.role, namespace: it.namespace, app: it.app }, change.at);
    tokens::insert(change.conn(), &row).await?;
    let detail = json!({"name": row.name, "role": row.role, "namespace": row.namespace, "app": row.app});
    change.audit("token.create", &format!("tokens/{}", row.id), detail).await?;
    Ok(text)
}

fn leave(file: &Path, text: &str) -> std::io::Result<()> {
    if file.exists() {
        std::fs::remove_file(file)?;
    }
    let mut out = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(file)?;
    writeln!(out, "{text}")?;
    out.sync_all()
}
