//! A verdict in plain words, and the one-line sentence.
//!
//! Enters: a verdict and its evidence. Leaves: text. Never: a claim that the evidence does not hold.

use super::config::Config;
use super::state::{State, Tests};
use super::verdict::{Evidence, Guardrail, Latencies, Stage, Verdict};

/// Why.
pub(super) fn reason(config: &Config, state: &State, verdict: &Verdict, evidence: &[Evidence]) -> String {
    let (probes, requests) = (state.tests.probes.count(), state.tests.errors.canary.requests);
    let now = share(state.share_ppm(config));
    match verdict {
        Verdict::Promote { share_ppm } if state.stage == Stage::BurnIn => {
            format!("the burn-in showed no difference: the share grows to {}", share(*share_ppm))
        }
        Verdict::Promote { share_ppm } => format!(
            "speed, quality, cost and errors are each within their margins at alpha {} after {probes} probes and {requests} canary requests, and no guardrail alarms: the share grows from {now} to {}",
            config.alpha,
            share(*share_ppm)
        ),
        Verdict::RollBack { guardrail: None } => {
            format!("no verdict within twice the time that was planned ({} so far): rolled back from {now}", time(state.tests.elapsed_ms))
        }
        Verdict::RollBack { guardrail: Some(Guardrail::Crash) } if state.tests.crash.alone >= config.max_crashes => {
            format!("{} sidecars that serve the canary were lost: rolled back from {now}", state.tests.crash.canary)
        }
        Verdict::RollBack { guardrail: Some(guardrail) } => {
            let acting = evidence.iter().filter(|it| it.guardrail == *guardrail && it.worse.is_some_and(|it| it.acts()));
            let proofs: Vec<String> = acting.map(worse).collect();
            format!("{}: rolled back from {now}", proofs.join("; "))
        }
        Verdict::Inconclusive { missing } => format!("the share stays at {now}; missing: {}", missing.join("; ")),
        Verdict::Wait { missing } => format!("the share stays at {now} for now; still to come: {}", missing.join("; ")),
    }
}

/// `ROLLOUT: canary P95 8ms vs baseline 26ms (69% improvement); error rate 0.02% vs 0.02%`. The baseline is the lane compared with.
pub(super) fn sentence(verdict: &Verdict, tests: &Tests, config: &Config, latencies: Latencies) -> String {
    let word = match verdict {
        Verdict::Promote { .. } => "ROLLOUT",
        Verdict::RollBack { .. } => "ROLLBACK",
        Verdict::Inconclusive { .. } => "INCONCLUSIVE",
        Verdict::Wait { .. } => "WAIT",
    };
    let p = format!("P{}", (config.margins.latency_quantile * 1e4).round() / 1e2);
    let change = match (latencies.canary_ns, latencies.control_ns) {
        (Some(canary), Some(control)) if canary < u64::MAX && control < u64::MAX => {
            let change = (100.0 * (canary as f64 / control.max(1) as f64 - 1.0)).round();
            let what = if change > 0.0 { "regression" } else { "improvement" };
            format!("{}% {what}", change.abs())
        }
        _ => "not comparable".to_owned(),
    };
    let rates = tests.errors.rates().map(|it| it.map_or_else(|| "none".to_owned(), |it| format!("{}%", (it * 1e4).round() / 1e2)));
    format!(
        "{word}: canary {p} {} vs baseline {} ({change}); error rate {} vs {}",
        milliseconds(latencies.canary_ns),
        milliseconds(latencies.control_ns),
        rates[0],
        rates[1]
    )
}

/// What one test has not proven yet.
pub(super) fn open(evidence: &Evidence) -> String {
    let strength = evidence.within.map(|it| format!("E = {} of {}", e(it.log_e), e(it.needed.unwrap_or_default())));
    format!("{} within its margin ({}: {})", evidence.guardrail.as_str(), evidence.test, strength.unwrap_or_default())
}

fn worse(evidence: &Evidence) -> String {
    let figure = |it: Option<f64>| {
        it.map_or_else(|| "none".to_owned(), |it| format!("{it:.4}").trim_end_matches('0').trim_end_matches('.').to_owned())
    };
    let strength = evidence.worse.map(|it| format!("E = {}, {} needed", e(it.log_e), e(it.needed.unwrap_or_default())));
    let note = evidence.note.as_ref().map_or_else(String::new, |it| format!(", {it}"));
    format!(
        "{} worse than its margin: {} {} against {} (n = {}{note}; {})",
        evidence.guardrail.as_str(),
        evidence.test,
        figure(evidence.canary),
        figure(evidence.baseline),
        evidence.n,
        strength.unwrap_or_default()
    )
}

fn e(log: f64) -> String {
    let value = libm::exp(log);
    if value >= 1e6 {
        format!("10^{:.0}", log / std::f64::consts::LN_10)
    } else if value >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// A share in percent.
pub(super) fn share(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 1e4)
}

/// A time in minutes.
pub(super) fn time(ms: u64) -> String {
    format!("{} min", (ms as f64 / 6_000.0).round() / 10.0)
}

/// `26ms`; a decimal below 10 ms.
fn milliseconds(ns: Option<u64>) -> String {
    match ns {
        None => "none".to_owned(),
        Some(u64::MAX) => "over 64s".to_owned(),
        Some(ns) => {
            let (ms, digits) = (ns as f64 / 1e6, if ns < 10_000_000 { 10.0 } else { 1.0 });
            format!("{}ms", (ms * digits).round() / digits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::look::Answers;
    use crate::sketch::Sketch;

    /// The seed's line. A sketch's p95 is at most 1.1 % high, so 7.95 ms reads as 8 and 25.9 as 26.
    #[test]
    fn the_sentence_reads_as_promised() {
        let of = |ns: u64| {
            let mut sketch = Sketch::default();
            (0..100).for_each(|_| sketch.record(ns));
            sketch
        };
        let mut tests = Tests { canary_latency: of(7_950_000), control_latency: of(25_700_000), ..Tests::default() };
        tests.errors.canary = Answers { errors: 2, requests: 10_000 };
        tests.errors.control = Answers { errors: 4, requests: 20_000 };
        let check = |verdict: Verdict, canary_ns: Option<u64>, expected: &str| {
            let latencies = Latencies { canary_ns, control_ns: tests.control_latency.quantile(0.95), ..Latencies::default() };
            assert_eq!(sentence(&verdict, &tests, &Config::default(), latencies), expected);
        };
        check(
            Verdict::Promote { share_ppm: 250_000 },
            tests.canary_latency.quantile(0.95),
            "ROLLOUT: canary P95 8ms vs baseline 26ms (69% improvement); error rate 0.02% vs 0.02%",
        );
        check(
            Verdict::RollBack { guardrail: None },
            Some(33_800_000),
            "ROLLBACK: canary P95 34ms vs baseline 26ms (31% regression); error rate 0.02% vs 0.02%",
        );
        check(
            Verdict::Wait { missing: Vec::new() },
            None,
            "WAIT: canary P95 none vs baseline 26ms (not comparable); error rate 0.02% vs 0.02%",
        );
    }
}
