//! What sidecars get of the catalog. Enters: rows. Leaves: models that have a `default`, with their ready artifacts. Never: an artifact
//! that is not ready, or an alias on a variant that is left out.

use std::collections::{BTreeMap, BTreeSet};

use akidb_domain::bundle::BundleFile;
use akidb_domain::snapshot::{ServedArtifact, ServedFile, ServedModel, ServedVariant, VariantRef};
use akidb_domain::vocabulary::{ArtifactState, Target};

use crate::db::aliases::{self, AliasRow};
use crate::db::artifacts::{self, ArtifactRow};
use crate::db::experiments;
use crate::db::models::{self, ModelRow};
use crate::db::variants::{self, VariantRow};
use crate::db::versions::{self, VersionRow};
use crate::db::{Conn, Error};

/// Most models, versions of one and variants of one that a snapshot holds.
const MOST: i64 = 1_000;

/// Every model that a request may ask for.
pub(crate) async fn models(conn: &mut Conn) -> Result<Vec<ServedModel>, Error> {
    let mut served = Vec::new();
    let live = experiments::live(conn).await?;
    for row in models::list(conn, 0, MOST).await? {
        let of_model = live.iter().filter(|it| it.model == row.name);
        let tried = of_model.flat_map(|it| [it.baseline.clone(), it.canary.clone()]).collect();
        served.extend(model(conn, row, &tried).await?);
    }
    Ok(served)
}

/// `tried`: variants of a live experiment, which are held whatever becomes of the aliases.
async fn model(conn: &mut Conn, model: ModelRow, tried: &BTreeSet<VariantRef>) -> Result<Option<ServedModel>, Error> {
    let aliases = aliases::list(conn, model.id).await?;
    let Some(default) = aliases.iter().find(|it| it.name == "default") else { return Ok(None) };
    let named: BTreeSet<i64> = aliases.iter().map(|it| it.variant_id).collect();
    let (mut served, mut card) = (Vec::new(), None);
    for version in versions::list(conn, model.id, 0, MOST).await? {
        let is_default = version.name == default.version;
        for row in variants::list(conn, version.id, 0, MOST).await? {
            let at = VariantRef { version: version.name.clone(), variant: row.name.clone() };
            let hold = named.contains(&row.id) || tried.contains(&at);
            if hold || is_default {
                served.extend(variant(conn, &version, row, hold).await?);
            }
        }
        if is_default {
            card = Some(version);
        }
    }
    Ok(card.and_then(|card| assemble(model, card, served, &aliases)))
}

fn assemble(model: ModelRow, card: VersionRow, variants: Vec<ServedVariant>, aliases: &[AliasRow]) -> Option<ServedModel> {
    let served = ServedModel {
        name: model.name,
        version: card.name,
        dimension: card.dimension as u32,
        max_tokens: card.max_tokens as u32,
        pooling: card.pooling.parse().ok()?,
        normalized: card.normalized,
        embedding_space: card.embedding_space,
        prompts: serde_json::from_str(&card.prompts).unwrap_or_default(),
        seeded: card.seeded,
        variants,
        aliases: BTreeMap::new(),
    };
    let aliases = aliases.iter().map(|it| (it.name.clone(), VariantRef { version: it.version.clone(), variant: it.variant.clone() }));
    let aliases = aliases.filter(|(_, at)| served.variant(at).is_some()).collect();
    Some(ServedModel { aliases, ..served })
}

async fn variant(conn: &mut Conn, version: &VersionRow, row: VariantRow, hold: bool) -> Result<Option<ServedVariant>, Error> {
    let mut served = Vec::new();
    for row in artifacts::list(conn, row.id, "", MOST).await? {
        if row.state == ArtifactState::Ready.as_str() {
            served.extend(artifact(conn, row).await?);
        }
    }
    let Ok(precision) = row.precision.parse() else { return Ok(None) };
    let variant = ServedVariant { version: version.name.clone(), name: row.name, precision, hold, artifacts: served };
    Ok((hold || !variant.artifacts.is_empty()).then_some(variant))
}

async fn artifact(conn: &mut Conn, row: ArtifactRow) -> Result<Option<ServedArtifact>, Error> {
    let files = artifacts::files(conn, &row.digest).await?;
    let file = |it: artifacts::FileRow| {
        let file = BundleFile { path: it.path, role: it.role.parse().ok()?, bytes: it.bytes as u64, sha256: it.sha256 };
        Some(ServedFile { uri: it.uri, file })
    };
    let (Some(target), Ok(graph)) = (target(&row), serde_json::from_str(&row.graph)) else { return Ok(None) };
    let files: Option<Vec<ServedFile>> = files.into_iter().map(file).collect();
    Ok(files.map(|files| ServedArtifact { digest: row.digest, target, graph, files }))
}

/// An artifact's target; empty columns are absent.
pub(crate) fn target(row: &ArtifactRow) -> Option<Target> {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    Some(Target {
        provider: row.provider.parse().ok()?,
        compute_capability: some(&row.compute_capability),
        tensorrt_version: some(&row.tensorrt_version),
        shape_profile: some(&row.shape_profile),
    })
}
