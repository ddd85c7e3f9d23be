//! Models, versions and variants. Enters: names and cards. Leaves: rows. Never: a change of a version, or a delete that leaves an orphan.

use akidb_domain::bundle::{ModelCard, is_sha256};
use akidb_domain::vocabulary::{Precision, RESERVED_ALIASES, canonical_model};
use serde_json::json;

use super::find::Place;
use super::{CatalogError, check_name, find};
use crate::change::Change;
use crate::db::models::ModelRow;
use crate::db::variants::VariantRow;
use crate::db::versions::VersionRow;
use crate::db::{aliases, artifacts, models, variants, versions};

pub(crate) async fn create_model(change: &mut Change, name: &str, description: &str) -> Result<ModelRow, CatalogError> {
    check_name("model name", name)?;
    if description.len() > 4_096 {
        return Err(CatalogError::Invalid(format!("description has {} bytes; at most 4096 are allowed", description.len())));
    }
    let canonical = canonical_model(name);
    if let Some(there) = models::find(change.conn(), &canonical).await? {
        return Err(CatalogError::Conflict(format!("model `{}` exists already", there.name)));
    }
    let at = change.at;
    let id = models::insert(change.conn(), name, &canonical, description, at).await?;
    change.audit("model.create", &format!("models/{name}"), json!({"description": description})).await?;
    Ok(ModelRow { id, name: name.to_owned(), description: description.to_owned(), created_at: at })
}

pub(crate) async fn delete_model(change: &mut Change, name: &str) -> Result<(), CatalogError> {
    let model = find::model(change.conn(), name).await?;
    let versions = versions::count(change.conn(), model.id).await?;
    if versions > 0 {
        return Err(CatalogError::Conflict(format!("model `{}` still has {versions} versions: delete them first", model.name)));
    }
    models::delete(change.conn(), model.id).await?;
    change.audit("model.delete", &format!("models/{}", model.name), json!({})).await?;
    Ok(())
}

/// Writes a version of `model`; `card.name` is not read.
pub(crate) async fn create_version(
    change: &mut Change,
    model: &ModelRow,
    name: &str,
    card: &ModelCard,
) -> Result<VersionRow, CatalogError> {
    check_name("version name", name)?;
    check_card(card)?;
    if versions::find(change.conn(), model.id, name).await?.is_some() {
        return Err(CatalogError::Conflict(format!("model `{}` has a version `{name}` already; versions are immutable", model.name)));
    }
    let mut row = version_row(model, name, card, change.at);
    row.id = versions::insert(change.conn(), &row).await?;
    change.audit("version.create", &format!("models/{}/versions/{name}", model.name), json!(card)).await?;
    Ok(row)
}

fn check_card(card: &ModelCard) -> Result<(), CatalogError> {
    let fail = |problem: String| Err(CatalogError::Invalid(problem));
    if !(1..=65_536).contains(&card.dimension) {
        return fail(format!("dimension {} is not in 1..=65536", card.dimension));
    }
    if !(1..=131_072).contains(&card.max_tokens) {
        return fail(format!("max_tokens {} is not in 1..=131072", card.max_tokens));
    }
    if card.embedding_space.is_empty() || card.embedding_space.len() > 256 {
        return fail("embedding_space must have 1-256 bytes".to_owned());
    }
    if !is_sha256(&card.tokenizer_sha256) {
        return fail(format!("tokenizer_sha256 `{}` is not 64 lower-case hex digits", card.tokenizer_sha256));
    }
    Ok(())
}

fn version_row(model: &ModelRow, name: &str, card: &ModelCard, at: i64) -> VersionRow {
    VersionRow {
        id: 0,
        model_id: model.id,
        name: name.to_owned(),
        dimension: i64::from(card.dimension),
        max_tokens: i64::from(card.max_tokens),
        pooling: card.pooling.to_string(),
        normalized: card.normalized,
        embedding_space: card.embedding_space.clone(),
        tokenizer_sha256: card.tokenizer_sha256.clone(),
        license: card.license.clone(),
        source: card.source.clone(),
        prompts: json!(card.prompts).to_string(),
        seeded: card.seeded,
        created_at: at,
    }
}

