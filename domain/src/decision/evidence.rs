//! Each guardrail's numbers, in the order of the vetoes.
//!
//! Enters: the tests of a stage. Leaves: one [`Evidence`] a test, with what it must reach. Never: a decision.

use super::config::{Config, Margins, Unit};
use super::multinomial;
use super::state::Tests;
use super::verdict::{Evidence, Guardrail, Stage, Strength};

/// Everything that the tests of `stage` know.
pub fn gather(config: &Config, tests: &Tests, stage: Stage) -> Vec<Evidence> {
    match stage {
        Stage::Phase(phase) => in_phase(config, tests, phase),
        Stage::BurnIn => in_burn_in(config, tests),
        Stage::Complete | Stage::RolledBack => Vec::new(),
    }
}

fn in_phase(config: &Config, tests: &Tests, phase: usize) -> Vec<Evidence> {
    let mut all = vec![sample_ratio(config, tests, phase), crash(config, tests, phase), errors(config, tests, phase)];
    all.extend(equal_errors(config, tests));
    all.extend([speed(config, tests, phase), latency(config, tests, phase)]);
    all.extend(config.slo.map(|slo| Evidence {
        n: tests.objective.requests,
        canary: ratio(tests.objective.above, tests.objective.requests),
        baseline: Some(slo.allowed),
        worse: Some(Strength::at(tests.objective.worse.log_e(), config.roll_back_alpha(Guardrail::Latency, phase, 2))),
        ..empty(Guardrail::Latency, "objective")
    }));
    all.extend(quality(config, tests, phase));
    all.push(cost(config, tests, phase));
    all
}

fn sample_ratio(config: &Config, tests: &Tests, phase: usize) -> Evidence {
    let (units, shares) = (tests.units, config.phases[phase].lanes());
    let log_e = multinomial::log_e(&[units.canary, units.control, units.rest], &shares);
    Evidence {
        n: units.canary + units.control + units.rest,
        canary: ratio(units.canary, units.canary + units.control + units.rest),
        baseline: Some(shares[0]),
        worse: Some(Strength::at(log_e, config.alpha_sample_ratio * config.phase_part(phase))),
        ..empty(Guardrail::SampleRatio, "units")
    }
}

fn crash(config: &Config, tests: &Tests, phase: usize) -> Evidence {
    Evidence {
        n: tests.crash.canary + tests.crash.control,
        canary: Some(tests.crash.canary as f64),
        baseline: Some(tests.crash.control as f64),
        worse: Some(Strength::at(tests.crash.log_e(), config.roll_back_alpha(Guardrail::Crash, phase, 1))),
        note: (tests.crash.alone > 0).then(|| format!("{} lost with no sidecar to compare with", tests.crash.alone)),
        ..empty(Guardrail::Crash, "lost sidecars")
    }
}

fn errors(config: &Config, tests: &Tests, phase: usize) -> Evidence {
    let rates = tests.errors.rates();
    Evidence {
        n: tests.errors.canary.requests,
        canary: rates[0],
        baseline: rates[1],
        worse: Some(Strength::at(tests.errors.worse.log_e(), config.roll_back_alpha(Guardrail::Errors, phase, 1))),
        within: Some(Strength::at(tests.errors.within.log_e(), config.alpha)),
        ..empty(Guardrail::Errors, "error rate")
    }
}

/// Lindon and Malek's test of equal rates. It takes requests for independent and has no margin, so it is reported and never acts. A sticky
/// unit's lanes differ in requests for good, so there is no share to hold against.
fn equal_errors(config: &Config, tests: &Tests) -> Option<Evidence> {
    let (canary, control) = (tests.errors.canary.errors, tests.errors.control.errors);
    (config.unit == Unit::Request).then(|| Evidence {
        n: canary + control,
        canary: Some(canary as f64),
        baseline: Some(control as f64),
        worse: Some(Strength { log_e: multinomial::log_e(&[canary, control], &[0.5, 0.5]), needed: None }),
        note: Some("equal rates, i.i.d.: reported only".to_owned()),
        ..empty(Guardrail::Errors, "equal rates")
    })
}

fn speed(config: &Config, tests: &Tests, phase: usize) -> Evidence {
    let signs = tests.probes.speed;
    Evidence {
        n: signs.probes,
        canary: tests.probes.time_ratio(),
        baseline: Some(1.0),
        worse: Some(Strength::at(signs.log_e_slower(), config.roll_back_alpha(Guardrail::Speed, phase, 1))),
        within: Some(Strength::at(signs.log_e_within(), config.alpha)),
        note: Some(format!("{} of {} probes past the margin", signs.slower, signs.probes)),
        ..empty(Guardrail::Speed, "engine time")
    }
}

fn latency(config: &Config, tests: &Tests, phase: usize) -> Evidence {
    let count = 1 + u32::from(config.slo.is_some());
    Evidence {
        n: tests.latency.looks,
        canary: Some(tests.latency.canary as f64),
        baseline: Some(tests.latency.control as f64),
        worse: Some(Strength::at(tests.latency.worse.log_e(), config.roll_back_alpha(Guardrail::Latency, phase, count))),
        ..empty(Guardrail::Latency, "exceedances")
    }
}

fn quality(config: &Config, tests: &Tests, phase: usize) -> [Evidence; 2] {
    let Margins { cosine, recall, .. } = config.margins;
    [("cosine", &tests.probes.cosine, cosine), ("recall@10", &tests.probes.recall, recall)].map(|(name, loss, margin)| Evidence {
        n: tests.probes.count(),
        canary: tests.probes.mean(loss).map(|it| 1.0 - it),
        baseline: Some(1.0 - margin),
        worse: Some(Strength::at(loss.worse.log_e(), config.roll_back_alpha(Guardrail::Quality, phase, 2))),
        within: Some(Strength::at(loss.within.log_e(), config.alpha)),
        ..empty(Guardrail::Quality, name)
    })
}

fn cost(config: &Config, tests: &Tests, phase: usize) -> Evidence {
    Evidence {
        n: tests.probes.count(),
        canary: tests.probes.work_ratio().map(|it| it * config.margins.price_ratio),
        baseline: Some(1.0),
        worse: Some(Strength::at(tests.probes.cost.worse.log_e(), config.roll_back_alpha(Guardrail::Cost, phase, 1))),
        within: Some(Strength::at(tests.probes.cost.within.log_e(), config.alpha)),
        ..empty(Guardrail::Cost, "cost of a batch")
    }
}

/// Both arms serve the baseline: any difference, in either direction, is the draw of units. Alpha is halved twice.
fn in_burn_in(config: &Config, tests: &Tests) -> Vec<Evidence> {
    let both = |a: f64, b: f64| Some(Strength::at(a.max(b), config.alpha / 4.0));
    let rates = tests.errors.rates();
    vec![
        Evidence {
            n: tests.errors.canary.requests,
            canary: rates[0],
            baseline: rates[1],
            worse: both(tests.errors.worse.log_e(), tests.errors.within.log_e()),
            ..empty(Guardrail::Errors, "error rate")
        },
        Evidence {
            n: tests.latency.looks,
            canary: Some(tests.latency.canary as f64),
            baseline: Some(tests.latency.control as f64),
            worse: both(tests.latency.worse.log_e(), tests.latency.better.log_e()),
            ..empty(Guardrail::Latency, "exceedances")
        },
    ]
}

fn empty(guardrail: Guardrail, test: &str) -> Evidence {
    Evidence { guardrail, test: test.to_owned(), n: 0, canary: None, baseline: None, worse: None, within: None, note: None }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
