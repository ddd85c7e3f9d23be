//! The command line. Enters: arguments. Leaves: [`Cli`]. Never: a call.
//!
//! long: every command with its help, which is what people read.

use std::path::PathBuf;

use akidb_domain::cost::parse_dollars;
use akidb_domain::vocabulary::{Role, is_name};
use clap::{Args, Parser, Subcommand};

/// Talks to the control plane: models, aliases, prices, tokens, sidecars, costs and the audit log.
///
/// Exit codes: 0 done, 1 refused by the server, 2 bad input, 3 the server cannot be reached.
#[derive(Debug, Parser)]
#[command(name = "akidb", version)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args)]
pub struct Options {
    /// Base URL of the control plane.
    #[arg(long, global = true, env = "AKIDB_SERVER", default_value = "http://127.0.0.1:7070", value_name = "URL")]
    pub server: String,
    /// Bearer token; other users of this machine can see it among the processes, so prefer a file or the variable [env: `AKIDB_TOKEN`].
    #[arg(long, global = true, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the token [env: `AKIDB_TOKEN_FILE`].
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print the server's answer as it came.
    #[arg(long, global = true)]
    pub json: bool,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("server", &self.server).field("token_file", &self.token_file).finish_non_exhaustive()
    }
}

/// One noun each.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Models, their variants and artifacts.
    #[command(subcommand)]
    Models(Models),
    /// Names that requests use and that move from variant to variant.
    #[command(subcommand)]
    Aliases(Aliases),
    /// What a device costs an hour.
    #[command(subcommand)]
    Prices(Prices),
    /// Rollouts that decide by themselves.
    #[command(subcommand)]
    Experiments(Experiments),
    /// Bearer tokens.
    #[command(subcommand)]
    Tokens(Tokens),
    /// The fleet.
    #[command(subcommand)]
    Sidecars(Sidecars),
    /// What requests cost.
    Costs(Costs),
    /// Who changed what.
    #[command(subcommand)]
    Audit(Audit),
}

/// Which part of a list to show.
#[derive(Debug, Clone, Default, Args)]
pub struct Page {
    /// Most rows to show, up to 1,000.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub limit: u32,
    /// Start after this cursor, which the end of the page before names.
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
}

