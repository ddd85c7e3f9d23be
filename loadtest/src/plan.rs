//! What to send, how fast and until when.
//!
//! Enters: the words of a command line. Leaves: a checked [`Run`] of [`Plan`]s, or a sentence that names the option and the value. Never: I/O.

mod class;
mod target;
mod time;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

pub use class::{Class, Overrides};
pub use target::Target;
pub use time::Time;

use crate::texts::Mix;
use crate::watch::Watch;

/// A value that cannot be meant; the message names the option, the value and what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPlan(pub String);

/// Options of `akidb-loadtest run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Where to send requests, e.g. `http://127.0.0.1:8080/api/v1/embed`.
    #[arg(long)]
    pub url: String,
    /// Length of the run: `30s`, `500ms`, `2m`, `1h`. 10 s when `--requests` is not given either.
    #[arg(long, conflicts_with = "requests")]
    pub duration: Option<Time>,
    /// Requests to send (of each class).
    #[arg(long)]
    pub requests: Option<u64>,
    /// Requests sent before the measurement (of each class), kept out of its figures.
    #[arg(long, default_value_t = 0)]
    pub warmup: u64,
    /// A class of requests, reported apart; may be given several times and all run at once. `short:clients=1,words=18` or
    /// `bulk:rate=500,app=bulk,mix=6-20:70,40-80:20`. Keys: `clients`, `rate`, `words`, `mix`, `batch`, `app`, `model`; what a class does
    /// not say is as the run's own options say.
    #[arg(long, value_name = "NAME:KEY=VALUE,..")]
    pub class: Vec<Class>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "a flattened group; a text here would become the command's")]
    pub stream: Stream,
    #[command(flatten)]
    #[expect(missing_docs, reason = "a flattened group; a text here would become the command's")]
    pub watch: WatchArgs,
    /// Where the server's metrics are, for batch sizes. Default: `/metrics` beside `--url`; a server without one is no error.
    #[arg(long, value_name = "URL")]
    pub metrics: Option<String>,
    /// Exit with 0 even when requests failed.
    #[arg(long)]
    pub allow_errors: bool,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

// Not a doc comment: clap would make it the description of the commands that flatten it.
#[derive(Debug, Clone, Args)]
#[expect(missing_docs, reason = "see above: options of one stream of requests")]
pub struct Stream {
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Requests a second, due at fixed times whatever the server does (open loop); latency then counts from the time a request was due.
    /// Without it each client sends its next request when it has the answer to the last (closed loop).
    #[arg(long)]
    pub rate: Option<f64>,
    /// Words in each text.
    #[arg(long, default_value_t = 18, conflicts_with = "mix")]
    pub words: u32,
    /// Words in each text, drawn from weighted ranges: `6-20:70,40-80:20,120-180:10`.
    #[arg(long)]
    pub mix: Option<Mix>,
    /// Texts in each request; from 2 on they are sent as `texts`.
    #[arg(long, default_value_t = 1)]
    pub batch: u32,
    /// Model to ask for: `name`, `name@alias` or `name@variant`. The server's default without it.
    #[arg(long)]
    pub model: Option<String>,
    /// Application to send as: the header `x-akidb-app`.
    #[arg(long)]
    pub app: Option<String>,
    /// A request without an answer after this long has failed.
    #[arg(long, default_value = "30s")]
    pub timeout: Time,
    /// Texts depend on this number and on the request's position alone.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Make so many different requests before the start and send them in turn, so that making texts costs nothing during the run.
    #[arg(long, value_name = "N")]
    pub distinct: Option<u32>,
    /// Ask for vectors as base64 instead of numbers.
    #[arg(long)]
    pub base64: bool,
    /// Connect to this Unix socket; `--url` still gives path and host.
    #[arg(long, value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,
    /// Count an answer with fewer or more vectors than texts as failed. Costs the client a pass over each answer.
    #[arg(long)]
    pub check: bool,
}

