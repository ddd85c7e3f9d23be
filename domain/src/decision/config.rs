//! What an experiment promised before it began: phases, margins, alpha and how it is divided.
//!
//! Enters: the words of a plan. Leaves: a checked [`Config`] and the error probability of each test. Never: anything learnt while it runs.
//!
//! Roll-backs: alpha is divided over guardrails and phases in proportion to weights fixed here (a union bound), so that the chance of any false
//! alarm in the whole rollout is at most alpha. The weights put it where evidence is dear: errors and latency are learnt from
//! requests, which the first phase has fewest of; the others from probes, which are plenty. Promotions: every guardrail must prove its point at
//! alpha, undivided (an intersection-union test: Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24, 1982).

use serde::{Deserialize, Serialize};

use super::verdict::Guardrail;

/// A whole, in parts in a million.
pub const WHOLE_PPM: u32 = 1_000_000;

/// Everything that is fixed before the first look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Salt of the assignment: names the draw that this experiment decides on.
    pub salt: String,
    /// What is assigned to an arm.
    pub unit: Unit,
    /// Sticky units begin with both arms on the baseline for this long, ms.
    pub burn_in_ms: u64,
    /// Shares below 100 %, growing. The last one's promotion makes it 100 %.
    pub phases: Vec<Phase>,
    /// What is still good enough.
    pub margins: Margins,
    /// Chance of a false roll-back over the whole rollout, and of a false promotion.
    pub alpha: f64,
    /// How alpha is divided over guardrails.
    pub weights: Weights,
    /// Chance that a fair split is called unfair, over the whole rollout. It pauses, it does not roll back.
    pub alpha_sample_ratio: f64,
    /// Fewest probes of a promotion.
    pub min_probes: u64,
    /// An absolute objective of every arm.
    pub slo: Option<Slo>,
    /// A share does not grow when the device would be busier than this.
    pub max_utilisation: f64,
    /// Part of the targeted sidecars whose canary may fail to load before the rollout pauses.
    pub max_failing: f64,
    /// Canary-serving sidecars lost in a phase at which it is rolled back when no sidecar without the canary is there to compare with.
    pub max_crashes: u64,
}

/// What is assigned to an arm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Each request by itself.
    #[default]
    Request,
    /// A key keeps its arm: a fixed draw of users, each of which counts once.
    Sticky,
}

/// A share and how long it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Parts in a million of the traffic on the canary's variant.
    pub share_ppm: u32,
    /// Without a verdict by then it is inconclusive; at twice this it is rolled back.
    pub duration_ms: u64,
    /// Proven or not, the share does not grow before this.
    #[serde(default)]
    pub soak_ms: u64,
    /// Fewest requests in the canary's compared lane.
    #[serde(default)]
    pub min_canary_requests: u64,
    /// Part of alpha, in proportion to those of the other phases.
    #[serde(default = "one")]
    pub alpha_weight: f64,
}

/// What is still good enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Margins {
    /// Engine time of a batch: part of the baseline's on top.
    pub speed: f64,
    /// Latency at [`Self::latency_quantile`]: part of the control lane's on top.
    pub latency: f64,
    /// The quantile of users' latency that is watched: 0.95 or 0.99.
    pub latency_quantile: f64,
    /// Cost of a batch: part of the baseline's on top.
    pub cost: f64,
    /// The canary's price of a second of engine time over the baseline's: 1 on one device.
    pub price_ratio: f64,
    /// Error rate, absolute: 0.005 is half a point.
    pub errors: f64,
    /// Mean of 1 - cosine to the baseline's vectors.
    pub cosine: f64,
    /// Mean of 1 - recall@10 against the baseline's neighbours.
    pub recall: f64,
}

/// Parts of alpha, in proportion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "each field is the guardrail of its name")]
pub struct Weights {
    pub crash: f64,
    pub errors: f64,
    pub speed: f64,
    pub latency: f64,
    pub quality: f64,
    pub cost: f64,
}

