//! The database: the only room that speaks SQL.
//!
//! Enters: checked values. Leaves: rows. Never: a rule of the catalog or of money; those are in `catalog` and `domain`.
//!
//! One file an aggregate. Functions take a connection; the caller opens the transaction. One connection writes, a few read.

pub(crate) mod aliases;
pub(crate) mod artifacts;
pub(crate) mod audit;
pub(crate) mod boots;
pub(crate) mod costs;
pub(crate) mod events;
pub(crate) mod experiments;
pub(crate) mod hours;
pub(crate) mod imports;
pub(crate) mod lanes;
pub(crate) mod looks;
pub(crate) mod maintenance;
pub(crate) mod meta;
pub(crate) mod models;
pub(crate) mod prices;
pub(crate) mod sidecars;
pub(crate) mod tokens;
pub(crate) mod variants;
pub(crate) mod versions;
pub(crate) mod windows;

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Sqlite, SqlitePool};

/// What the database may answer.
pub(crate) type Error = sqlx::Error;
/// A connection, inside a transaction or not.
pub(crate) type Conn = sqlx::SqliteConnection;
/// A write transaction.
pub(crate) type Tx = sqlx::Transaction<'static, Sqlite>;

/// The schema, oldest first.
pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// The file in the data directory.
pub(crate) const FILE: &str = "control-plane.db";

const READERS: u32 = 4;
const BUSY: Duration = Duration::from_secs(10);

/// An open, migrated database; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    read: SqlitePool,
    write: SqlitePool,
}

impl Db {
    /// Opens or creates the file and brings it to the newest schema.
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        let options = options(path).create_if_missing(true);
        let write = SqlitePoolOptions::new().max_connections(1).acquire_timeout(BUSY).connect_with(options.clone()).await?;
        MIGRATIONS.run(&write).await?;
        let read = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(BUSY).connect_with(options).await?;
        Ok(Self { read, write })
    }

    /// A transaction that holds the write lock from its start, so that what it reads stays true until it commits.
    pub(crate) async fn begin(&self) -> Result<Tx, Error> {
        self.write.begin_with("BEGIN IMMEDIATE").await
    }

    /// A transaction that sees one moment and writes nothing.
    pub(crate) async fn begin_read(&self) -> Result<Tx, Error> {
        self.read.begin().await
    }

    /// A connection to read with.
    pub(crate) async fn reader(&self) -> Result<PoolConnection<Sqlite>, Error> {
        self.read.acquire().await
    }

    /// Closes every connection and folds the write-ahead log into the file.
    pub(crate) async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// One connection, outside any pool.
pub(crate) async fn connect(path: &Path) -> Result<Conn, Error> {
    Conn::connect_with(&options(path)).await
}

/// Closes it and folds the write-ahead log into the file, when it was the last.
pub(crate) async fn disconnect(conn: Conn) -> Result<(), Error> {
    conn.close().await
}

/// How every connection is opened: nothing acknowledged is lost by a power cut.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
}
