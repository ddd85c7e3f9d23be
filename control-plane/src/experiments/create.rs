//! What may be tried. Enters: a wish. Leaves: a draft that can run, or the rule that forbids it. Never: seeded weights, or vectors of
//! another space for apps that did not agree to it.

use akidb_domain::cost::Price;
use akidb_domain::decision::{Config, State};
use akidb_domain::snapshot::{ProbeBudget, VariantRef};
use akidb_domain::vocabulary::{ArtifactState, is_name};
use serde::Deserialize;
use serde_json::json;

use super::moves::tell;
use super::plan::{self, Expect, Plan};
use crate::catalog::find::{self, Place};
use crate::catalog::{CatalogError, aliases as alias_rules};
use crate::change::Change;
use crate::db::experiments::{self, Experiment, Life, Progress, Scope};
use crate::db::{Conn, aliases, artifacts, prices};

/// Longest title, longest list of apps and longest name of one.
const MOST_TITLE: usize = 256;
const MOST_APPS: usize = 256;
/// Most phases: each shares alpha.
const MOST_PHASES: usize = 32;

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) id: Option<String>,
    pub(crate) title: String,
    pub(crate) model: String,
    pub(crate) baseline: Asked,
    pub(crate) canary: Asked,
    pub(crate) scope: Scope,
    pub(crate) config: Config,
    pub(crate) probe: ProbeBudget,
    pub(crate) expect: Expect,
    pub(crate) devices: Option<Devices>,
    pub(crate) force: bool,
}

/// A variant as a caller names it. Without a version it is that of `default`; without a variant it is what `stable` names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) version: Option<String>,
    pub(crate) variant: Option<String>,
}

/// Devices of the two arms, where they run on different ones.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Devices {
    pub(crate) baseline: DeviceKind,
    pub(crate) canary: DeviceKind,
}

/// A price book key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceKind {
    pub(crate) sku: String,
    pub(crate) region: String,
}

/// A wish that holds together, and what is to be expected of it.
#[derive(Debug)]
pub(crate) struct Checked {
    baseline: VariantRef,
    canary: VariantRef,
    model: String,
    config: Config,
    pub(crate) plan: Plan,
}

/// Checks a wish against the catalog, the price book and the decision engine.
pub(crate) async fn check(conn: &mut Conn, wish: &Wish, now_ns: u64) -> Result<Checked, CatalogError> {
    bounds(wish)?;
    let model = find::model(conn, &wish.model).await?;
    let baseline = asked(conn, &model, &wish.baseline).await?;
    let canary = asked(conn, &model, &wish.canary).await?;
    check_pair(conn, &baseline, &canary, &wish.scope).await?;
    let mut config = wish.config.clone();
    if let Some(devices) = &wish.devices {
        config.margins.price_ratio = price_ratio(conn, devices, now_ns).await?;
    }
    config.check().map_err(|it| CatalogError::Invalid(format!("config: {it}")))?;
    let expect = plan::measured(conn, &model.name, wish.expect, now_ns).await?;
    let plan = plan::of(&config, wish.probe, expect);
    Ok(Checked { baseline: at(&baseline), canary: at(&canary), model: model.name, config, plan })
}

/// Writes the draft.
pub(crate) async fn create(change: &mut Change, wish: Wish, now_ns: u64) -> Result<Experiment, CatalogError> {
    let checked = check(change.conn(), &wish, now_ns).await?;
    if let Some(problem) = checked.plan.problem().filter(|_| !wish.force) {
        return Err(CatalogError::Invalid(format!("{problem}; change the plan, or send `force`")));
    }
    let random = uuid::Uuid::new_v4().simple().to_string();
    let id = wish.id.unwrap_or_else(|| format!("exp-{}", &random[..10]));
    if experiments::find(change.conn(), &id).await?.is_some() {
        return Err(CatalogError::Conflict(format!("experiment `{id}` exists already: take another id, its history stays")));
    }
    let mut config = checked.config;
    if config.salt.is_empty() {
        config.salt = format!("{id}-{}", &random[10..18]);
    }
    let it = Experiment {
        title: wish.title,
        model: checked.model,
        baseline: checked.baseline,
        canary: checked.canary,
        scope: wish.scope,
        probe: wish.probe,
        plan: json!(checked.plan),
        life: Life::Draft,
        reason: String::new(),
        decision: State::new(&config),
        config,
        outcome: None,
        progress: Progress::default(),
        revision: 1,
        created_at: change.at,
        started_at: None,
        ended_at: None,
        updated_at: change.at,
        id,
    };
    experiments::insert(change.conn(), &it).await?;
    let detail =
        json!({"model": it.model, "baseline": it.baseline, "canary": it.canary, "forced": wish.force, "reachable": checked.plan.reachable});
    tell(change, &it, "created", detail).await?;
    Ok(it)
}

