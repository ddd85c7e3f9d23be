//! What to send, how fast and until when.
//!
//! Enters: the words of a command line. Leaves: a checked [`Plan`], or a sentence that names the option and the value. Never: I/O.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use hyper::Uri;

use crate::texts::Mix;

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
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Length of the run: `30s`, `500ms`, `2m`, `1h`. 10 s when `--requests` is not given either.
    #[arg(long, conflicts_with = "requests")]
    pub duration: Option<Time>,
    /// Requests to send.
    #[arg(long)]
    pub requests: Option<u64>,
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
    /// Requests sent before the measurement, kept out of its figures.
    #[arg(long, default_value_t = 0)]
    pub warmup: u64,
    /// A request without an answer after this long has failed.
    #[arg(long, default_value = "30s")]
    pub timeout: Time,
    /// Texts depend on this number and on the request's position alone.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Count an answer with fewer or more vectors than texts as failed. Costs the client a pass over each answer.
    #[arg(long)]
    pub check: bool,
    /// Exit with 0 even when requests failed.
    #[arg(long)]
    pub allow_errors: bool,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A checked run.
#[derive(Debug, Clone)]
pub struct Plan {
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
    /// Requests before the measurement.
    pub warmup: u64,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Of the texts.
    pub seed: u64,
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

/// Where requests go: plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As given.
    pub url: String,
    /// `host:port`, for the connection.
    pub address: String,
    /// For the `host` header.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl Plan {
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

impl TryFrom<RunArgs> for Plan {
    type Error = BadPlan;

    fn try_from(args: RunArgs) -> Result<Self, BadPlan> {
        within("--clients", args.clients as u64, 1, 100_000)?;
        within("--words", u64::from(args.words), 1, 100_000)?;
        within("--batch", u64::from(args.batch), 1, 100_000)?;
        within("--requests", args.requests.unwrap_or(1), 1, 1_000_000_000_000)?;
        if let Some(rate) = args.rate.filter(|it| !(0.001..=10_000_000.0).contains(it)) {
            return Err(BadPlan(format!("--rate {rate} is not in 0.001..=10000000 requests a second")));
        }
        let until = match (args.requests, args.duration) {
            (Some(n), _) => Until::Requests(n),
            (None, length) => Until::Elapsed(length.map_or(Duration::from_secs(10), |it| it.0)),
        };
        Ok(Self {
            target: args.url.parse()?,
            clients: args.clients,
            until,
            rate: args.rate,
            mix: args.mix.unwrap_or_else(|| Mix::constant(args.words)),
            batch: args.batch,
            model: args.model,
            warmup: args.warmup,
            timeout: args.timeout.0,
            seed: args.seed,
            check: args.check,
        })
    }
}

fn within(option: &str, value: u64, least: u64, most: u64) -> Result<(), BadPlan> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(BadPlan(format!("{option} {value} is not in {least}..={most}"))) }
}

impl FromStr for Target {
    type Err = BadPlan;

    fn from_str(url: &str) -> Result<Self, BadPlan> {
        let bad = |why: &str| BadPlan(format!("--url `{url}` {why}: write e.g. `http://127.0.0.1:8080/api/v1/embed`"));
        let uri: Uri = url.parse().map_err(|_| bad("is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("does not start with http://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("has no host"))?;
        let path = uri.path_and_query().map_or("/", |it| it.as_str());
        Ok(Self {
            url: url.to_owned(),
            address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)),
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }
}

/// A stretch of time with its unit: `500ms`, `30s`, `2m`, `1h`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<Self, BadPlan> {
        let bad = || BadPlan(format!("`{text}` is not a time of 1ms to 1000h: write e.g. `500ms`, `30s`, `2m` or `1h`"));
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let seconds = match &text[digits.len()..] {
            "ms" => 0.001,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(bad()),
        };
        let seconds = seconds * digits.parse::<f64>().map_err(|_| bad())?;
        if (0.001..=3_600_000.0).contains(&seconds) { Ok(Self(Duration::from_secs_f64(seconds))) } else { Err(bad()) }
    }
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
        Plan::try_from(line.args).map_err(|it| it.to_string())
    }

    #[test]
    fn times_have_units() {
        let check = |text: &str, ms: u64| assert_eq!(text.parse(), Ok(Time(Duration::from_millis(ms))), "{text}");
        check("500ms", 500);
        check("30s", 30_000);
        check("1.5m", 90_000);
        check("1h", 3_600_000);
        check("7", 7_000);
        for text in ["", "s", "-1s", "0", "1d", "nan", "inf"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_names_its_port_and_path() {
        let target: Target = "http://localhost/api?x=1".parse().unwrap();
        assert_eq!((target.address.as_str(), target.path.as_str()), ("localhost:80", "/api?x=1"));
        let target: Target = "http://[::1]:8080".parse().unwrap();
        assert_eq!((target.address.as_str(), target.path.as_str()), ("[::1]:8080", "/"));
        assert!("https://h/".parse::<Target>().unwrap_err().to_string().contains("does not start with http://"));
        assert!("h:80".parse::<Target>().is_err());
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
        check("--mix 20-6:1", "20-6:1");
        check("--requests 1 --duration 1s", "cannot be used with");
    }
}
