//! The clients of a run and their clock.
//!
//! Enters: a plan. Leaves: a report. Never: a request that is in no account.
//!
//! Requests are numbered, and a free client takes the next number. In an open loop number `i` is due at `start + i / rate`, whether a client is
//! free or not, and its latency counts from then: when the server stalls, all requests that were due in the meantime show the wait
//! (no coordinated omission). Those that no client could take until the run's end plus the timeout are accounted as `unsent`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::Account;
use crate::client::{Client, Failure, Outcome};
use crate::plan::{Plan, Until};
use crate::report::Report;
use crate::texts::Texts;

/// A request that no client was free to take until this long after it was due started late.
const LATE: Duration = Duration::from_millis(1);

/// Rest after a refused connection, so that an absent server is not hammered.
const REST: Duration = Duration::from_millis(50);

/// A bar on a terminal, silence otherwise.
pub fn progress_bar(plan: &Plan) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = plan.total().map_or_else(ProgressBar::no_length, ProgressBar::new);
    let form = if plan.total().is_some() {
        "{elapsed_precise} {bar:30} {pos}/{len} {per_sec}"
    } else {
        "{elapsed_precise} {pos} requests {per_sec}"
    };
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar
}

/// Warms up, measures and reports. An interrupt (Ctrl-C) ends the measurement early; requests on their way are still counted.
pub async fn run(plan: &Plan, progress: &ProgressBar) -> Report {
    let warmup = match plan.warmup {
        0 => Account::new(),
        n => measure(&Plan { until: Until::Requests(n), rate: None, ..plan.clone() }, &ProgressBar::hidden()).await.account,
    };
    let Measured { account, elapsed, interrupted } = measure(plan, progress).await;
    progress.finish_and_clear();
    Report::new(plan, &account, &warmup, elapsed, interrupted)
}

struct Measured {
    account: Account,
    elapsed: Duration,
    interrupted: bool,
}

/// What the clients of one measurement share.
struct Shared {
    plan: Plan,
    texts: Texts,
    start: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    progress: ProgressBar,
}

async fn measure(plan: &Plan, progress: &ProgressBar) -> Measured {
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        texts: Texts::new(plan),
        start: Instant::now(),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        progress: progress.clone(),
    });
    let mut clients = JoinSet::new();
    for _ in 0..plan.clients {
        clients.spawn(client(shared.clone()));
    }
    let watcher = tokio::spawn(stop_on_interrupt(shared.clone()));
    let mut account = Account::new();
    while let Some(done) = clients.join_next().await {
        match done {
            Ok(part) => account.merge(&part),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    watcher.abort();
    let interrupted = shared.stop.load(Ordering::Relaxed);
    if interrupted {
        shared.account_untaken(&mut account);
    }
    Measured { account, elapsed: shared.start.elapsed(), interrupted }
}

async fn stop_on_interrupt(shared: Arc<Shared>) {
    if tokio::signal::ctrl_c().await.is_ok() {
        shared.stop.store(true, Ordering::Relaxed);
    }
}

async fn client(shared: Arc<Shared>) -> Account {
    let mut client = Client::new(&shared.plan);
    let mut account = Account::new();
    while let Some(index) = shared.take() {
        let body = shared.texts.body(index);
        let due = shared.plan.due(index).map(|it| shared.start + it);
        if let Some(due) = due {
            // Before the sleep: a timer's own coarseness is not a busy client.
            account.started_late += u64::from(due.elapsed() > LATE);
            sleep_until(due).await;
        }
        let started = Instant::now();
        let due = due.unwrap_or(started);
        if started >= shared.give_up() {
            account.add_unsent(started - due);
            continue;
        }
        let outcome = client.send(body).await;
        let now = Instant::now();
        account.add(&outcome, shared.plan.batch, now - due, now - started);
        shared.progress.inc(1);
        if outcome == Outcome::Failed(Failure::Connect) {
            sleep(REST).await;
        }
    }
    account.connections = client.connections;
    account
}

impl Shared {
    /// The number of the next request to send, while there is one.
    fn take(&self) -> Option<u64> {
        let over = match (self.plan.until, self.plan.rate) {
            (Until::Elapsed(length), None) => self.start.elapsed() >= length,
            _ => false,
        };
        if over || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        self.plan.total().is_none_or(|total| index < total).then_some(index)
    }

    /// After an interrupt: requests of an open loop that are due by now and that no client took.
    fn account_untaken(&self, account: &mut Account) {
        let (now, total) = (self.start.elapsed(), self.plan.total().unwrap_or(u64::MAX));
        for index in self.next.load(Ordering::Relaxed).min(total)..total {
            match self.plan.due(index).and_then(|due| now.checked_sub(due)) {
                Some(waited) => account.add_unsent(waited),
                None => break,
            }
        }
    }

    /// From here on requests of an open loop that are still due are not sent any more.
    fn give_up(&self) -> Instant {
        let last = self.plan.total().and_then(|total| self.plan.due(total));
        self.start + last.map_or(Duration::from_secs(u64::from(u32::MAX)), |it| it + self.plan.timeout)
    }
}
