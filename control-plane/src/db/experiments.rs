//! Experiments. Enters: experiments already checked. Leaves: them, as they were written. Never: a save over a revision that was not read.

use akidb_domain::decision::{Config, Outcome, State};
use akidb_domain::snapshot::{ProbeBudget, SnapshotVersion, VariantRef};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Conn, Error};

/// An experiment.
#[derive(Debug, Clone)]
pub(crate) struct Experiment {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) model: String,
    pub(crate) baseline: VariantRef,
    pub(crate) canary: VariantRef,
    pub(crate) scope: Scope,
    pub(crate) config: Config,
    pub(crate) probe: ProbeBudget,
    pub(crate) plan: Value,
    pub(crate) life: Life,
    pub(crate) reason: String,
    pub(crate) decision: State,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) progress: Progress,
    pub(crate) revision: i64,
    pub(crate) created_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) updated_at: i64,
}

/// Whose traffic takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    /// Sidecars of these apps only; empty: all.
    pub(crate) apps: Vec<String>,
    /// Apps whose index traffic takes part too.
    pub(crate) apps_all_traffic: Vec<String>,
    /// Apps that agreed to vectors of another space.
    pub(crate) apps_space_change: Vec<String>,
}

/// Where the decider is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Record part that is being written.
    pub(crate) part: i64,
    /// Since when it waits for sidecars to follow, Unix ms.
    pub(crate) waiting_since: i64,
    /// Sidecars have had the canary before.
    pub(crate) prepared: bool,
    /// Snapshot that the sidecars have to follow.
    pub(crate) snapshot: SnapshotVersion,
    /// End of the last look, Unix ns; 0: the next one waits for the sidecars.
    pub(crate) cursor_ns: u64,
    /// Last gap taken into a look.
    pub(crate) gap: i64,
}

/// Where an experiment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Life {
    Draft,
    Running,
    Paused,
    Promoted,
    RolledBack,
    Aborted,
}

impl Life {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled-back",
            Self::Aborted => "aborted",
        }
    }

    /// Traffic is split.
    pub(crate) const fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Nothing will happen any more.
    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack | Self::Aborted)
    }
}

#[derive(Debug)]
struct Row {
    id: String,
    title: String,
    model: String,
    baseline_version: String,
    baseline_variant: String,
    canary_version: String,
    canary_variant: String,
    scope: String,
    config: String,
    probe: String,
    plan: String,
    life: String,
    reason: String,
    decision: String,
    outcome: Option<String>,
    progress: String,
    revision: i64,
    created_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    updated_at: i64,
}

impl TryFrom<Row> for Experiment {
    type Error = Error;

    fn try_from(it: Row) -> Result<Self, Error> {
        Ok(Self {
            scope: read(&it.scope)?,
            config: read(&it.config)?,
            probe: read(&it.probe)?,
            plan: read(&it.plan)?,
            life: serde_json::from_value(Value::String(it.life)).map_err(|e| Error::Decode(e.into()))?,
            decision: read(&it.decision)?,
            outcome: it.outcome.as_deref().map(read).transpose()?,
            progress: read(&it.progress)?,
            id: it.id,
            title: it.title,
            model: it.model,
            baseline: VariantRef { version: it.baseline_version, variant: it.baseline_variant },
            canary: VariantRef { version: it.canary_version, variant: it.canary_variant },
            reason: it.reason,
            revision: it.revision,
            created_at: it.created_at,
            started_at: it.started_at,
            ended_at: it.ended_at,
            updated_at: it.updated_at,
        })
    }
}

/// JSON that was written here.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| Error::Decode(e.into()))
}

/// JSON to be read back here.
pub(super) fn write<T: Serialize>(it: &T) -> Result<String, Error> {
    serde_json::to_string(it).map_err(|e| Error::Encode(e.into()))
}

