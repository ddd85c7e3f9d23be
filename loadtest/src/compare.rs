//! Two targets, or two ways to use one, in one run: short slices of each in random order, and ratios with intervals.
//!
//! Enters: two checked plans and how to slice. Leaves: a [`Comparison`]. Never: a ratio of figures that were measured at other times under
//! other conditions: each pair of slices is measured back to back, with the same texts.

mod figures;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

pub use figures::{Figures, Ratio, Slice};
pub use report::{Comparison, Side};

use crate::account::Account;
use crate::bootstrap::Bootstrap;
use crate::client::Client;
use crate::load::{self, Stop};
use crate::plan::{BadPlan, Overrides, Plan, Stream, Time, Until, within};
use crate::random::Random;

/// Options of `akidb-loadtest compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// First target, e.g. `http://127.0.0.1:8080/api/v1/embed`.
    #[arg(long)]
    pub a: String,
    /// Second target; the first when it is not given, to compare two models, variants or plans of one server.
    #[arg(long)]
    pub b: Option<String>,
    /// Model that the first side asks for: `name`, `name@alias` or `name@variant`.
    #[arg(long)]
    pub a_model: Option<String>,
    /// Model that the second side asks for.
    #[arg(long)]
    pub b_model: Option<String>,
    /// How the first side's requests differ: `clients=64,words=18`. Keys as in `run --class`.
    #[arg(long, value_name = "KEY=VALUE,..")]
    pub a_plan: Option<Overrides>,
    /// How the second side's requests differ.
    #[arg(long, value_name = "KEY=VALUE,..")]
    pub b_plan: Option<Overrides>,
    /// Length of a slice.
    #[arg(long, default_value = "1s")]
    pub slice: Time,
    /// Slices of each side.
    #[arg(long, default_value_t = 30)]
    pub slices: u32,
    /// Requests to each side before the first slice, kept out of all figures.
    #[arg(long, default_value_t = 100)]
    pub warmup: u64,
    /// Confidence of the intervals.
    #[arg(long, default_value_t = 0.95)]
    pub confidence: f64,
    /// Resamples of the bootstrap.
    #[arg(long, default_value_t = 2_000)]
    pub resamples: u32,
    #[command(flatten)]
    #[expect(missing_docs, reason = "a flattened group; a text here would become the command's")]
    pub stream: Stream,
    /// Exit with 0 even when requests failed.
    #[arg(long)]
    pub allow_errors: bool,
    /// Also write the comparison to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A checked comparison.
#[derive(Debug, Clone)]
pub struct Compare {
    /// A and B.
    pub sides: [Plan; 2],
    /// Of each side.
    pub slices: u32,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

impl TryFrom<CompareArgs> for Compare {
    type Error = BadPlan;

    fn try_from(args: CompareArgs) -> Result<Self, BadPlan> {
        within("--slices", u64::from(args.slices), 5, 100_000)?;
        within("--resamples", u64::from(args.resamples), 100, 1_000_000)?;
        if !(0.5..=0.999).contains(&args.confidence) {
            return Err(BadPlan(format!("--confidence {} is not in 0.5..=0.999", args.confidence)));
        }
        if args.slice.0 > Duration::from_secs(600) {
            return Err(BadPlan("--slice is over 10 minutes: sides that far apart do not meet the same conditions".into()));
        }
        let side = |url: &str, model: Option<String>, overrides: Option<Overrides>| {
            let mut stream = overrides.unwrap_or_default().apply(&args.stream);
            stream.model = model.or(stream.model);
            Plan::new(url, &stream, Until::Elapsed(args.slice.0), args.warmup)
        };
        let a = side(&args.a, args.a_model, args.a_plan)?;
        let b = side(args.b.as_deref().unwrap_or(&args.a), args.b_model, args.b_plan)?;
        let bootstrap = Bootstrap { resamples: args.resamples, level: args.confidence, seed: args.stream.seed };
        Ok(Self { sides: [a, b], slices: args.slices, bootstrap })
    }
}

/// Warms both sides up, alternates them and compares. An interrupt (Ctrl-C) ends it after whole pairs.
pub async fn compare(compare: &Compare, progress: &ProgressBar) -> Comparison {
    let stop = Stop::default();
    let interrupt = stop.on_interrupt();
    let mut seats = compare.sides.each_ref().map(|it| Seat { clients: load::clients(it), total: Account::new(), slices: Vec::new() });
    for (plan, seat) in compare.sides.iter().zip(&mut seats) {
        let warm = Plan { until: Until::Requests(plan.warmup), rate: None, ..plan.clone() };
        seat.measure(warm, &stop, &ProgressBar::hidden()).await;
    }
    let mut order = Random::new(compare.bootstrap.seed, u64::MAX);
    for pair in 0..compare.slices {
        let first = order.below(2) as usize;
        let mut slices = [None, None];
        for side in [first, 1 - first] {
            let plan = &compare.sides[side];
            // The same texts for both sides of a pair, others in the next.
            let plan = Plan { seed: plan.seed.wrapping_add(u64::from(pair)), ..plan.clone() };
            slices[side] = Some(seats[side].measure(plan, &stop, progress).await);
        }
        if stop.asked() {
            break;
        }
        for (seat, slice) in seats.iter_mut().zip(slices) {
            let Some((slice, account)) = slice else { continue };
            seat.slices.push(slice);
            seat.total.merge(&account);
        }
    }
    interrupt.abort();
    progress.finish_and_clear();
    let [a, b] = seats.map(|it| (it.total, it.slices));
    Comparison::new(compare, &a, &b, stop.asked())
}

struct Seat {
    clients: Vec<Client>,
    total: Account,
    slices: Vec<Slice>,
}

impl Seat {
    async fn measure(&mut self, plan: Plan, stop: &Stop, progress: &ProgressBar) -> (Slice, Account) {
        let clients = std::mem::take(&mut self.clients);
        let mut slice = Slice::default();
        let mut account = Account::new();
        for done in load::all(vec![(plan, clients)], stop, progress).await {
            slice = Slice::new(&done.account, done.elapsed);
            self.clients = done.clients;
            account = done.account;
        }
        (slice, account)
    }
}