/// An absolute objective: all but a part of the requests are answered, and within a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Time within which a request is answered; rounded up to a bucket boundary of the sketch.
    pub latency_ms: f64,
    /// Part of the requests that may take longer or fail.
    pub allowed: f64,
}

/// A plan that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(pub String);

impl Default for Config {
    fn default() -> Self {
        let phase = |share_ppm, minutes: u64, alpha_weight| Phase {
            share_ppm,
            duration_ms: minutes * 60_000,
            soak_ms: 0,
            min_canary_requests: 1_000,
            alpha_weight,
        };
        Self {
            salt: String::new(),
            unit: Unit::Request,
            burn_in_ms: 0,
            phases: vec![phase(50_000, 60, 16.0), phase(250_000, 30, 1.0), phase(500_000, 30, 1.0), phase(950_000, 30, 2.0)],
            margins: Margins::default(),
            alpha: 0.05,
            weights: Weights::default(),
            alpha_sample_ratio: 0.01,
            min_probes: 200,
            slo: None,
            max_utilisation: 0.85,
            max_failing: 0.05,
            max_crashes: 3,
        }
    }
}

impl Default for Margins {
    fn default() -> Self {
        Self { speed: 0.1, latency: 0.1, latency_quantile: 0.95, cost: 0.1, price_ratio: 1.0, errors: 0.005, cosine: 0.01, recall: 0.1 }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self { crash: 0.05, errors: 0.55, speed: 0.1, latency: 0.2, quality: 0.05, cost: 0.05 }
    }
}

