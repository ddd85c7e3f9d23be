//! Backup while serving, and restore while not.
//!
//! Enters: a configuration and where the copy goes or comes from. Leaves: a consistent file, or a database with a new epoch. Never: a
//! restored database that sidecars could take for the one before it.

use std::path::Path;

use akidb_store::{ObjectUri, Store};
use anyhow::{Context, bail};
use serde_json::json;

use crate::change::{Actor, Change};
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::{self, DataDir};
use crate::db::{self, Db, maintenance, meta};
use crate::publisher::Notifier;

/// Bytes fetched at a time.
const CHUNK: u64 = 8 << 20;

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The database's new epoch.
    pub epoch: u64,
}

/// Copies the database to a file or to S3; a server may go on meanwhile.
pub async fn backup(config: &Config, to: &str) -> anyhow::Result<()> {
    let to = target(to)?;
    let database = data_dir::database(&config.data_dir);
    if !database.is_file() {
        bail!("there is no database `{}`", database.display());
    }
    let folder = tempfile::tempdir_in(&config.data_dir)?;
    let copy = folder.path().join("backup.db");
    let mut conn = db::connect(&database).await?;
    maintenance::copy_to(&mut conn, &copy.to_string_lossy()).await.context("the database could not be copied")?;
    db::disconnect(conn).await?;
    Store::new(config.s3.clone()).put_file(&copy, &to).await?;
    tracing::info!(%to, "backup written");
    Ok(())
}

/// Puts a backup in the database's place, as a new epoch. Refused while a server runs, and over a database without `force`.
pub async fn restore(config: &Config, clock: &dyn Clock, from: &str, force: bool) -> anyhow::Result<Restored> {
    let from = target(from)?;
    let data_dir = DataDir::hold(&config.data_dir)?;
    let database = data_dir.database();
    if database.exists() && !force {
        bail!("`{}` exists: add --force to replace it", database.display());
    }
    let folder = tempfile::tempdir_in(data_dir.path())?;
    let copy = folder.path().join("restore.db");
    fetch(&Store::new(config.s3.clone()), &from, &copy).await?;
    check(&copy).await.with_context(|| format!("`{from}` is not a sound backup"))?;
    let replaced = fold(&database).await;
    let epoch = renew(&copy, replaced, clock.now_ms(), &from).await?;
    swap(&copy, &database)?;
    tracing::info!(%from, epoch, "backup restored");
    Ok(Restored { epoch })
}

/// A path means a file on this machine.
fn target(text: &str) -> anyhow::Result<ObjectUri> {
    if text.contains("://") {
        return Ok(text.parse()?);
    }
    Ok(ObjectUri::File(std::path::absolute(text)?))
}

async fn fetch(store: &Store, from: &ObjectUri, to: &Path) -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt;
    let size = store.size(from).await?;
    let mut out = tokio::fs::File::create(to).await?;
    let mut at = 0;
    while at < size {
        let end = size.min(at + CHUNK);
        out.write_all(&store.read_range(from, at..end).await?).await?;
        at = end;
    }
    out.sync_all().await?;
    Ok(())
}

/// Whether a file is a whole database of a schema that this program knows or can bring up to date.
async fn check(copy: &Path) -> anyhow::Result<()> {
    let mut conn = db::connect(copy).await?;
    let answer = maintenance::integrity(&mut conn).await?;
    if answer != "ok" {
        bail!("{answer}");
    }
    db::disconnect(conn).await?;
    let db = Db::open(copy).await.context("its schema is of another program or a newer version")?;
    meta::version(&mut *db.reader().await?).await.context("it holds no control plane")?;
    db.close().await;
    Ok(())
}

/// Folds the replaced database's log into its file; answers its epoch, when there is one that can be read.
async fn fold(database: &Path) -> Option<u64> {
    if !database.exists() {
        return None;
    }
    let epoch = async {
        let mut conn = db::connect(database).await?;
        let epoch = meta::version(&mut conn).await?.epoch;
        db::disconnect(conn).await?;
        Ok::<_, db::Error>(epoch)
    };
    epoch.await.inspect_err(|error| tracing::warn!(%error, "the database to be replaced cannot be read")).ok()
}

/// Later than everything any sidecar may have seen: than the backup, than the database it replaces, and, since nobody here knows how often
/// this backup was restored already, than the Unix second.
async fn renew(copy: &Path, replaced: Option<u64>, at: i64, from: &ObjectUri) -> anyhow::Result<u64> {
    let db = Db::open(copy).await?;
    let mut change = Change::begin(&db, &Notifier::new(), Actor::cli(), at).await?;
    let seen = meta::version(change.conn()).await?.epoch;
    let epoch = seen.max(replaced.unwrap_or_default()).max((at / 1_000) as u64) + 1;
    meta::set_epoch(change.conn(), epoch).await?;
    change.audit("database.restore", "database", json!({"from": from.to_string(), "epoch": epoch})).await?;
    change.commit().await?;
    db.close().await;
    Ok(epoch)
}

fn swap(copy: &Path, database: &Path) -> anyhow::Result<()> {
    std::fs::File::open(copy)?.sync_all()?;
    // The log of the replaced database must not be read as that of its successor.
    for suffix in ["-wal", "-shm"] {
        let mut log = database.as_os_str().to_owned();
        log.push(suffix);
        match std::fs::remove_file(&log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    std::fs::rename(copy, database).with_context(|| format!("`{}` cannot be replaced", database.display()))?;
    if let Some(folder) = database.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}
