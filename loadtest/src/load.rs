//! The clients of a measurement and their clock.
//!
//! Enters: plans, and clients that may already be connected. Leaves: an account of each plan, and its clients. Never: a request that is in
//! no account.
//!
//! Requests are numbered, and a free client takes the next number. In an open loop number `i` is due at `start + i / rate`, whether a client is
//! free or not, and its latency counts from then: when the server stalls, all requests that were due in the meantime show the wait
//! (no coordinated omission). Those that no client could take until the run's end plus the timeout are accounted as `unsent`.

mod alarm;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::account::Account;
use crate::client::{Client, Failure, Outcome};
use crate::plan::{Plan, Until};
use crate::texts::Texts;
use alarm::Alarm;

/// A request that no client was free to take until this long after it was due started late.
const LATE: Duration = Duration::from_millis(1);

/// Rest after a refused connection, so that an absent server is not hammered.
const REST: Duration = Duration::from_millis(50);

/// Ends measurements early; shared by all that belong together.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Whether to stop.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Stops at an interrupt (Ctrl-C); abort the task when it is not needed any more.
    pub fn on_interrupt(&self) -> JoinHandle<()> {
        let stop = self.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.0.store(true, Ordering::Relaxed);
            }
        })
    }
}

/// What became of one plan.
#[derive(Debug)]
pub struct Measured {
    /// Every request.
    pub account: Account,
    /// From the start to the last answer.
    pub elapsed: Duration,
    /// Still connected, for a further measurement.
    pub clients: Vec<Client>,
}

/// New clients of a plan.
pub fn clients(plan: &Plan) -> Vec<Client> {
    (0..plan.clients).map(|_| Client::new(plan)).collect()
}

/// Measures several plans at once, each with its clients.
pub async fn all(plans: Vec<(Plan, Vec<Client>)>, stop: &Stop, progress: &ProgressBar) -> Vec<Measured> {
    let start = Instant::now();
    let tasks: Vec<_> = plans
        .into_iter()
        .map(|(plan, clients)| {
            let (stop, progress) = (stop.clone(), progress.clone());
            tokio::spawn(async move { one(&plan, clients, start, stop, progress).await })
        })
        .collect();
    let mut out = Vec::new();
    for task in tasks {
        out.push(task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())));
    }
    out
}

/// What the clients of one plan share.
struct Shared {
    plan: Plan,
    texts: Texts,
    start: Instant,
    /// Of an open loop; without it, the runtime's timer.
    alarm: Option<Alarm>,
    next: AtomicU64,
    stop: Stop,
    progress: ProgressBar,
}

async fn one(plan: &Plan, clients: Vec<Client>, start: Instant, stop: Stop, progress: ProgressBar) -> Measured {
    let (plan, texts) = (plan.clone(), Texts::new(plan));
    let alarm = plan.rate.and_then(|_| {
        let started = Alarm::start();
        started.inspect_err(|error| eprintln!("no thread to keep time ({error}): requests are due to the millisecond only")).ok()
    });
    let shared = Arc::new(Shared { plan, texts, start, alarm, next: AtomicU64::new(0), stop, progress });
    let mut tasks = JoinSet::new();
    for each in clients {
        tasks.spawn(client(shared.clone(), each));
    }
    let (mut account, mut clients) = (Account::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (part, client) = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        account.merge(&part);
        clients.push(client);
    }
    if shared.stop.asked() {
        shared.account_untaken(&mut account);
    }
    Measured { account, elapsed: shared.start.elapsed(), clients }
}

async fn client(shared: Arc<Shared>, mut client: Client) -> (Account, Client) {
    let mut account = Account::new();
    while let Some(index) = shared.take() {
        let body = shared.texts.body(index);
        let due = shared.plan.due(index).map(|it| shared.start + it);
        if let Some(due) = due {
            // Before the rest: a timer's own coarseness is not a busy client.
            account.started_late += u64::from(due.elapsed() > LATE);
            match &shared.alarm {
                Some(alarm) => alarm.at(due.into_std(), index).await,
                None => sleep_until(due).await,
            }
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
    (account, client)
}

impl Shared {
    /// The number of the next request to send, while there is one.
    fn take(&self) -> Option<u64> {
        let over = match (self.plan.until, self.plan.rate) {
            (Until::Elapsed(length), None) => self.start.elapsed() >= length,
            _ => false,
        };
        if over || self.stop.asked() {
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
