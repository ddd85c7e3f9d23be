//! One run: traffic, device, and the real decision engine, look after look.
//!
//! Enters: a cell and the run's number, which alone fixes every draw. Leaves: what became of the canary. Never: a decision of its own.

use akidb_domain::decision::verdict::Probing;
use akidb_domain::decision::{Config, Guardrail, Outcome, Stage, State, Verdict, step};
use serde::Serialize;

use super::chance::Table;
use super::device::Machine;
use super::plan::{Arm, Load, Plan};
use super::router::Router;
use super::traffic::{Shape, Traffic};
use super::usual::{Usual, UsualTests};
use crate::random::Random;

/// An arm under a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell<'a> {
    pub(super) plan: &'a Plan,
    pub(super) load: &'a Load,
    pub(super) arm: &'a Arm,
    pub(super) shape: &'a Shape,
    pub(super) noise: &'a Table,
    /// Number of the cell: cells do not share draws.
    pub(super) index: u64,
}

/// What became of a canary.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Run {
    /// All points proven (with `hold`), or at 100 %.
    pub promoted: Option<Moment>,
    /// Rolled back.
    pub rolled_back: Option<Moment>,
    /// By which guardrail; none: by time.
    pub by: Option<Guardrail>,
    /// Largest share reached, parts in a million.
    pub share_ppm: u32,
    /// Looks that ended inconclusive.
    pub inconclusive: u64,
    /// Probe time over all time.
    pub probe_share: f64,
    /// Time serving over all time.
    pub utilisation: f64,
    /// The control lane's p95 at the end of the last stage, ms.
    pub control_p95_ms: f64,
    /// The usual tests' verdicts.
    pub thresholds: Option<Usual>,
    /// See [`Self::thresholds`].
    pub binomial: Option<Usual>,
}

/// When something was decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Looks.
    pub look: u64,
    /// Probes so far.
    pub probes: u64,
    /// Requests in the canary's compared lane so far.
    pub canary_requests: u64,
    /// Time, ms.
    pub ms: u64,
}

/// Runs number `n` of a cell.
pub(super) fn run(cell: Cell<'_>, n: u64) -> Run {
    let Cell { plan, load, arm, .. } = cell;
    let stream = |what: u64| Random::new(plan.seed, (cell.index << 40) + (n << 8) + what);
    let config = plan.config(load, format!("{}-{}-{n}", plan.seed, cell.index));
    let traffic = Traffic::new(load, cell.shape, stream(0));
    let mut machine = Machine::new(&plan.device, arm, cell.noise, traffic, Router::new(load, &config.salt), stream(1));
    let (mut state, mut run, mut usual) = (State::new(&config), Run::default(), UsualTests::default());
    machine.wanted(budget(state.probing()), Vec::new());
    let (mut now, mut begun, mut busy_s, mut probe_s) = (Moment::default(), None, 0.0, 0.0);
    let looks = plan.looks + load.users.filter(|it| it.sticky).map_or(0, |it| it.burn_in_looks);
    while now.look < looks && !over(plan, &state, &usual) {
        if begun != Some(state.stage) && state.stage != Stage::RolledBack {
            begun = Some(state.stage);
            begin(&mut machine, &config, state.stage);
        }
        run.share_ppm = run.share_ppm.max(state.share_ppm(&config));
        now.look += 1;
        now.ms += load.look_ms();
        let counts = machine.work_until(now.ms as f64 / 1e3);
        now.probes += counts.probes.len() as u64;
        (busy_s, probe_s) = (busy_s + counts.busy_s, probe_s + counts.probe_s);
        if state.stage == Stage::RolledBack {
            usual.take(&counts, config.margins.latency, config.margins.errors, now.look == looks);
            continue;
        }
        (run.utilisation, run.probe_share) = (busy_s * 1e3 / now.ms as f64, probe_s * 1e3 / now.ms as f64);
        let in_burn_in = state.stage == Stage::BurnIn;
        if !in_burn_in {
            now.canary_requests += counts.lanes[2].all;
            usual.take(&counts, config.margins.latency, config.margins.errors, now.look == looks);
        }
        let Ok(outcome) = step(&config, &mut state, &counts.look(now.look, load.look_ms())) else { break };
        machine.wanted(budget(outcome.probing), outcome.thresholds.clone());
        run.control_p95_ms = outcome.latencies.control_ns.unwrap_or_default() as f64 / 1e6;
        note(&mut run, &outcome, now, plan.hold, state.stage, in_burn_in);
    }
    (run.thresholds, run.binomial) = (usual.thresholds, usual.binomial);
    run
}

/// Whether there is nothing left to learn. Where the share is held, a canary that the engine has rolled back stays for the usual tests to judge.
fn over(plan: &Plan, state: &State, usual: &UsualTests) -> bool {
    match state.stage {
        Stage::Complete => true,
        Stage::RolledBack => !plan.hold || (usual.thresholds.is_some() && usual.binomial.is_some()),
        Stage::BurnIn | Stage::Phase(_) => false,
    }
}

fn begin(machine: &mut Machine<'_>, config: &Config, stage: Stage) {
    let phase = &config.phases[if let Stage::Phase(at) = stage { at } else { 0 }];
    let canary = stage != Stage::BurnIn;
    // Above 50 % what is not compared runs on the canary's engine.
    machine.begin(phase.lanes(), [canary && phase.share_ppm > 500_000, false, canary]);
}

const fn budget(probing: Probing) -> f64 {
    match probing {
        Probing::Budget => 1.0,
        Probing::Trickle => 0.02,
        Probing::Off => 0.0,
    }
}

fn note(run: &mut Run, outcome: &Outcome, now: Moment, hold: bool, after: Stage, in_burn_in: bool) {
    let promoted = if hold { outcome.proven && !in_burn_in } else { after == Stage::Complete };
    if promoted && run.promoted.is_none() {
        run.promoted = Some(now);
    }
    match &outcome.verdict {
        Verdict::RollBack { guardrail } => (run.rolled_back, run.by) = (Some(now), *guardrail),
        Verdict::Inconclusive { .. } => run.inconclusive += 1,
        Verdict::Wait { .. } | Verdict::Promote { .. } => {}
    }
    if after == Stage::Complete {
        run.share_ppm = 1_000_000;
    }
}