// Not a doc comment: see `Stream`.
#[derive(Debug, Clone, Args)]
#[expect(missing_docs, reason = "options of the watch over a process")]
pub struct WatchArgs {
    /// Process whose resident memory and open files are sampled from /proc during the run.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Time between samples of `--pid`.
    #[arg(long, default_value = "1s")]
    pub sample_every: Time,
    /// The slopes of memory and files are fitted to samples from this time of the run on.
    #[arg(long, default_value = "3m")]
    pub slope_after: Time,
    /// Keep sampling `--pid` this long after the last answer, to see memory come back to its floor.
    #[arg(long)]
    pub settle: Option<Time>,
}

/// A checked run: one stream of requests, or several at once.
#[derive(Debug, Clone)]
pub struct Run {
    /// At least one.
    pub classes: Vec<Plan>,
    /// The process to watch.
    pub watch: Option<Watch>,
    /// Where batch sizes are read.
    pub metrics: Target,
}

/// A checked stream of requests.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The class's name, where a run has classes.
    pub name: Option<String>,
    /// `host:port` and path.
    pub target: Target,
    /// Connections.
    pub clients: usize,
    /// When to stop.
    pub until: Until,
    /// Requests a second; `None` is a closed loop.
    pub rate: Option<f64>,
    /// Lengths of texts, in words.
    pub mix: Mix,
    /// Texts a request.
    pub batch: u32,
    /// Model reference.
    pub model: Option<String>,
    /// `x-akidb-app`.
    pub app: Option<String>,
    /// Requests before the measurement.
    pub warmup: u64,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Of the texts.
    pub seed: u64,
    /// Different requests, made beforehand; `None`: each request has texts of its own.
    pub distinct: Option<u32>,
    /// Whether vectors are asked for as base64.
    pub base64: bool,
    /// Unix socket to connect to instead of the target's address.
    pub socket: Option<PathBuf>,
    /// Whether vectors are counted.
    pub check: bool,
}

/// When a run stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// No request is started after this long.
    Elapsed(Duration),
    /// After this many requests.
    Requests(u64),
}

impl Plan {
    /// A checked stream to `url`.
    pub fn new(url: &str, stream: &Stream, until: Until, warmup: u64) -> Result<Self, BadPlan> {
        within("--clients", stream.clients as u64, 1, 100_000)?;
        within("--words", u64::from(stream.words), 1, 100_000)?;
        within("--batch", u64::from(stream.batch), 1, 100_000)?;
        within("--distinct", u64::from(stream.distinct.unwrap_or(1)), 1, 1_000_000)?;
        if let Some(rate) = stream.rate.filter(|it| !(0.001..=10_000_000.0).contains(it)) {
            return Err(BadPlan(format!("--rate {rate} is not in 0.001..=10000000 requests a second")));
        }
        if let Some(app) = stream.app.as_ref().filter(|it| hyper::header::HeaderValue::from_str(it).is_err() || it.is_empty()) {
            return Err(BadPlan(format!("--app `{app}` cannot be a header's value")));
        }
        Ok(Self {
            name: None,
            target: url.parse()?,
            clients: stream.clients,
            until,
            rate: stream.rate,
            mix: stream.mix.clone().unwrap_or_else(|| Mix::constant(stream.words)),
            batch: stream.batch,
            model: stream.model.clone(),
            app: stream.app.clone(),
            warmup,
            timeout: stream.timeout.0,
            seed: stream.seed,
            distinct: stream.distinct,
            base64: stream.base64,
            socket: stream.unix_socket.clone(),
            check: stream.check,
        })
    }

    /// How many requests an open loop has scheduled when it ends, and any loop that counts requests; `None`: the clock decides.
    pub fn total(&self) -> Option<u64> {
        match (self.until, self.rate) {
            (Until::Requests(n), _) => Some(n),
            (Until::Elapsed(length), Some(rate)) => Some((length.as_secs_f64() * rate).ceil() as u64),
            (Until::Elapsed(_), None) => None,
        }
    }

    /// When request `index` is due, from the start of the run; always now in a closed loop.
    pub fn due(&self, index: u64) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(index as f64 / rate))
    }
}

