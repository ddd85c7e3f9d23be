//! Whether a plan can reach a verdict, and when. Enters: a configuration, a rate. Leaves: what each phase needs and how long that takes if
//! canary and baseline are equal. Never: a promise; `akidb-loadtest rehearse` tells chances.
//!
//! Requests: the real bets on errors, fed second by second with what the expected rate gives two lanes without errors, until they prove
//! *within the margin*. Probes: the least a promotion needs, at the rate that the budget allows.

use akidb_domain::decision::config::{Phase, Unit};
use akidb_domain::decision::lanes::Errors;
use akidb_domain::decision::look::{Answers, Window};
use akidb_domain::decision::{Config, Guardrail};
use akidb_domain::snapshot::ProbeBudget;
use serde::{Deserialize, Serialize};

use crate::catalog::CatalogError;
use crate::db::{Conn, lanes};

/// Longest stretch that is counted through, s: a week.
const MOST_SECONDS: u64 = 7 * 86_400;
/// Engine time of a batch where nobody says: a short text on two cores.
const BATCH_MS: f64 = 10.0;

/// What is expected of the traffic.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expect {
    /// Requests a second of the model, over the fleet, that take part.
    pub(crate) requests_per_second: Option<f64>,
    /// Engine time of a batch, ms.
    pub(crate) batch_ms: Option<f64>,
    /// Devices that probe.
    pub(crate) sidecars: u32,
    /// Length of a look, ms.
    pub(crate) look_ms: u64,
    measured: bool,
}

impl Expect {
    pub(crate) const fn new(requests_per_second: Option<f64>, batch_ms: Option<f64>, sidecars: u32, look_ms: u64) -> Self {
        Self { requests_per_second, batch_ms, sidecars, look_ms, measured: false }
    }
}

/// What a plan needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Every phase can reach a verdict within its duration, as far as anybody knows.
    pub(crate) reachable: bool,
    /// Requests a second; null: nobody said, and the ledger has none.
    pub(crate) requests_per_second: Option<f64>,
    /// `given`, `ledger` (of the last day) or `unknown`.
    pub(crate) rate: String,
    /// Until 100 %, if nothing is worse than its margin; null without a rate.
    pub(crate) expected_minutes: Option<f64>,
    pub(crate) phases: Vec<PhasePlan>,
    pub(crate) warnings: Vec<String>,
}

/// What a phase needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PhasePlan {
    pub(crate) share_ppm: u32,
    /// In the canary's compared lane; null: more than a week's traffic at this rate.
    pub(crate) canary_requests: Option<u64>,
    pub(crate) probes: u64,
    pub(crate) expected_minutes: Option<f64>,
    pub(crate) duration_minutes: f64,
}

impl Plan {
    /// Why it cannot reach a verdict.
    pub(crate) fn problem(&self) -> Option<String> {
        (!self.reachable).then(|| self.warnings.first().cloned().unwrap_or_default())
    }
}

/// Takes the rate from the ledger where nobody gave one.
pub(crate) async fn measured(conn: &mut Conn, model: &str, expect: Expect, now_ns: u64) -> Result<Expect, CatalogError> {
    if expect.requests_per_second.is_some() {
        return Ok(expect);
    }
    let hour = (now_ns / 3_600_000_000_000) as i64;
    let (requests, hours) = lanes::requests_since(conn, model, hour - 23).await?;
    let rate = (requests > 0).then(|| requests as f64 / (hours as f64 * 3_600.0));
    Ok(Expect { requests_per_second: rate, measured: rate.is_some(), ..expect })
}

