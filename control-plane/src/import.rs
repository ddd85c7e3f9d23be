//! Imports: bundles become artifacts.
//!
//! Enters: the URI of a bundle, or a manifest whose files are blobs already. Leaves: a catalogued artifact, or one sentence that says what
//! is wrong. Never: a file whose digest was not computed here, or a half-catalogued bundle.
//!
//! Rooms: [`source`] reads a bundle where it lies. This file owns the queue and the progress.

pub(crate) mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use akidb_domain::bundle::Manifest;
use akidb_store::ObjectUri;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::source::Bundle;
use crate::blobs::{BlobError, Blobs};
use crate::catalog::CatalogError;
use crate::catalog::register::{self, Wish};
use crate::change::{Actor, Change};
use crate::clock::Clock;
use crate::db::{self, Db, imports};
use crate::metrics::Metrics;
use crate::publisher::Notifier;

/// Why an import failed, in one sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("{0}")]
    Manifest(String),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("too many imports are running: try again when one of them is done")]
    Busy,
}

impl From<db::Error> for ImportError {
    fn from(error: db::Error) -> Self {
        Self::Catalog(error.into())
    }
}

/// Imports that read at the same time, and that wait.
const RUNNING: usize = 2;
const WAITING: usize = 16;
/// How often progress is written down.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Starts imports; cheap to clone.
#[derive(Clone)]
pub(crate) struct Importer {
    pub(crate) db: Db,
    pub(crate) blobs: Blobs,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) notifier: Notifier,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

/// One import on its way.
struct Job {
    id: String,
    uri: ObjectUri,
    wish: Wish,
    actor: Actor,
}

impl Importer {
    pub(crate) fn new(
        db: Db,
        blobs: Blobs,
        clock: Arc<dyn Clock>,
        notifier: Notifier,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        let (running, admitted) = (Arc::new(Semaphore::new(RUNNING)), Arc::new(Semaphore::new(RUNNING + WAITING)));
        Self { db, blobs, clock, notifier, metrics, tasks: TaskTracker::new(), stop, running, admitted }
    }

    /// Begins to import from a URI; answers the id under which its progress can be asked for.
    pub(crate) async fn start(&self, uri: ObjectUri, wish: Wish, actor: Actor) -> Result<String, ImportError> {
        let Ok(permit) = self.admitted.clone().try_acquire_owned() else { return Err(ImportError::Busy) };
        let id = self.open(&uri.to_string(), &actor).await?;
        let (this, job) = (self.clone(), Job { id: id.clone(), uri, wish, actor });
        self.tasks.spawn(async move {
            let stop = this.stop.clone();
            tokio::select! {
                () = stop.cancelled() => this.fail(&job.id, "the control plane stopped before the import was done: start it again").await,
                () = this.run(&job) => {}
            }
            drop(permit);
        });
        Ok(id)
    }

    /// Imports a manifest whose files are blobs already, at once.
    pub(crate) async fn import_blobs(&self, manifest: &Manifest, wish: Wish, actor: Actor) -> Result<String, ImportError> {
        let mut uris = Vec::new();
        for file in &manifest.files {
            match self.blobs.size(&file.sha256).await? {
                Some(size) if size == file.bytes => uris.push(self.blobs.uri(&file.sha256).to_string()),
                Some(got) => return Err(BlobError::Size { name: format!("`{}`", file.path), expected: file.bytes, got }.into()),
                None => return Err(ImportError::Manifest(format!("`{}`: blob {} was not uploaded: PUT it first", file.path, file.sha256))),
            }
        }
        source::check_reference(&self.blobs, manifest, &uris).await?;
        let id = self.open("blobs", &actor).await?;
        let done = self.catalog(&id, manifest, &uris, &wish, actor).await;
        if let Err(error) = done {
            self.fail(&id, &error.to_string()).await;
            return Err(error);
        }
        Ok(id)
    }

    async fn open(&self, uri: &str, actor: &Actor) -> Result<String, ImportError> {
        let id = uuid::Uuid::now_v7().simple().to_string();
        let mut change = self.change(actor.clone()).await?;
        let at = change.at;
        imports::insert(change.conn(), &id, uri, at).await?;
        change.audit("import.start", &format!("imports/{id}"), serde_json::json!({"uri": uri})).await?;
        change.commit().await?;
        Ok(id)
    }

    async fn run(&self, job: &Job) {
        let Ok(_permit) = self.running.acquire().await else { return };
        if let Err(error) = self.import(job).await {
            tracing::warn!(import = job.id, uri = %job.uri, %error, "import failed");
            self.fail(&job.id, &error.to_string()).await;
        }
    }

    async fn import(&self, job: &Job) -> Result<(), ImportError> {
        let bundle = source::find(&self.blobs, &job.uri).await?;
        let seen = AtomicU64::new(0);
        let uris = tokio::select! {
            uris = self.take(&bundle, &seen) => uris?,
            problem = self.tell(&job.id, &seen, bundle.manifest.bytes()) => return Err(problem),
        };
        source::check_reference(&self.blobs, &bundle.manifest, &uris).await?;
        self.catalog(&job.id, &bundle.manifest, &uris, &job.wish, job.actor.clone()).await
    }

    async fn take(&self, bundle: &Bundle, seen: &AtomicU64) -> Result<Vec<String>, ImportError> {
        let mut uris = Vec::new();
        for file in &bundle.manifest.files {
            uris.push(source::take(&self.blobs, bundle, file, seen).await?);
        }
        Ok(uris)
    }

    /// Writes down how far it has come, until dropped or refused.
    async fn tell(&self, id: &str, seen: &AtomicU64, total: u64) -> ImportError {
        loop {
            if let Err(problem) = self.progress(id, seen.load(Relaxed), total).await {
                return problem;
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
        }
    }

    /// Everything an import changes, in one transaction.
    async fn catalog(&self, id: &str, manifest: &Manifest, uris: &[String], wish: &Wish, actor: Actor) -> Result<(), ImportError> {
        let mut change = self.change(actor).await?;
        let artifact = register::bundle(&mut change, manifest, uris, wish).await?;
        let at = change.at;
        imports::succeed(change.conn(), id, &artifact.digest, manifest.bytes(), at).await?;
        change.audit("import.succeed", &format!("imports/{id}"), serde_json::json!({"digest": artifact.digest})).await?;
        change.commit().await?;
        self.metrics.imports.with_label_values(&["succeeded"]).inc();
        Ok(())
    }

    async fn progress(&self, id: &str, done: u64, total: u64) -> Result<(), ImportError> {
        let mut tx = self.db.begin().await?;
        imports::progress(&mut tx, id, done, total, self.clock.now_ms()).await?;
        Ok(tx.commit().await?)
    }

    async fn fail(&self, id: &str, problem: &str) {
        let written = async {
            let mut change = self.change(Actor::system()).await?;
            let at = change.at;
            // A stop may come when the work is done and only its task is not.
            if !imports::fail(change.conn(), id, problem, at).await? {
                return Ok(());
            }
            change.audit("import.fail", &format!("imports/{id}"), serde_json::json!({"error": problem})).await?;
            change.commit().await?;
            self.metrics.imports.with_label_values(&["failed"]).inc();
            Ok::<_, db::Error>(())
        };
        if let Err(error) = written.await {
            tracing::error!(import = id, %error, "a failed import could not be marked; the next start does it");
        }
    }

    async fn change(&self, actor: Actor) -> Result<Change, db::Error> {
        Change::begin(&self.db, &self.notifier, actor, self.clock.now_ms()).await
    }
}