impl TryFrom<RunArgs> for Run {
    type Error = BadPlan;

    fn try_from(args: RunArgs) -> Result<Self, BadPlan> {
        within("--requests", args.requests.unwrap_or(1), 1, 1_000_000_000_000)?;
        let until = match (args.requests, args.duration) {
            (Some(n), _) => Until::Requests(n),
            (None, length) => Until::Elapsed(length.map_or(Duration::from_secs(10), |it| it.0)),
        };
        let whole = Plan::new(&args.url, &args.stream, until, args.warmup)?;
        let mut classes = Vec::new();
        for (class, n) in args.class.iter().zip(0..) {
            let name = class.name.clone();
            if classes.iter().any(|it: &Plan| it.name.as_ref() == Some(&name)) {
                return Err(BadPlan(format!("--class {name} is given twice")));
            }
            let mut stream = class.overrides.apply(&args.stream);
            // Classes of one length must not send the same texts.
            stream.seed = stream.seed.wrapping_add(n);
            let plan = Plan::new(&args.url, &stream, until, args.warmup).map_err(|it| BadPlan(format!("--class {name}: {it}")))?;
            classes.push(Plan { name: Some(name), ..plan });
        }
        let metrics = args.metrics.map_or_else(|| Ok(whole.target.at("/metrics")), |url| url.parse())?;
        if classes.is_empty() {
            classes.push(whole);
        }
        Ok(Self { classes, watch: args.watch.watch(), metrics })
    }
}

impl WatchArgs {
    fn watch(&self) -> Option<Watch> {
        let settle = self.settle.map_or(Duration::ZERO, |it| it.0);
        self.pid.map(|pid| Watch { pid, every: self.sample_every.0, slope_after: self.slope_after.0, settle })
    }
}

pub(crate) fn within(option: &str, value: u64, least: u64, most: u64) -> Result<(), BadPlan> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(BadPlan(format!("{option} {value} is not in {least}..={most}"))) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn plan(options: &str) -> Result<Plan, String> {
        let line = format!("run --url http://h:1/e {options}");
        let line = Line::try_parse_from(line.split_whitespace()).map_err(|it| it.to_string())?;
        let run = Run::try_from(line.args).map_err(|it| it.to_string())?;
        Ok(run.classes.into_iter().next_back().unwrap())
    }

    #[test]
    fn an_open_loop_knows_its_total_and_its_schedule() {
        let open = plan("--rate 200 --duration 2s").unwrap();
        assert_eq!((open.total(), open.due(100)), (Some(400), Some(Duration::from_millis(500))));
        let closed = plan("--duration 2s").unwrap();
        assert_eq!((closed.total(), closed.due(100)), (None, None));
        assert_eq!(plan("--requests 7").unwrap().total(), Some(7));
    }

    #[test]
    fn each_bad_value_is_named() {
        let check = |options: &str, expected: &str| {
            let error = plan(options).unwrap_err();
            assert!(error.contains(expected), "{options}: {error}");
        };
        check("--clients 0", "--clients 0 is not in 1..=100000");
        check("--rate 0", "--rate 0 is not in");
        check("--rate nan", "--rate NaN is not in");
        check("--requests 0", "--requests 0 is not in");
        check("--distinct 0", "--distinct 0 is not in 1..=1000000");
        check("--mix 20-6:1", "20-6:1");
        check("--requests 1 --duration 1s", "cannot be used with");
        check("--class a:words=0", "--class a: --words 0 is not in");
        check("--class a:words=1 --class a:words=2", "--class a is given twice");
    }

    #[test]
    fn a_class_inherits_what_it_does_not_say() {
        let last = plan("--clients 3 --rate 9 --mix 6-20:1 --app web --seed 5 --class a:clients=1 --class b:words=150,app=bulk").unwrap();
        assert_eq!((last.name.as_deref(), last.clients, last.rate, last.app.as_deref()), (Some("b"), 3, Some(9.0), Some("bulk")));
        assert_eq!((last.mix.to_string().as_str(), last.seed), ("150", 6));
    }
}