/// What a checked configuration needs.
pub(crate) fn of(config: &Config, probe: ProbeBudget, expect: Expect) -> Plan {
    let phases: Vec<PhasePlan> = config.phases.iter().map(|it| phase(config, it, probe, expect)).collect();
    let mut warnings: Vec<String> = phases.iter().filter_map(|it| late(it, expect)).collect();
    let reachable = warnings.is_empty();
    warnings.extend((0..phases.len()).filter_map(|at| hasty(config, at, &phases[at], expect.look_ms)));
    if expect.requests_per_second.is_none() {
        warnings.push("nobody said how many requests a second to expect, and the ledger has none: how long it takes is unknown".to_owned());
    }
    if expect.measured {
        warnings.push("the rate is that of the hours with traffic within the last day".to_owned());
    }
    let burn_in = config.burn_in_ms as f64 / 60_000.0;
    let expected_minutes = phases.iter().map(|it| it.expected_minutes).sum::<Option<f64>>().map(|it| burn_in + it);
    let rate = match (expect.requests_per_second, expect.measured) {
        (None, _) => "unknown",
        (Some(_), true) => "ledger",
        (Some(_), false) => "given",
    };
    Plan { reachable, requests_per_second: expect.requests_per_second, rate: rate.to_owned(), expected_minutes, phases, warnings }
}

fn phase(config: &Config, phase: &Phase, probe: ProbeBudget, expect: Expect) -> PhasePlan {
    let lane = phase.lanes()[0];
    let rate = expect.requests_per_second.map(|it| it * lane);
    let proven = rate.and_then(|rate| requests_until_proven(config, rate));
    let canary_requests = match rate {
        None => Some(phase.min_canary_requests),
        Some(_) => proven.map(|it| it.max(phase.min_canary_requests)),
    };
    let by_requests = rate.zip(canary_requests).map(|(rate, requests)| requests as f64 / rate / 60.0);
    let by_probes = probes_per_second(probe, expect).map(|rate| config.min_probes as f64 / rate / 60.0);
    let soak = phase.soak_ms as f64 / 60_000.0;
    PhasePlan {
        share_ppm: phase.share_ppm,
        canary_requests,
        probes: config.min_probes,
        expected_minutes: by_requests.zip(by_probes).map(|(a, b)| a.max(b).max(soak)).filter(|it| it.is_finite()),
        duration_minutes: phase.duration_ms as f64 / 60_000.0,
    }
}

/// Requests of the canary's lane until errors are proven to be within their margin, at a rate and without any error.
fn requests_until_proven(config: &Config, rate: f64) -> Option<u64> {
    let (mut errors, needed, mut owed) = (Errors::default(), -config.alpha.ln(), 0.0);
    for _ in 0..MOST_SECONDS {
        owed += rate;
        let answers = Answers { requests: owed as u64, errors: 0 };
        owed -= answers.requests as f64;
        errors.push(Window { canary: answers, control: answers }, config.margins.errors, config.unit == Unit::Sticky);
        if errors.within.log_e() >= needed {
            return Some(errors.canary.requests);
        }
    }
    None
}

/// Each probe pays for three runs, one of them untimed; a batch is needed for each, so there are no more than requests.
fn probes_per_second(probe: ProbeBudget, expect: Expect) -> Option<f64> {
    let (rate, batch_s) = (expect.requests_per_second?, expect.batch_ms.unwrap_or(BATCH_MS) / 1e3);
    let devices = f64::from(expect.sidecars.max(1));
    let idle = (1.0 - rate * batch_s / devices).clamp(0.0, 1.0);
    let budget = (f64::from(probe.device_ppm) + idle * f64::from(probe.idle_ppm)) / 1e6;
    Some((devices * budget / (3.0 * batch_s)).min(rate))
}

fn late(it: &PhasePlan, expect: Expect) -> Option<String> {
    let rate = expect.requests_per_second?;
    let share = f64::from(it.share_ppm) / 1e4;
    let needs = it.canary_requests.map_or_else(|| "more than a week's".to_owned(), |n| n.to_string());
    let minutes = it.expected_minutes.filter(|_| it.canary_requests.is_some());
    if minutes.is_some_and(|it_takes| it_takes <= it.duration_minutes) {
        return None;
    }
    let time = minutes.map_or_else(|| "no end in sight".to_owned(), |it| format!("about {it:.1} minutes"));
    Some(format!(
        "at {rate:.2} requests a second the phase of {share} % cannot reach a verdict: it needs {needs} canary requests and {} probes, {time}, and lasts {:.1}",
        it.probes, it.duration_minutes
    ))
}

