//! What to rehearse.
//!
//! Enters: a TOML file. Leaves: a checked [`Plan`], or a sentence that names the key and the value. Never: a default that hides what is simulated;
//! device, loads and arms are written out in the plan.

use std::collections::BTreeMap;
use std::path::Path;

use akidb_domain::decision::Config;
use akidb_domain::decision::config::Unit;
use serde::{Deserialize, Serialize};

use crate::plan::BadPlan;

/// A rehearsal: every arm under every load.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Runs a cell.
    pub runs: u64,
    /// Looks a run, without those of a burn-in.
    pub looks: u64,
    /// Of everything.
    pub seed: u64,
    /// The share stays in the first phase for all looks: when every guardrail has proven its point is noted, and alarms are watched for to the end.
    #[serde(default)]
    pub hold: bool,
    /// The experiment. `unit` is the load's.
    #[serde(default)]
    pub experiment: Config,
    /// The device.
    pub device: Device,
    /// By name.
    pub loads: BTreeMap<String, Load>,
    /// The canaries.
    pub arms: Vec<Arm>,
}

/// One device with one executor.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Time of any batch, ms.
    pub base_ms: f64,
    /// Time of a padded token, us.
    pub token_us: f64,
    /// Most texts a batch.
    pub max_batch: usize,
    /// Spread (sigma) of the lognormal noise of a batch's time.
    pub noise: f64,
    /// Part of the batches that straggle.
    pub stragglers: f64,
    /// How much longer those take.
    pub straggler_factor: f64,
    /// Spread of the device's own drift, an AR(1) with 0.98 a second that all engines share.
    pub drift: f64,
    /// Time of the second run of a probe over that of the first: caches are warm.
    pub second_run: f64,
    /// A request older than this when its batch ends has failed, ms.
    pub deadline_ms: f64,
    /// Part of the device's time that probes may take.
    pub probe_budget: f64,
    /// Probes are shed while more texts than this wait.
    pub probe_queue: usize,
    /// Part of the device's idle time that they may take as well.
    pub probe_budget_idle: f64,
}

/// How requests arrive.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Requests a second, on average outside bursts.
    pub rate: f64,
    /// Length of a look, s.
    pub look_s: f64,
    /// Correlation of the logarithm of the rate from second to second.
    pub ar1: f64,
    /// Its spread.
    pub spread: f64,
    /// Mean time between bursts, s; 0: none.
    #[serde(default)]
    pub burst_every_s: f64,
    /// How many times more requests arrive in a burst.
    #[serde(default)]
    pub burst_factor: f64,
    /// Length of a burst, s.
    #[serde(default)]
    pub burst_s: f64,
    /// Tokens a text: the spread (sigma) of a lognormal distribution cut at 4..256, and its median.
    pub tokens_median: f64,
    /// See [`Self::tokens_median`].
    pub tokens_spread: f64,
    /// Users by Zipf's law, each with a text length of its own.
    #[serde(default)]
    pub users: Option<Users>,
}

/// Users of different weight.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// How many.
    pub count: u32,
    /// The n-th sends in proportion to 1/n^exponent.
    pub exponent: f64,
    /// A user keeps its arm; else each request is drawn.
    pub sticky: bool,
    /// Looks of A/A burn-in before a sticky experiment.
    #[serde(default)]
    pub burn_in_looks: u64,
}

/// A canary beside the baseline.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// E.g. `1.3x slower`.
    pub name: String,
    /// Its engine time over the baseline's.
    pub time_ratio: f64,
    /// Part of the requests that fail: baseline, canary.
    pub errors: [f64; 2],
    /// Part of the batches that fail whole, on either engine.
    #[serde(default)]
    pub failed_batches: f64,
    /// Mean of 1 - cosine.
    #[serde(default)]
    pub cosine_loss: f64,
    /// Mean of 1 - recall@10.
    #[serde(default)]
    pub recall_loss: f64,
    /// Loads to meet; all without it.
    #[serde(default)]
    pub loads: Option<Vec<String>>,
    /// What must come out; a miss is exit code 1.
    #[serde(default)]
    pub expect: Expect,
}

