//! What a rollout remembers between looks, and how it takes one.
//!
//! Enters: a look. Leaves: an outcome, and the state after it. Each stage begins with fresh tests, so that a share's evidence is that
//! share's; only the latency levels go on. Never: a look out of turn, or one after the end.

use serde::{Deserialize, Serialize};

use super::assess::{assess, from_the_start};
use super::config::{Config, Unit};
use super::crash::CrashTest;
use super::lanes::{Errors, Latency, Levels, Objective, exceedances};
use super::look::{Look, Units};
use super::probes::ProbeTests;
use super::verdict::{Outcome, Probing, Stage, Verdict};
use crate::sketch::Sketch;

/// What a rollout remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Looks taken.
    pub looks: u64,
    /// Where it is.
    pub stage: Stage,
    /// What this stage has shown.
    pub tests: Tests,
    /// Where latency exceedances begin.
    pub levels: Levels,
}

/// What a stage has shown so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tests {
    /// Time in this stage, ms; stretches with missing data count.
    pub elapsed_ms: u64,
    /// Time without missing data, ms.
    pub counted_ms: u64,
    /// Distinct units.
    pub units: Units,
    /// Sidecars lost.
    pub crash: CrashTest,
    /// Errors.
    pub errors: Errors,
    /// Speed, cost, quality.
    pub probes: ProbeTests,
    /// Exceedances of users' latency.
    pub latency: Latency,
    /// The absolute objective.
    pub objective: Objective,
    /// Time for which utilisation is known, ms.
    pub utilisation_ms: u64,
    /// Device-ms in it.
    pub busy_ms: f64,
    /// Latency of the canary's lane, all lengths.
    pub canary_latency: Sketch,
    /// Latency of the compared lane.
    pub control_latency: Sketch,
}

/// A look that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLook {
    /// Out of turn.
    #[error("look {got} was given where look {expected} is next: looks are numbered without holes")]
    OutOfTurn {
        /// Next number.
        expected: u64,
        /// Number given.
        got: u64,
    },
    /// After the end.
    #[error("look {0} was given to a rollout that is over")]
    Over(u64),
    /// The lanes cannot be compared.
    #[error("look {look}: {canary} token-length buckets in the canary's lane and {control} in the control's; they must be the same")]
    Buckets {
        /// Look.
        look: u64,
        /// Buckets of the canary.
        canary: usize,
        /// Buckets of the control lane.
        control: usize,
    },
    /// A sticky experiment counts units, a request experiment does not.
    #[error("look {0}: first_exceedances must be given with a sticky unit, and only then")]
    Unit(u64),
}

impl State {
    /// Before the first look.
    pub fn new(config: &Config) -> Self {
        let stage = if config.burn_in_ms > 0 { Stage::BurnIn } else { Stage::Phase(0) };
        Self { stage, ..Self::default() }
    }

    /// How often to probe before the first look of this stage.
    pub const fn probing(&self) -> Probing {
        from_the_start(self.stage)
    }

    /// Parts in a million of the traffic that the canary's variant is to serve now.
    pub fn share_ppm(&self, config: &Config) -> u32 {
        match self.stage {
            Stage::Phase(at) => config.phases.get(at).map_or(0, |it| it.share_ppm),
            Stage::Complete => super::config::WHOLE_PPM,
            Stage::BurnIn | Stage::RolledBack => 0,
        }
    }
}

/// Takes a look: counts it, weighs everything known of this stage, and moves on where the verdict says so.
pub fn step(config: &Config, state: &mut State, look: &Look) -> Result<Outcome, BadLook> {
    check(config, state, look)?;
    state.looks += 1;
    let missing = look.missing.pieces(config.max_failing);
    count(config, state, look, missing.is_empty());
    let outcome = assess(config, state, &missing);
    match outcome.verdict {
        Verdict::Promote { .. } => enter(state, after(config, state.stage)),
        Verdict::RollBack { .. } => enter(state, Stage::RolledBack),
        Verdict::Wait { .. } | Verdict::Inconclusive { .. } => {}
    }
    Ok(outcome)
}

fn check(config: &Config, state: &State, look: &Look) -> Result<(), BadLook> {
    let buckets = [look.canary.latency.len(), look.control.latency.len()];
    let sticky = config.unit == Unit::Sticky;
    if matches!(state.stage, Stage::Complete | Stage::RolledBack) {
        return Err(BadLook::Over(look.number));
    }
    if look.number != state.looks + 1 {
        return Err(BadLook::OutOfTurn { expected: state.looks + 1, got: look.number });
    }
    if buckets[0] != buckets[1] {
        return Err(BadLook::Buckets { look: look.number, canary: buckets[0], control: buckets[1] });
    }
    if [&look.canary, &look.control].iter().any(|it| it.first_exceedances.is_some() != sticky) {
        return Err(BadLook::Unit(look.number));
    }
    Ok(())
}

/// A look with missing data is left out, but for its time and for sidecars lost: those are what is missing.
fn count(config: &Config, state: &mut State, look: &Look, complete: bool) {
    let tests = &mut state.tests;
    tests.elapsed_ms += look.length_ms;
    tests.crash.push(look.crashes);
    if !complete {
        return;
    }
    tests.counted_ms += look.length_ms;
    tests.units.canary += look.units.canary;
    tests.units.control += look.units.control;
    tests.units.rest += look.units.rest;
    // Arms that serve the same variant in a burn-in have no margin.
    let of_canary = |margin: f64| if state.stage == Stage::BurnIn { 0.0 } else { margin };
    let fixed_draw = config.unit == Unit::Sticky && state.stage != Stage::BurnIn;
    for window in &look.windows {
        tests.errors.push(*window, of_canary(config.margins.errors), fixed_draw);
    }
    let thresholds = state.levels.thresholds(of_canary(config.margins.latency));
    if !thresholds.is_empty() {
        let counts = [exceedances(&look.canary, &thresholds, |it| it.canary), exceedances(&look.control, &thresholds, |it| it.control)];
        tests.latency.push(counts);
    }
    state.levels.learn(&look.control, config.margins.latency_quantile);
    if let Some(slo) = config.slo {
        tests.objective.push(&look.canary, slo);
    }
    look.probes.iter().for_each(|it| tests.probes.push(*it, &config.margins));
    if let Some(utilisation) = look.utilisation {
        tests.utilisation_ms += look.length_ms;
        tests.busy_ms += utilisation * look.length_ms as f64;
    }
    look.canary.latency.iter().for_each(|it| tests.canary_latency.merge(it));
    look.control.latency.iter().for_each(|it| tests.control_latency.merge(it));
}

/// The stage that follows a promotion.
pub(super) fn after(config: &Config, stage: Stage) -> Stage {
    match stage {
        Stage::BurnIn => Stage::Phase(0),
        Stage::Phase(at) if at + 1 < config.phases.len() => Stage::Phase(at + 1),
        Stage::Phase(_) | Stage::Complete => Stage::Complete,
        Stage::RolledBack => Stage::RolledBack,
    }
}

fn enter(state: &mut State, next: Stage) {
    state.stage = next;
    state.tests = Tests::default();
}