fn bounds(wish: &Wish) -> Result<(), CatalogError> {
    let fail = |problem: String| Err(CatalogError::Invalid(problem));
    if let Some(id) = wish.id.as_ref().filter(|it| !is_name(it)) {
        return fail(format!("id `{}` is not 1-128 of A-Za-z0-9._-", id.chars().take(200).collect::<String>()));
    }
    if wish.id.as_deref() == Some("validate") {
        return fail("id `validate` is the name of a route: take another".to_owned());
    }
    if wish.title.len() > MOST_TITLE {
        return fail(format!("title: {} bytes; at most {MOST_TITLE} are allowed", wish.title.len()));
    }
    let lists = [&wish.scope.apps, &wish.scope.apps_all_traffic, &wish.scope.apps_space_change];
    if lists.iter().any(|it| it.len() > MOST_APPS || it.iter().any(|app| app.is_empty() || app.len() > 256)) {
        return fail(format!("apps: at most {MOST_APPS} names of 1 to 256 bytes each"));
    }
    if wish.config.phases.len() > MOST_PHASES {
        return fail(format!("config: {} phases; at most {MOST_PHASES} are allowed", wish.config.phases.len()));
    }
    if wish.config.salt.len() > 256 {
        return fail("config: salt is longer than 256 bytes".to_owned());
    }
    let parts = [wish.probe.device_ppm, wish.probe.idle_ppm];
    if let Some(bad) = parts.iter().find(|it| **it > 500_000) {
        return fail(format!("probe: {bad} ppm of the device; at most 500000, half of it"));
    }
    Ok(())
}

async fn asked(conn: &mut Conn, model: &crate::db::models::ModelRow, asked: &Asked) -> Result<Place, CatalogError> {
    let alias = if asked.variant.is_some() { "default" } else { "stable" };
    let there = aliases::find(conn, model.id, alias).await?;
    let named = there.map(|it| (it.version, it.variant));
    let (version, variant) = match (asked.version.clone(), asked.variant.clone(), named) {
        (Some(version), Some(variant), _) | (None, Some(variant), Some((version, _))) | (None, None, Some((version, variant))) => {
            (version, variant)
        }
        (Some(_), None, _) => return Err(CatalogError::Invalid("a version without a variant: name both, or the variant alone".to_owned())),
        (None, _, None) => {
            return Err(CatalogError::Invalid(format!("model `{}` has no alias `{alias}`: name version and variant", model.name)));
        }
    };
    find::variant(conn, &model.name, &version, &variant).await
}

fn at(it: &Place) -> VariantRef {
    VariantRef { version: it.version.name.clone(), variant: it.variant.name.clone() }
}

/// Whether the two can be compared, and may.
pub(crate) async fn check_pair(conn: &mut Conn, baseline: &Place, canary: &Place, scope: &Scope) -> Result<(), CatalogError> {
    let fail = |problem: String| Err(CatalogError::Invalid(problem));
    if baseline.variant.id == canary.variant.id {
        return fail(format!("baseline and canary are both {}", canary.path()));
    }
    let (old, new) = (&baseline.version, &canary.version);
    if old.dimension != new.dimension {
        return fail(format!(
            "{} has {} dimensions, {} has {}: they cannot be compared",
            baseline.path(),
            old.dimension,
            canary.path(),
            new.dimension
        ));
    }
    if old.tokenizer_sha256 != new.tokenizer_sha256 {
        return fail(format!("{} and {} have different tokenizers: the same tensors cannot run on both", baseline.path(), canary.path()));
    }
    if old.embedding_space != new.embedding_space {
        let agreed = &scope.apps_space_change;
        if agreed.is_empty() {
            return fail(format!(
                "{} embeds into the space `{}`, {} into `{}`: name the apps that rebuild their indexes in `apps_space_change`",
                baseline.path(),
                old.embedding_space,
                canary.path(),
                new.embedding_space
            ));
        }
        if let Some(app) = scope.apps.iter().find(|it| !agreed.contains(it)) {
            return fail(format!("app `{app}` is not in `apps_space_change`, and the canary's vectors are of another space"));
        }
    }
    for place in [baseline, canary] {
        if place.version.seeded {
            return fail(format!("{} has seeded weights, which may not be experimented with", place.path()));
        }
        if artifacts::count(conn, place.variant.id).await?.1 == 0 {
            return fail(format!("{} has no artifact in state `{}`", place.path(), ArtifactState::Ready));
        }
    }
    Ok(())
}

/// A baseline is what traffic gets now: otherwise nothing would be compared, and the promotion would move what was not tried.
pub(crate) async fn check_serves(conn: &mut Conn, baseline: &Place) -> Result<(), CatalogError> {
    for name in ["stable", "default"] {
        let alias = alias_rules::find(conn, &baseline.model, name).await?;
        if alias.variant_id != baseline.variant.id {
            return Err(CatalogError::Conflict(format!(
                "the baseline {} is not what `{}@{name}` names (version {} variant {}): move the alias, or make an experiment against that",
                baseline.path(),
                baseline.model.name,
                alias.version,
                alias.variant
            )));
        }
    }
    Ok(())
}

async fn price_ratio(conn: &mut Conn, devices: &Devices, now_ns: u64) -> Result<f64, CatalogError> {
    if devices.baseline == devices.canary {
        return Ok(1.0);
    }
    let baseline = price(conn, &devices.baseline, now_ns).await?;
    let canary = price(conn, &devices.canary, now_ns).await?;
    Ok(canary / baseline)
}

async fn price(conn: &mut Conn, kind: &DeviceKind, now_ns: u64) -> Result<f64, CatalogError> {
    let holds = |it: &&Price| it.valid_from_ns <= now_ns && it.valid_to_ns.is_none_or(|end| now_ns < end) && it.picodollars_per_hour > 0;
    let rows = prices::of(conn, &kind.sku, &kind.region).await?;
    let found = rows.iter().find(holds).map(|it| it.picodollars_per_hour as f64);
    found.ok_or_else(|| {
        CatalogError::Invalid(format!("devices: `{}` in `{}` has no price now: add one to the price book", kind.sku, kind.region))
    })
}