pub(crate) async fn insert(conn: &mut Conn, it: &Experiment) -> Result<(), Error> {
    let (scope, config, probe, plan) = (write(&it.scope)?, write(&it.config)?, write(&it.probe)?, it.plan.to_string());
    let (life, decision, progress) = (it.life.as_str(), write(&it.decision)?, write(&it.progress)?);
    sqlx::query!(
        "INSERT INTO experiments (id, title, model, baseline_version, baseline_variant, canary_version, canary_variant, scope, config, probe, plan, life,
                                  reason, decision, progress, revision, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?17)",
        it.id,
        it.title,
        it.model,
        it.baseline.version,
        it.baseline.variant,
        it.canary.version,
        it.canary.variant,
        scope,
        config,
        probe,
        plan,
        life,
        it.reason,
        decision,
        progress,
        it.revision,
        it.created_at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what may change. `false`: somebody else did since it was read; nothing is written then.
pub(crate) async fn save(conn: &mut Conn, it: &mut Experiment, at: i64) -> Result<bool, Error> {
    let (life, decision, progress) = (it.life.as_str(), write(&it.decision)?, write(&it.progress)?);
    let (config, outcome) = (write(&it.config)?, it.outcome.as_ref().map(write).transpose()?);
    let done = sqlx::query!(
        "UPDATE experiments SET config = ?, life = ?, reason = ?, decision = ?, outcome = ?, progress = ?, started_at = ?, ended_at = ?, updated_at = ?,
                                revision = revision + 1
         WHERE id = ? AND revision = ?",
        config,
        life,
        it.reason,
        decision,
        outcome,
        progress,
        it.started_at,
        it.ended_at,
        at,
        it.id,
        it.revision
    )
    .execute(conn)
    .await?;
    it.updated_at = at;
    it.revision += 1;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn find(conn: &mut Conn, id: &str) -> Result<Option<Experiment>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id!", title, model, baseline_version, baseline_variant, canary_version, canary_variant, scope, config, probe, plan, life, reason,
                  decision, outcome, progress, revision, created_at, started_at, ended_at, updated_at
           FROM experiments WHERE id = ?"#,
        id
    )
    .fetch_optional(conn)
    .await?;
    row.map(TryInto::try_into).transpose()
}

/// In order of their ids; of one model where `model` is not empty.
pub(crate) async fn list(conn: &mut Conn, model: &str, after: &str, limit: i64) -> Result<Vec<Experiment>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id!", title, model, baseline_version, baseline_variant, canary_version, canary_variant, scope, config, probe, plan, life, reason,
                  decision, outcome, progress, revision, created_at, started_at, ended_at, updated_at
           FROM experiments WHERE id > ?1 AND (?2 = '' OR model = ?2 COLLATE NOCASE) ORDER BY id LIMIT ?3"#,
        after,
        model,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Those whose traffic is split now.
pub(crate) async fn live(conn: &mut Conn) -> Result<Vec<Experiment>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id AS "id!", title, model, baseline_version, baseline_variant, canary_version, canary_variant, scope, config, probe, plan, life, reason,
                  decision, outcome, progress, revision, created_at, started_at, ended_at, updated_at
           FROM experiments WHERE life IN ('running', 'paused') ORDER BY id LIMIT 1000"#
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Their ids alone.
pub(crate) async fn live_ids(conn: &mut Conn) -> Result<Vec<String>, Error> {
    sqlx::query_scalar!(r#"SELECT id AS "id!" FROM experiments WHERE life IN ('running', 'paused') ORDER BY id LIMIT 1000"#)
        .fetch_all(conn)
        .await
}

/// The live one of a model.
pub(crate) async fn live_of(conn: &mut Conn, model: &str) -> Result<Option<String>, Error> {
    sqlx::query_scalar!(r#"SELECT id AS "id!" FROM experiments WHERE model = ? AND life IN ('running', 'paused')"#, model)
        .fetch_optional(conn)
        .await
}
