//! A run against one server: warm-up, measurement, report.
//!
//! Enters: a checked run. Leaves: a report. Never: a figure of the warm-up in the measurement's.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::account::Account;
use crate::client::Client;
use crate::load::{self, Measured, Stop};
use crate::plan::{Plan, Run, Until};
use crate::report::{Beside, Report};
use crate::scrape::{BatchSizes, Scrape};
use crate::watch::{self, Resources, Watch};

/// A bar on a terminal, silence otherwise.
pub fn progress_bar(total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let form =
        if total.is_some() { "{elapsed_precise} {bar:30} {pos}/{len} {per_sec}" } else { "{elapsed_precise} {pos} requests {per_sec}" };
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar
}

/// Requests of all classes, where the clock does not decide.
pub fn total(run: &Run) -> Option<u64> {
    run.classes.iter().map(Plan::total).sum()
}

/// Warms up, measures and reports. An interrupt (Ctrl-C) ends the measurement early; requests on their way are still counted.
pub async fn run(run: &Run, progress: &ProgressBar) -> Report {
    let stop = Stop::default();
    let interrupt = stop.on_interrupt();
    let (clients, warmups) = warm_up(&run.classes, &stop).await;
    let before = Scrape::fetch(&run.metrics).await;
    let start = Instant::now();
    let (end_watch, watched) = oneshot::channel();
    let watching = run.watch.map(|it| (it, tokio::spawn(watch::samples(it, start, watched))));
    let measured = load::all(run.classes.iter().cloned().zip(clients).collect(), &stop, progress).await;
    let elapsed = start.elapsed();
    interrupt.abort();
    progress.finish_and_clear();
    let after = Scrape::fetch(&run.metrics).await;
    let batches = before.ok().zip(after.ok()).and_then(|(before, after)| BatchSizes::between(&before, &after));
    let mut resources = None;
    if let Some((watch, task)) = watching {
        resources = settle(watch, elapsed, end_watch, task).await;
    }
    report(run, &measured, &warmups, Beside { elapsed, interrupted: stop.asked(), batches, resources })
}

async fn settle(
    watch: Watch,
    elapsed: Duration,
    end: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<(Vec<watch::Sample>, bool)>,
) -> Option<Resources> {
    sleep(watch.settle).await;
    // A watch whose process ended does not listen any more.
    let _ = end.send(());
    let (samples, ended) = task.await.ok()?;
    Resources::new(watch, elapsed, samples, ended)
}

async fn warm_up(plans: &[Plan], stop: &Stop) -> (Vec<Vec<Client>>, Vec<Account>) {
    let closed = |plan: &Plan| Plan { until: Until::Requests(plan.warmup), rate: None, ..plan.clone() };
    let plans = plans.iter().map(|it| (closed(it), load::clients(it))).collect();
    let done = load::all(plans, stop, &ProgressBar::hidden()).await;
    done.into_iter().map(|it| (it.clients, it.account)).unzip()
}

fn report(run: &Run, measured: &[Measured], warmups: &[Account], beside: Beside) -> Report {
    let parts = || run.classes.iter().zip(measured).zip(warmups);
    let each = parts().map(|((plan, done), warmup)| {
        let beside = Beside { elapsed: done.elapsed, interrupted: beside.interrupted, batches: None, resources: None };
        Report::new(&[plan], &done.account, warmup, beside)
    });
    let classes: Vec<Report> = if run.classes.len() > 1 { each.collect() } else { Vec::new() };
    let (mut account, mut warmup) = (Account::new(), Account::new());
    for ((_, done), warmed) in parts() {
        account.merge(&done.account);
        warmup.merge(warmed);
    }
    let plans: Vec<&Plan> = run.classes.iter().collect();
    Report { classes, ..Report::new(&plans, &account, &warmup, beside) }
}