/// The first field in which a version differs from a bundle's card, which then belongs to another version.
pub(crate) fn difference(version: &VersionRow, model: &ModelRow, card: &ModelCard) -> Option<String> {
    let other = version_row(model, &version.name, card, version.created_at);
    let fields = [
        ("dimension", version.dimension.to_string(), other.dimension.to_string()),
        ("max_tokens", version.max_tokens.to_string(), other.max_tokens.to_string()),
        ("pooling", version.pooling.clone(), other.pooling),
        ("normalized", version.normalized.to_string(), other.normalized.to_string()),
        ("embedding_space", version.embedding_space.clone(), other.embedding_space),
        ("tokenizer_sha256", version.tokenizer_sha256.clone(), other.tokenizer_sha256),
        ("prompts", version.prompts.clone(), other.prompts),
        ("seeded", version.seeded.to_string(), other.seeded.to_string()),
    ];
    let found = fields.into_iter().find(|(_, there, new)| there != new);
    found.map(|(field, there, new)| {
        format!("{field} is `{there}` in version `{}` of `{}` and `{new}` in the bundle", version.name, model.name)
    })
}

pub(crate) async fn delete_version(change: &mut Change, model: &str, name: &str) -> Result<(), CatalogError> {
    let (model, version) = find::version(change.conn(), model, name).await?;
    let variants = variants::count(change.conn(), version.id).await?;
    if variants > 0 {
        return Err(CatalogError::Conflict(format!(
            "version `{name}` of `{}` still has {variants} variants: delete them first",
            model.name
        )));
    }
    versions::delete(change.conn(), version.id).await?;
    change.audit("version.delete", &format!("models/{}/versions/{name}", model.name), json!({})).await?;
    Ok(())
}

pub(crate) async fn create_variant(
    change: &mut Change,
    model: ModelRow,
    version: VersionRow,
    name: &str,
    precision: Precision,
) -> Result<Place, CatalogError> {
    check_name("variant name", name)?;
    let lower = name.to_ascii_lowercase();
    let taken = aliases::find(change.conn(), model.id, &lower).await?.is_some();
    if taken || RESERVED_ALIASES.contains(&lower.as_str()) {
        return Err(CatalogError::Invalid(format!("variant name `{name}` is the name of an alias of `{}`", model.name)));
    }
    if variants::find(change.conn(), version.id, name).await?.is_some() {
        return Err(CatalogError::Conflict(format!("version `{}` of `{}` has a variant `{name}` already", version.name, model.name)));
    }
    let at = change.at;
    let id = variants::insert(change.conn(), version.id, name, precision.as_str(), at).await?;
    let variant = VariantRow { id, name: name.to_owned(), precision: precision.to_string(), created_at: at };
    let place = Place { model, version, variant };
    change.audit("variant.create", &place.path(), json!({"precision": precision})).await?;
    Ok(place)
}

pub(crate) async fn delete_variant(change: &mut Change, place: &Place) -> Result<(), CatalogError> {
    let aliases = aliases::naming(change.conn(), place.variant.id).await?;
    if !aliases.is_empty() {
        return Err(CatalogError::Conflict(format!("{} is named by the aliases {}: move them first", place.path(), aliases.join(", "))));
    }
    let (artifacts, _) = artifacts::count(change.conn(), place.variant.id).await?;
    if artifacts > 0 {
        return Err(CatalogError::Conflict(format!("{} still has {artifacts} artifacts: retire and delete them first", place.path())));
    }
    variants::delete(change.conn(), place.variant.id).await?;
    change.audit("variant.delete", &place.path(), json!({})).await?;
    Ok(())
}
