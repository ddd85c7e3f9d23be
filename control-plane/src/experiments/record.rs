//! Decision records: assembled from a part's looks, sealed when it ends. Enters: an experiment. Leaves: sealed text. Never: a look left out.

use akidb_domain::decision::{METHOD, Record, State};
use serde_json::Value;

use crate::catalog::CatalogError;
use crate::change::Change;
use crate::db::experiments::Experiment;
use crate::db::{Conn, looks};

/// Most looks of one part: a text of a few megabytes.
pub(crate) const MOST_LOOKS: i64 = 720;

/// The record of a part, sealed.
pub(crate) async fn text(conn: &mut Conn, it: &Experiment, part: i64) -> Result<String, CatalogError> {
    if let Some(sealed) = looks::sealed(conn, &it.id, part).await? {
        return Ok(sealed);
    }
    let missing = || {
        CatalogError::NotFound(format!(
            "experiment `{}` has no record part {part}: they are numbered from 1 to {}",
            it.id, it.progress.part
        ))
    };
    let before = looks::before(conn, &it.id, part).await?.ok_or_else(missing)?;
    seal(&assemble(conn, it, before).await?)
}

/// Seals the open part, if it has a look, and begins the next one with what is known now. Answers the digest.
pub(crate) async fn close(change: &mut Change, it: &mut Experiment, goes_on: bool) -> Result<Option<String>, CatalogError> {
    let (part, at) = (it.progress.part, change.at);
    let mut digest = None;
    if part > 0 {
        let sealed = text(change.conn(), it, part).await?;
        let sha256 =
            serde_json::from_str::<Value>(&sealed).ok().and_then(|it| Some(it.get("sha256")?.as_str()?.to_owned())).unwrap_or_default();
        looks::seal(change.conn(), &it.id, part, &sealed, &sha256, at).await?;
        digest = Some(sha256);
    }
    if goes_on {
        it.progress.part += 1;
        looks::open_part(change.conn(), &it.id, it.progress.part, &it.decision, at).await?;
    }
    Ok(digest)
}

async fn assemble(conn: &mut Conn, it: &Experiment, before: State) -> Result<Record, CatalogError> {
    let (looks, outcomes) = looks::list(conn, &it.id).await?.into_iter().unzip();
    Ok(Record {
        method: METHOD.to_owned(),
        program: concat!("akidb-control-plane ", env!("CARGO_PKG_VERSION")).to_owned(),
        experiment: it.id.clone(),
        config: it.config.clone(),
        before,
        looks,
        outcomes,
    })
}

fn seal(record: &Record) -> Result<String, CatalogError> {
    record.seal().map_err(|error| CatalogError::Invalid(format!("the record cannot be written: {error}")))
}