/// `akidb models`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "clap shows the lines below; fields are named after what they hold")]
pub enum Models {
    /// List models.
    List(#[command(flatten)] Page),
    /// Show a model with its versions, variants, artifacts and aliases.
    Show {
        #[arg(value_parser = name)]
        model: String,
    },
    /// Import a bundle: a local folder or engine file, which is verified and uploaded, or a URI that the server reads.
    Import(Import),
    /// Show how an import is doing.
    ImportStatus { id: String },
    /// Send an evaluation report for an artifact; past its gate it becomes ready.
    Evaluate {
        #[arg(value_parser = name)]
        model: String,
        /// Digest of the artifact, or the first digits of it.
        #[arg(value_parser = digest)]
        artifact: String,
        /// JSON file with the report.
        #[arg(long, value_name = "FILE")]
        report: PathBuf,
    },
    /// Retire an artifact: no sidecar is sent it any more, and it may be deleted.
    Retire {
        #[arg(value_parser = name)]
        model: String,
        /// Digest of the artifact, or the first digits of it.
        #[arg(value_parser = digest)]
        artifact: String,
    },
    /// Delete a model, or one version, variant or retired artifact of it.
    Delete {
        #[arg(value_parser = name)]
        model: String,
        #[arg(long, value_parser = name)]
        version: Option<String>,
        #[arg(long, value_parser = name, requires = "version")]
        variant: Option<String>,
        /// Digest of a retired artifact, or the first digits of it.
        #[arg(long, value_parser = digest, conflicts_with_all = ["version", "variant"])]
        artifact: Option<String>,
    },
}

/// `akidb models import`.
#[derive(Debug, Args)]
pub struct Import {
    /// Bundle folder, its manifest.json, an engine file with `<stem>.manifest.json` beside it, `s3://bucket/prefix`, or `file:///folder` on
    /// the server's machine.
    #[arg(value_name = "PATH_OR_URI")]
    pub source: String,
    /// Version to import into; without it, that of the artifact that it was made from, else `1`.
    #[arg(long, value_parser = name)]
    pub version: Option<String>,
    /// Move the aliases `stable` and `default` to what was imported.
    #[arg(long)]
    pub set_default: bool,
    /// Wait until an import of a URI has ended.
    #[arg(long)]
    pub wait: bool,
}

/// `akidb aliases`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "clap shows the lines below; fields are named after what they hold")]
pub enum Aliases {
    /// List the aliases of a model.
    List {
        #[arg(value_parser = name)]
        model: String,
    },
    /// Point an alias at a variant.
    Set {
        #[arg(value_parser = name)]
        model: String,
        #[arg(value_parser = name)]
        alias: String,
        #[arg(value_parser = name)]
        variant: String,
        /// Version of the variant; without it, the one `default` names, or the only one.
        #[arg(long, value_parser = name)]
        version: Option<String>,
        /// Move it only from this revision; without it, from the one found just before.
        #[arg(long, value_name = "N")]
        if_revision: Option<u64>,
    },
    /// Delete an alias.
    Delete {
        #[arg(value_parser = name)]
        model: String,
        #[arg(value_parser = name)]
        alias: String,
    },
}

/// `akidb prices`.
#[derive(Debug, Subcommand)]
pub enum Prices {
    /// List prices.
    List(#[command(flatten)] Page),
    /// Set the price of a device kind from a moment on.
    Set {
        /// Device kind, e.g. `cpu` or `nvidia-h200`.
        sku: String,
        /// USD for an hour of a whole device, e.g. `2.50`.
        #[arg(long, value_parser = amount, value_name = "USD")]
        per_hour: String,
        /// Where it holds.
        #[arg(long, default_value = "local")]
        region: String,
        /// Where the figure comes from.
        #[arg(long, default_value = "manual")]
        source: String,
        /// First moment it holds, RFC 3339; now without it.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
    },
}

/// `akidb experiments`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "clap shows the lines below; fields are named after what they hold")]
pub enum Experiments {
    /// Create a draft.
    Create(NewExperiment),
    /// Say what an experiment would need and how long it would take; creates nothing. Exit code 1: it cannot reach a verdict in time.
    Validate(NewExperiment),
    /// Begin to split the traffic.
    Start { id: String },
    /// Keep the share, and decide nothing until it is resumed.
    Pause {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Decide again.
    Resume { id: String },
    /// End it; all traffic is the baseline's again.
    Abort {
        id: String,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Grow the share without proof: to the next phase, or to 100 % with --full.
    Promote {
        id: String,
        #[arg(long)]
        full: bool,
    },
    /// List experiments.
    List {
        /// Of this model only.
        #[arg(long, value_parser = name)]
        model: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show an experiment with its newest verdict and evidence.
    Show { id: String },
    /// Show what happened, without single looks.
    History {
        id: String,
        #[command(flatten)]
        page: Page,
    },
    /// Follow an experiment to its end. Exit code 1: it was rolled back or aborted.
    Watch { id: String },
    /// Fetch a sealed decision record, for `akidb-control-plane replay`.
    Record {
        id: String,
        /// From 1, one a stage; the newest without it.
        #[arg(long)]
        part: Option<u32>,
        /// Where to write it; stdout without it.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the split as an Istio VirtualService.
    Routes {
        id: String,
        /// Service that the routes are of.
        #[arg(long, default_value = "akidb-rest")]
        host: String,
        #[arg(long, default_value = "akidb")]
        namespace: String,
    },
}

/// `akidb experiments create` and `validate`.
#[derive(Debug, Args)]
pub struct NewExperiment {
    /// Model.
    #[arg(value_parser = name)]
    pub model: String,
    /// Variant on trial.
    #[arg(long, value_parser = name)]
    pub canary: String,
    /// Version of it; that of `default` without it.
    #[arg(long, value_parser = name)]
    pub canary_version: Option<String>,
    /// Variant compared with; what `stable` names without it.
    #[arg(long, value_parser = name)]
    pub baseline: Option<String>,
    /// Version of it; that of `default` without it.
    #[arg(long, value_parser = name)]
    pub baseline_version: Option<String>,
    /// Name of the experiment; made up without it.
    #[arg(long, value_parser = name)]
    pub id: Option<String>,
    /// What it is about.
    #[arg(long)]
    pub title: Option<String>,
    /// JSON file with any of unit, phases, margins, alpha, ...: see docs/EXPERIMENTS.md.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only sidecars of these apps.
    #[arg(long, value_delimiter = ',')]
    pub apps: Vec<String>,
    /// Apps whose index traffic takes part too.
    #[arg(long, value_delimiter = ',')]
    pub apps_all_traffic: Vec<String>,
    /// Apps that agree to vectors of another space.
    #[arg(long, value_delimiter = ',')]
    pub apps_space_change: Vec<String>,
    /// Expected requests a second over the fleet; what the ledger saw without it.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Create it although it cannot reach a verdict in time.
    #[arg(long)]
    pub force: bool,
}

/// `akidb tokens`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "clap shows the lines below; fields are named after what they hold")]
pub enum Tokens {
    /// List tokens, without their secrets.
    List(#[command(flatten)] Page),
    /// Create a token and print it, this once.
    Create {
        /// What it is for.
        #[arg(long)]
        name: String,
        /// `admin`, `viewer` or `sidecar`.
        #[arg(long, value_parser = role)]
        role: Role,
        /// Namespace that a sidecar's token is bound to; any without it.
        #[arg(long)]
        namespace: Option<String>,
        /// App that a sidecar's token is bound to; any without it.
        #[arg(long)]
        app: Option<String>,
    },
    /// Revoke a token, at once and for good.
    Revoke { id: String },
}

/// `akidb sidecars`.
#[derive(Debug, Subcommand)]
pub enum Sidecars {
    /// List sidecars.
    List(#[command(flatten)] Page),
    /// Show a sidecar with its devices, artifacts, boots and gaps.
    Show {
        /// As `list` shows it.
        id: String,
    },
}

/// `akidb costs`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Costs {
    /// Another question.
    #[command(subcommand)]
    pub command: Option<CostsCommand>,
    /// What to sum by: any of model, version, variant, arm, app, namespace, tenant, day, sku.
    #[arg(long, value_delimiter = ',', default_value = "model,variant", value_parser = DIMENSIONS)]
    pub group_by: Vec<String>,
    /// From this moment, RFC 3339.
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// To this moment, RFC 3339.
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Of this device kind only.
    #[arg(long)]
    pub sku: Option<String>,
    /// Which rows.
    #[command(flatten)]
    pub page: Page,
}

/// What costs can be summed by.
const DIMENSIONS: [&str; 9] = ["model", "version", "variant", "arm", "app", "namespace", "tenant", "day", "sku"];

/// `akidb costs per-request`.
#[derive(Debug, Subcommand)]
pub enum CostsCommand {
    /// Show what one request costs, fleet-wide and by variant.
    PerRequest,
}

/// `akidb audit`.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// List changes, oldest first.
    List(#[command(flatten)] Page),
    /// Recompute the hash chain; exit code 1 when it is broken.
    Verify,
}

fn name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("a name has 1-128 of A-Za-z0-9._-".to_owned()) }
}

fn digest(text: &str) -> Result<String, String> {
    let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if hex && (6..=64).contains(&text.len()) { Ok(text.to_owned()) } else { Err("a digest has 6-64 lower-case hex digits".to_owned()) }
}

fn amount(text: &str) -> Result<String, String> {
    parse_dollars(text).map(|_| text.to_owned()).map_err(|it| it.to_string())
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|it: akidb_domain::vocabulary::UnknownWord| it.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let check = |line: &str, expected: &str| {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        };
        check("akidb models show a/b", "a name has 1-128");
        check("akidb prices set cpu --per-hour 2,50", "`2,50` is not an amount in USD");
        check("akidb tokens create --name x --role boss", "unknown role `boss`");
        check("akidb models retire m xyz", "a digest has 6-64");
        check("akidb costs --group-by model,colour", "colour");
        check("akidb models delete m --variant fp32", "--version");
    }

    #[test]
    fn a_token_is_not_in_debug_output() {
        let cli = Cli::try_parse_from(["akidb", "--token", "akidb_a_secret", "audit", "verify"]).unwrap();
        assert!(!format!("{cli:?}").contains("secret"));
    }
}
