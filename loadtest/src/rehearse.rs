//! Rehearsal of a rollout: the real decision engine, many times over, on a simulated device under simulated traffic.
//!
//! Enters: a plan. Leaves: how often it promotes and rolls back wrongly and rightly, how long that takes, and what the usual tests would have done
//! with the same telemetry. Never: a result that depends on the number of threads: each run's draws come from its number.
//!
//! Rooms, in reading order: [`plan`] -> `chance` (tables of distributions) -> `traffic` -> `router` (lanes, sticky users) -> `device` (executor, probes) -> `counts`
//! (a look's telemetry) -> [`run`], beside it [`usual`] -> [`report`].

mod chance;
mod counts;
mod device;
pub mod plan;
pub mod report;
mod router;
pub mod run;
#[cfg(test)]
mod tests;
mod traffic;
pub mod usual;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use indicatif::ProgressBar;

pub use plan::Plan;
pub use report::Report;

use crate::plan::{BadPlan, within};
use chance::Table;
use run::{Cell, Run, run};
use traffic::Shape;

/// Options of `akidb-loadtest rehearse`.
#[derive(Debug, Clone, Args)]
pub struct RehearseArgs {
    /// A plan; see loadtest/plans/rehearse.
    pub plan: PathBuf,
    /// Runs a cell, instead of the plan's; its expectations are then not judged.
    #[arg(long)]
    pub runs: Option<u64>,
    /// Seed, instead of the plan's.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Only cells whose `load / arm` contains this.
    #[arg(long)]
    pub only: Option<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub threads: u64,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A checked rehearsal.
#[derive(Debug)]
pub struct Rehearsal {
    name: String,
    plan: Plan,
    only: String,
    threads: u64,
    judged: bool,
}

impl TryFrom<RehearseArgs> for Rehearsal {
    type Error = BadPlan;

    fn try_from(args: RehearseArgs) -> Result<Self, BadPlan> {
        within("--threads", args.threads, 1, 1_024)?;
        within("--runs", args.runs.unwrap_or(1), 1, 10_000_000)?;
        let mut plan = Plan::load(&args.plan)?;
        let judged = args.runs.is_none_or(|it| it == plan.runs);
        (plan.runs, plan.seed) = (args.runs.unwrap_or(plan.runs), args.seed.unwrap_or(plan.seed));
        let name = args.plan.file_stem().map_or_else(String::new, |it| it.to_string_lossy().into_owned());
        let only = args.only.unwrap_or_default();
        if cells(&plan).all(|(load, arm)| !title(load, &plan.arms[arm]).contains(&only)) {
            return Err(BadPlan(format!("--only `{only}` leaves no cell of {}", args.plan.display())));
        }
        Ok(Self { name, plan, only, threads: args.threads, judged })
    }
}

/// Loads and arms that meet, in order.
fn cells(plan: &Plan) -> impl Iterator<Item = (&String, usize)> {
    let meets = |load: &String, arm: usize| plan.arms[arm].loads.as_ref().is_none_or(|it| it.contains(load));
    (0..plan.arms.len()).flat_map(move |arm| plan.loads.keys().filter(move |load| meets(load, arm)).map(move |load| (load, arm)))
}

/// What `--only` looks into.
fn title(load: &str, arm: &plan::Arm) -> String {
    format!("{load} / {}", arm.name)
}

/// Rehearses every cell.
pub fn rehearse(rehearsal: &Rehearsal, progress: &ProgressBar) -> Report {
    let Rehearsal { name, plan, only, threads, judged } = rehearsal;
    let noise = Table::lognormal(1.0, plan.device.noise);
    let mut report = Report::new(name, plan, *judged);
    for (index, (name, arm)) in cells(plan).enumerate() {
        let (load, arm) = (&plan.loads[name], &plan.arms[arm]);
        let title = title(name, arm);
        if !title.contains(only) {
            continue;
        }
        progress.set_message(title);
        let shape = Shape::new(load);
        let cell = Cell { plan, load, arm, shape: &shape, noise: &noise, index: index as u64 };
        report.add(name, arm, &all_runs(cell, *threads, progress));
    }
    report
}

/// Runs of a cell in their order, whichever thread made them.
fn all_runs(cell: Cell<'_>, threads: u64, progress: &ProgressBar) -> Vec<Run> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut runs = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= cell.plan.runs {
                return runs;
            }
            runs.push((n, run(cell, n)));
            progress.inc(1);
        }
    };
    let mut runs: Vec<(u64, Run)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A worker that panicked has said why; its panic goes on here.
        workers.into_iter().flat_map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    runs.sort_by_key(|it| it.0);
    runs.into_iter().map(|it| it.1).collect()
}