/// Bounds on a cell's counts of runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Most runs promoted.
    pub most_promoted: Option<u64>,
    /// Fewest runs promoted.
    pub least_promoted: Option<u64>,
    /// Most runs rolled back.
    pub most_rolled_back: Option<u64>,
    /// Fewest runs rolled back.
    pub least_rolled_back: Option<u64>,
    /// Most probes to the verdict, in the median run.
    pub most_probes: Option<u64>,
    /// Only roll-backs within so many canary requests count for `least_rolled_back`.
    pub within_canary_requests: Option<u64>,
}

impl Plan {
    /// Reads and checks a plan.
    pub fn load(file: &Path) -> Result<Self, BadPlan> {
        let name = file.display();
        let text = std::fs::read_to_string(file).map_err(|it| BadPlan(format!("{name}: {it}")))?;
        let plan: Self = toml::from_str(&text).map_err(|it| BadPlan(format!("{name}: {it}")))?;
        plan.check().map_err(|it| BadPlan(format!("{name}: {it}")))?;
        Ok(plan)
    }

    /// The experiment under a load.
    pub fn config(&self, load: &Load, salt: String) -> Config {
        let mut config = Config { salt, ..self.experiment.clone() };
        if let Some(users) = load.users.filter(|it| it.sticky) {
            config.unit = Unit::Sticky;
            config.burn_in_ms = users.burn_in_looks * load.look_ms();
        }
        if self.hold {
            let all = self.looks * load.look_ms();
            // Longer than the run, so that the share stays and no time limit speaks.
            (config.phases[0].soak_ms, config.phases[0].duration_ms) = (all + 1, all + 1);
        }
        config
    }

    fn check(&self) -> Result<(), BadPlan> {
        let fail = |problem: String| Err(BadPlan(problem));
        self.experiment.check().map_err(|it| BadPlan(format!("experiment: {it}")))?;
        if self.runs == 0 || self.looks == 0 || self.arms.is_empty() || self.loads.is_empty() {
            return fail("runs, looks, arms and loads: at least one of each is needed".to_owned());
        }
        let d = &self.device;
        let mut positive = vec![("device.base_ms", d.base_ms), ("device.token_us", d.token_us), ("device.deadline_ms", d.deadline_ms)];
        positive.extend([
            ("device.max_batch", d.max_batch as f64),
            ("device.second_run", d.second_run),
            ("device.straggler_factor", d.straggler_factor),
        ]);
        for load in self.loads.values() {
            positive.extend([("loads: rate", load.rate), ("loads: look_s", load.look_s), ("loads: tokens_median", load.tokens_median)]);
            positive.extend((load.burst_every_s > 0.0).then_some(("loads: burst_factor", load.burst_factor)));
            positive.extend(load.users.map(|it| ("loads: users.count", f64::from(it.count))));
        }
        positive.extend(self.arms.iter().map(|it| ("arms: time_ratio", it.time_ratio)));
        if let Some((name, value)) = positive.into_iter().find(|it| !(it.1 > 0.0 && it.1.is_finite())) {
            return fail(format!("{name} {value} is not above 0"));
        }
        let mut parts = vec![("device.stragglers", d.stragglers), ("device.probe_budget", d.probe_budget)];
        parts.extend(self.loads.values().map(|it| ("loads: ar1", it.ar1)));
        parts.extend(
            self.arms.iter().flat_map(|it| {
                [("arms: errors", it.errors[0]), ("arms: errors", it.errors[1]), ("arms: failed_batches", it.failed_batches)]
            }),
        );
        if let Some((name, value)) = parts.into_iter().find(|it| !(0.0..1.0).contains(&it.1)) {
            return fail(format!("{name} {value} is not in 0..1"));
        }
        let known = |it: &&String| !self.loads.contains_key(*it);
        if let Some(unknown) = self.arms.iter().filter_map(|it| it.loads.as_ref()).flatten().find(known) {
            return fail(format!("arms: loads `{unknown}` is not one of {}", self.loads.keys().cloned().collect::<Vec<_>>().join(", ")));
        }
        Ok(())
    }
}

impl Load {
    /// Length of a look, ms.
    pub fn look_ms(&self) -> u64 {
        (1e3 * self.look_s) as u64
    }
}
