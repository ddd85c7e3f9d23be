//! The verdict: vetoes in order, then what is still unproven.
//!
//! Enters: a state that has counted its look, and what that look lacks. Leaves: an [`Outcome`]. Never: a promotion because nothing failed.

use super::config::{Config, Phase};
use super::evidence::gather;
use super::quantile;
use super::reason;
use super::state::{State, Tests, after};
use super::verdict::{Evidence, Guardrail, Latencies, Outcome, Probing, Stage, Verdict};

/// Weighs everything known of the stage.
pub(super) fn assess(config: &Config, state: &State, missing: &[String]) -> Outcome {
    let evidence = gather(config, &state.tests, state.stage);
    let unproven = unproven(config, state, &evidence);
    let proven = unproven.is_empty() && missing.is_empty() && alarm(config, state, &evidence).is_none();
    let verdict = verdict(config, state, &evidence, missing, unproven);
    let latencies = latencies(config, &state.tests);
    let next = match verdict {
        Verdict::Promote { .. } => after(config, state.stage),
        Verdict::RollBack { .. } => Stage::RolledBack,
        Verdict::Wait { .. } | Verdict::Inconclusive { .. } => state.stage,
    };
    Outcome {
        look: state.looks,
        stage: state.stage,
        reason: reason::reason(config, state, &verdict, &evidence),
        sentence: reason::sentence(&verdict, &state.tests, config, latencies),
        verdict,
        proven,
        probes: state.tests.probes.count(),
        canary_requests: state.tests.errors.canary.requests,
        probing: if next == state.stage { probing(config, state, &evidence) } else { from_the_start(next) },
        latencies,
        thresholds: state.levels.thresholds(if next == Stage::BurnIn { 0.0 } else { config.margins.latency }),
        evidence,
    }
}

fn verdict(config: &Config, state: &State, evidence: &[Evidence], missing: &[String], unproven: Vec<String>) -> Verdict {
    let (duration, soak) = times(config, state.stage);
    let elapsed = state.tests.elapsed_ms;
    let overdue = elapsed >= 2 * duration;
    match alarm(config, state, evidence) {
        Some(Guardrail::SampleRatio) => {
            return inconclusive(overdue, vec!["a fair split: units arrive in other shares than assigned".to_owned()]);
        }
        Some(guardrail) if state.stage == Stage::BurnIn => {
            let what = guardrail.as_str();
            return inconclusive(
                overdue,
                vec![format!("a fair draw of units: {what} differs while both arms serve the baseline; start with another salt")],
            );
        }
        Some(Guardrail::Crash) => return Verdict::RollBack { guardrail: Some(Guardrail::Crash) },
        _ if !missing.is_empty() => return inconclusive(overdue, missing.to_vec()),
        Some(guardrail) => return Verdict::RollBack { guardrail: Some(guardrail) },
        None => {}
    }
    let mut lacking = unproven;
    if lacking.is_empty() {
        lacking.extend(too_busy(config, state));
    }
    if lacking.is_empty() && elapsed < soak {
        return Verdict::Wait {
            missing: vec![format!("time: {} of {} before the share may grow", reason::time(elapsed), reason::time(soak))],
        };
    }
    if lacking.is_empty() {
        let next = State { stage: after(config, state.stage), ..State::default() };
        return Verdict::Promote { share_ppm: next.share_ppm(config) };
    }
    if elapsed >= duration { inconclusive(overdue, lacking) } else { Verdict::Wait { missing: lacking } }
}

/// The first guardrail, in the order of vetoes, that proves its point.
fn alarm(config: &Config, state: &State, evidence: &[Evidence]) -> Option<Guardrail> {
    let crashed = state.tests.crash.alone >= config.max_crashes;
    let acting = evidence.iter().filter(|it| it.worse.is_some_and(|it| it.acts())).map(|it| it.guardrail);
    acting.chain(crashed.then_some(Guardrail::Crash)).min()
}

fn inconclusive(overdue: bool, missing: Vec<String>) -> Verdict {
    if overdue { Verdict::RollBack { guardrail: None } } else { Verdict::Inconclusive { missing } }
}

/// Duration and soak.
fn times(config: &Config, stage: Stage) -> (u64, u64) {
    match stage {
        Stage::Phase(at) => config.phases.get(at).map_or((0, 0), |it| (it.duration_ms, it.soak_ms)),
        _ => (config.burn_in_ms, config.burn_in_ms),
    }
}

fn unproven(config: &Config, state: &State, evidence: &[Evidence]) -> Vec<String> {
    let Stage::Phase(at) = state.stage else { return Vec::new() };
    let open = evidence.iter().filter(|it| it.within.is_some_and(|within| !within.acts()));
    let mut lacking: Vec<String> = open.map(reason::open).collect();
    let (probes, requests) = (state.tests.probes.count(), state.tests.errors.canary.requests);
    if probes < config.min_probes {
        lacking.push(format!("probes: {probes} of {}", config.min_probes));
    }
    if let Some(Phase { min_canary_requests: least, .. }) = config.phases.get(at).filter(|it| requests < it.min_canary_requests) {
        lacking.push(format!("canary requests: {requests} of {least}"));
    }
    lacking
}

/// Whether the device would be too busy at the next share, from utilisation now and the two engines' times for the same work.
fn too_busy(config: &Config, state: &State) -> Option<String> {
    let Stage::Phase(at) = state.stage else { return None };
    let ratio = state.tests.probes.work_ratio().filter(|_| state.tests.utilisation_ms > 0)?;
    let now = state.tests.busy_ms / state.tests.utilisation_ms as f64;
    let work = |ppm: u32| 1.0 + (ratio - 1.0) * f64::from(ppm) / f64::from(super::config::WHOLE_PPM);
    let next = State { stage: after(config, state.stage), ..State::default() }.share_ppm(config);
    let then = now * work(next) / work(config.phases.get(at)?.share_ppm);
    // A share that does not make the device busier than it already is may grow.
    (then > config.max_utilisation && then > now * 1.01).then(|| {
        format!(
            "device time: utilisation {:.0} % is predicted at {}, over the limit of {:.0} %",
            100.0 * then,
            reason::share(next),
            100.0 * config.max_utilisation
        )
    })
}

fn probing(config: &Config, state: &State, evidence: &[Evidence]) -> Probing {
    let by_probes = evidence.iter().filter(|it| matches!(it.guardrail, Guardrail::Speed | Guardrail::Quality | Guardrail::Cost));
    let proven = by_probes.filter_map(|it| it.within).all(|it| it.acts()) && state.tests.probes.count() >= config.min_probes;
    if proven && matches!(state.stage, Stage::Phase(_)) { Probing::Trickle } else { from_the_start(state.stage) }
}

/// Probing at the start of a stage.
pub(super) const fn from_the_start(stage: Stage) -> Probing {
    if matches!(stage, Stage::Phase(_)) { Probing::Budget } else { Probing::Off }
}

fn latencies(config: &Config, tests: &Tests) -> Latencies {
    let q = config.margins.latency_quantile;
    let of = |sketch: &crate::sketch::Sketch| {
        (sketch.quantile(q), (sketch.count() > 0).then(|| quantile::interval(sketch, q, config.alpha / 2.0)))
    };
    let ((canary_ns, canary), (control_ns, control)) = (of(&tests.canary_latency), of(&tests.control_latency));
    Latencies { canary_ns, control_ns, canary, control }
}
