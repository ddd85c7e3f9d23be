//! The final validation: a service against its objectives.
//!
//! Enters: addresses and targets. Leaves: six rows and a verdict. Never: load; and never an *ok* for a figure that nobody has.

mod facts;
mod prometheus;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

pub use facts::{Facts, Gpu, Reading};
pub use verdict::{Row, Status, Targets, Verdict};

use crate::http::Unreachable;
use crate::plan::{BadPlan, Target, Time};
use crate::scrape::Scrape;

/// Options of `akidb-loadtest validate`.
#[derive(Debug, Clone, Args)]
pub struct ValidateArgs {
    /// Sidecar: cost and models, and its own metrics where no Prometheus is given.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub sidecar: String,
    /// Prometheus with the services' metrics, e.g. `http://prometheus:9090`: latency, throughput and GPU of the last 5 minutes.
    #[arg(long)]
    pub prometheus: Option<String>,
    /// Time between the two looks at the sidecar's metrics.
    #[arg(long, default_value = "30s", conflicts_with = "prometheus")]
    pub window: Time,
    #[command(flatten)]
    #[expect(missing_docs, reason = "a flattened group; a text here would become the command's")]
    pub targets: Targets,
    /// Also write the rows to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A checked validation.
#[derive(Debug, Clone)]
pub struct Validate {
    sidecar: Target,
    prometheus: Option<Target>,
    window: Duration,
    targets: Targets,
}

impl TryFrom<ValidateArgs> for Validate {
    type Error = BadPlan;

    fn try_from(args: ValidateArgs) -> Result<Self, BadPlan> {
        args.targets.check()?;
        let base =
            |option: &str, url: &str| url.trim_end_matches('/').parse::<Target>().map_err(|it| BadPlan(it.0.replacen("--url", option, 1)));
        Ok(Self {
            sidecar: base("--sidecar", &args.sidecar)?,
            prometheus: args.prometheus.map(|it| base("--prometheus", &it)).transpose()?,
            window: args.window.0,
            targets: args.targets,
        })
    }
}

/// Reads the facts and holds them against the targets.
pub async fn validate(validate: &Validate) -> Result<Verdict, Unreachable> {
    let at = |path: &str| validate.sidecar.at(path);
    let (metrics, source) = match &validate.prometheus {
        Some(base) => (prometheus::read(base).await?, format!("{} over 5 minutes", base.url)),
        None => (watch(&at("/metrics"), validate.window).await?, format!("{} over {:?}", validate.sidecar.url, validate.window)),
    };
    let cost = facts::cost(&at("/api/v1/cost-per-request")).await?;
    let models = facts::models(&at("/api/v1/models")).await?;
    let facts = Facts::new(metrics, cost, models);
    Ok(Verdict::new(&facts, &validate.targets, source))
}

async fn watch(target: &Target, window: Duration) -> Result<facts::Metrics, Unreachable> {
    let (before, start) = (Scrape::fetch(target).await?, Instant::now());
    sleep(window).await;
    let after = Scrape::fetch(target).await?;
    Ok(facts::Metrics::between(&before, &after, start.elapsed()))
}
