//! What leaves a look: the verdict, every guardrail's evidence, and what the sidecars should do next.
//!
//! Enters: nothing. Leaves: plain values. Never: a float that JSON cannot hold.

use serde::{Deserialize, Serialize};

use super::quantile::LatencyInterval;

/// What a rollout watches, in the order of its vetoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guardrail {
    /// Units arrive in the lanes in the shares they should.
    SampleRatio,
    /// Nothing is absent from the counts.
    MissingData,
    /// Sidecars that serve the canary are lost no faster.
    Crash,
    /// Requests fail no more often.
    Errors,
    /// The engine is no slower.
    Speed,
    /// Users wait no longer.
    Latency,
    /// The vectors retrieve the same.
    Quality,
    /// A batch costs no more.
    Cost,
}

impl Guardrail {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SampleRatio => "sample-ratio",
            Self::MissingData => "missing-data",
            Self::Crash => "crash",
            Self::Errors => "errors",
            Self::Speed => "speed",
            Self::Latency => "latency",
            Self::Quality => "quality",
            Self::Cost => "cost",
        }
    }
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "stage", content = "phase")]
pub enum Stage {
    /// Both arms on the baseline.
    #[default]
    BurnIn,
    /// In this phase, from 0.
    Phase(usize),
    /// At 100 %.
    Complete,
    /// At 0 %.
    RolledBack,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// The share stays; this is still to come.
    Wait {
        /// In words.
        missing: Vec<String>,
    },
    /// The share grows.
    Promote {
        /// To this, in parts in a million.
        share_ppm: u32,
    },
    /// The share becomes 0.
    RollBack {
        /// Which one proved it worse than its margin; none: no verdict within twice the phase's duration.
        guardrail: Option<Guardrail>,
    },
    /// The share stays and somebody should look.
    Inconclusive {
        /// What is missing, in words.
        missing: Vec<String>,
    },
}

/// What one test knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Guardrail.
    pub guardrail: Guardrail,
    /// The test, where a guardrail has several.
    pub test: String,
    /// Probes, requests, units or looks it rests on, as the test counts.
    pub n: u64,
    /// The canary's figure.
    pub canary: Option<f64>,
    /// The baseline's or control's figure, where there are two.
    pub baseline: Option<f64>,
    /// Evidence that it is worse than its margin.
    pub worse: Option<Strength>,
    /// Evidence that it is within its margin.
    pub within: Option<Strength>,
    /// Why it acts or does not, where the numbers do not say it.
    pub note: Option<String>,
}

/// An e-value beside what it must reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// ln E.
    pub log_e: f64,
    /// ln(1/alpha) of this test; `None`: it never acts.
    pub needed: Option<f64>,
}

impl Strength {
    /// Evidence of a test with error probability `alpha`.
    pub fn at(log_e: f64, alpha: f64) -> Self {
        Self { log_e, needed: Some(-libm::log(alpha)) }
    }

    /// Whether it is enough to act.
    pub fn acts(&self) -> bool {
        self.needed.is_some_and(|it| self.log_e >= it)
    }
}

/// Users' p95 (or the quantile of the plan) in the two lanes, this stage so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// ns; `None` without requests.
    pub canary_ns: Option<u64>,
    /// ns; `None` without requests.
    pub control_ns: Option<u64>,
    /// Interval, i.i.d.
    pub canary: Option<LatencyInterval>,
    /// Interval, i.i.d.
    pub control: Option<LatencyInterval>,
}

/// How often to probe until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probing {
    /// As often as the budget allows.
    Budget,
    /// A fiftieth of it: what probes can prove is proven.
    Trickle,
    /// Not at all: nothing to compare.
    Off,
}

/// What the next look's exceedances are counted against, for one token-length bucket, as sketch bucket indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    /// In the control lane.
    pub control: i32,
    /// In the canary's: a margin higher.
    pub canary: i32,
}

/// Everything that is said after a look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Look.
    pub look: u64,
    /// Stage in which its counts were made.
    pub stage: Stage,
    /// What to do.
    pub verdict: Verdict,
    /// Every guardrail has proven its point; only time (soak) may be missing.
    pub proven: bool,
    /// Why, for people.
    pub reason: String,
    /// `ROLLOUT: canary P95 8ms vs baseline 26ms (69% improvement); error rate 0.02% vs 0.02%`.
    pub sentence: String,
    /// In the order of vetoes.
    pub evidence: Vec<Evidence>,
    /// What users see.
    pub latencies: Latencies,
    /// Probes so far in this stage.
    pub probes: u64,
    /// Requests of the canary's compared lane so far in this stage.
    pub canary_requests: u64,
    /// For the sidecars, until the next look.
    pub probing: Probing,
    /// For the sidecars, by token-length bucket; `None` until the control lane has had a request in it.
    pub thresholds: Vec<Option<Threshold>>,
}