impl Config {
    /// Says what cannot be meant, with the way out.
    pub fn check(&self) -> Result<(), BadConfig> {
        let fail = |problem: String| Err(BadConfig(problem));
        if self.phases.is_empty() {
            return fail("phases: at least one share below 100 % is needed".to_owned());
        }
        if let Some(pair) = self.phases.windows(2).find(|it| it[0].share_ppm >= it[1].share_ppm) {
            let (a, b) = (pair[0].share_ppm, pair[1].share_ppm);
            return fail(format!("phases: a share of {b} ppm follows {a} ppm; shares must grow"));
        }
        if let Some(bad) = self.phases.iter().find(|it| it.share_ppm == 0 || it.share_ppm >= WHOLE_PPM) {
            return fail(format!("phases: share_ppm {} is not in 1..{WHOLE_PPM}; 100 % follows the last phase by itself", bad.share_ppm));
        }
        if let Some(bad) = self.phases.iter().find(|it| it.soak_ms > it.duration_ms || it.duration_ms == 0) {
            let (soak, duration) = (bad.soak_ms, bad.duration_ms);
            return fail(format!(
                "phases: soak_ms {soak} and duration_ms {duration}: a phase lasts longer than 0 and no shorter than its soak"
            ));
        }
        if self.unit == Unit::Request && self.burn_in_ms > 0 {
            return fail(format!("burn_in_ms {}: only a sticky unit has a draw of users to prove", self.burn_in_ms));
        }
        for (name, value, most) in self.numbers() {
            if !(value > 0.0 && value < most) {
                return fail(format!("{name} {value} is not between 0 and {most}"));
            }
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<(&'static str, f64, f64)> {
        let (m, w) = (&self.margins, &self.weights);
        let mut numbers = vec![
            ("alpha", self.alpha, 0.5),
            ("alpha_sample_ratio", self.alpha_sample_ratio, 0.5),
            ("max_utilisation", self.max_utilisation, 10.0),
            ("margins.speed", m.speed, 10.0),
            ("margins.latency", m.latency, 10.0),
            ("margins.latency_quantile", m.latency_quantile, 1.0),
            ("margins.cost", m.cost, 10.0),
            ("margins.price_ratio", m.price_ratio, 1_000.0),
            ("margins.errors", m.errors, 1.0),
            ("margins.cosine", m.cosine, 0.1),
            ("margins.recall", m.recall, 1.0),
        ];
        numbers.extend([w.crash, w.errors, w.speed, w.latency, w.quality, w.cost].map(|it| ("each of weights", it, 1e6)));
        numbers.extend(self.phases.iter().map(|it| ("phases: alpha_weight", it.alpha_weight, 1e6)));
        if let Some(slo) = self.slo {
            numbers.extend([("slo.latency_ms", slo.latency_ms, 64_000.0), ("slo.allowed", slo.allowed, 1.0)]);
        }
        numbers
    }

    /// The error probability of one test: its guardrail's part of its phase's part of alpha. `tests` is how many tests share the guardrail.
    pub fn roll_back_alpha(&self, guardrail: Guardrail, phase: usize, tests: u32) -> f64 {
        let w = &self.weights;
        let part = match guardrail {
            Guardrail::Crash => w.crash,
            Guardrail::Errors => w.errors,
            Guardrail::Speed => w.speed,
            Guardrail::Latency => w.latency,
            Guardrail::Quality => w.quality,
            Guardrail::Cost => w.cost,
            Guardrail::SampleRatio | Guardrail::MissingData => 0.0,
        };
        let all = w.crash + w.errors + w.speed + w.latency + w.quality + w.cost;
        self.alpha * (part / all) * self.phase_part(phase) / f64::from(tests)
    }

    /// The part of alpha that a phase may spend.
    pub fn phase_part(&self, phase: usize) -> f64 {
        let all = self.phases.iter().fold(0.0, |sum, it| sum + it.alpha_weight);
        self.phases.get(phase).map_or(0.0, |it| it.alpha_weight / all)
    }
}

impl Phase {
    /// Shares of the two lanes that are compared and of the rest: canary, control, rest. Below 50 % canary and an equal control; at
    /// 50 % the two halves; above, the hold-back and a canary sample of its size.
    pub fn lanes(&self) -> [f64; 3] {
        let lane = self.share_ppm.min(WHOLE_PPM - self.share_ppm);
        [lane, lane, WHOLE_PPM - 2 * lane].map(|it| f64::from(it) / f64::from(WHOLE_PPM))
    }
}

const fn one() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_share_exactly_alpha() {
        let config = Config::default();
        let guardrails = [Guardrail::Crash, Guardrail::Errors, Guardrail::Speed, Guardrail::Latency, Guardrail::Quality, Guardrail::Cost];
        let sum: f64 = (0..4).flat_map(|phase| guardrails.map(|it| 2.0 * config.roll_back_alpha(it, phase, 2))).sum();
        assert!((sum - config.alpha).abs() < 1e-12, "{sum}");
    }

    #[test]
    fn lanes_are_equal_at_every_share() {
        let check = |share_ppm, expected: [u32; 3]| {
            let lanes = Phase { share_ppm, ..Config::default().phases[0] }.lanes();
            assert_eq!(lanes.map(|it| (100.0 * it).round() as u32), expected);
        };
        check(50_000, [5, 5, 90]);
        check(250_000, [25, 25, 50]);
        check(500_000, [50, 50, 0]);
        check(950_000, [5, 5, 90]);
    }

    #[test]
    fn each_bad_value_is_named() {
        let check = |change: fn(&mut Config), expected: &str| {
            let mut config = Config::default();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|it| it.phases.clear(), "at least one share");
        check(|it| it.phases[1].share_ppm = 50_000, "50000 ppm follows 50000 ppm");
        check(|it| it.phases[3].share_ppm = 1_000_000, "share_ppm 1000000");
        check(|it| it.phases[0].soak_ms = 1 << 40, "soak_ms");
        check(|it| it.burn_in_ms = 1, "burn_in_ms 1");
        check(|it| it.alpha = 0.0, "alpha 0 is not between 0 and 0.5");
        check(|it| it.margins.errors = f64::NAN, "margins.errors NaN");
        check(|it| it.weights.latency = 0.0, "each of weights 0");
        assert_eq!(Config::default().check(), Ok(()));
    }
}