/// Latency is bet on once a look, and no promotion waits for it: a phase that is proven in few looks has grown before latency can alarm.
fn hasty(config: &Config, at: usize, it: &PhasePlan, look_ms: u64) -> Option<String> {
    let tests = 1 + u32::from(config.slo.is_some());
    let needed = -config.roll_back_alpha(Guardrail::Latency, at, tests).ln();
    // The first look sets the threshold, the second the scale; the boldest bettor has 0.39 of the capital and wins 1.9 times what it has.
    let looks = 2.0 + ((needed - 0.39f64.ln()) / 1.9f64.ln()).ceil();
    let alarm_ms = looks * look_ms as f64;
    let lasts_ms = (it.expected_minutes? * 60_000.0).max(config.phases[at].soak_ms as f64);
    (lasts_ms < alarm_ms).then(|| {
        format!(
            "the phase of {} % may grow before users' latency can alarm, which takes {looks} looks of {:.0} s: a soak_ms of {alarm_ms} waits for it",
            f64::from(it.share_ppm) / 1e4,
            look_ms as f64 / 1e3
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: Option<f64>) -> Plan {
        of(&Config::default(), ProbeBudget::default(), Expect::new(rate, None, 1, 10_000))
    }

    #[test]
    fn a_busy_model_is_proven_within_its_phases() {
        let plan = plan(Some(50.0));
        assert!(plan.reachable && plan.problem().is_none(), "{plan:?}");
        // About what rehearsals at light load need: 1,073 (docs/EXPERIMENTS.md).
        let requests = plan.phases[0].canary_requests.unwrap();
        assert!((1_000..1_200).contains(&requests), "{plan:?}");
        // Half busy: 0.5 % + half of 1 % of the time, 30 ms a probe. The requests are there sooner.
        let by_probes = 200.0 / (0.01 / 0.03) / 60.0;
        assert!((plan.phases[0].expected_minutes.unwrap() - by_probes).abs() < 0.01, "{plan:?}");
        assert!(requests as f64 / 2.5 / 60.0 < by_probes, "{plan:?}");
        assert!(plan.expected_minutes.unwrap() < 60.0, "{plan:?}");
    }

    #[test]
    fn a_quiet_model_is_told_so_before_it_starts() {
        let plan = plan(Some(0.5));
        let problem = plan.problem().unwrap();
        for part in
            ["at 0.50 requests a second the phase of 5 % cannot reach a verdict", "1000 canary requests and 200 probes", "lasts 60.0"]
        {
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn without_a_rate_nothing_is_promised() {
        let plan = plan(None);
        assert!(plan.reachable && plan.expected_minutes.is_none() && plan.warnings[0].contains("unknown"), "{plan:?}");
    }

    #[test]
    fn a_margin_that_needs_more_requests_says_how_many() {
        let mut config = Config::default();
        config.margins.errors = 0.0005;
        let plan = of(&config, ProbeBudget::default(), Expect::new(Some(50.0), None, 1, 10_000));
        assert!(plan.phases[0].canary_requests.unwrap() > 3_000, "{plan:?}");
    }

    #[test]
    fn a_phase_that_is_proven_before_latency_can_alarm_is_told_so() {
        let mut config = Config::default();
        let busy = Expect::new(Some(50_000.0), None, 500, 10_000);
        let said = of(&config, ProbeBudget::default(), busy).warnings;
        assert!(
            said[0]
                .contains("the phase of 5 % may grow before users' latency can alarm, which takes 11 looks of 10 s: a soak_ms of 110000"),
            "{said:?}"
        );
        config.phases.iter_mut().for_each(|it| it.soak_ms = 200_000);
        assert_eq!(of(&config, ProbeBudget::default(), busy).warnings, Vec::<String>::new());
    }
}
