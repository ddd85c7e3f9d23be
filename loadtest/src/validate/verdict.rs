//! Facts against targets.
//!
//! Enters: [`Facts`] and [`Targets`]. Leaves: six rows and SUCCESS or PARTIAL. Never: I/O.

use clap::Args;
use serde::Serialize;

use super::facts::{Facts, Gpu, Reading};
use crate::plan::BadPlan;

// Not a doc comment: clap would make it the description of the command that flattens it.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
#[expect(missing_docs, reason = "see above: what a service is held against")]
pub struct Targets {
    /// P95 latency must be below this, in milliseconds.
    #[arg(long, default_value_t = 10.0)]
    pub p95_ms: f64,
    /// P99 latency must be below this, in milliseconds.
    #[arg(long, default_value_t = 15.0)]
    pub p99_ms: f64,
    /// Requests a second must be above this.
    #[arg(long, default_value_t = 250.0)]
    pub qps: f64,
    /// GPU utilisation must be at least this, in percent.
    #[arg(long, default_value_t = 80.0)]
    pub gpu_min: f64,
    /// GPU utilisation must be at most this, in percent.
    #[arg(long, default_value_t = 90.0)]
    pub gpu_max: f64,
    /// Cost of a request must be below this, in USD.
    #[arg(long, default_value_t = 0.000_010_0)]
    pub cost: f64,
    /// At least this many models must be listed.
    #[arg(long, default_value_t = 5)]
    pub models: u32,
}

impl Targets {
    pub(super) fn check(&self) -> Result<(), BadPlan> {
        let all = [
            ("--p95-ms", self.p95_ms),
            ("--p99-ms", self.p99_ms),
            ("--qps", self.qps),
            ("--gpu-min", self.gpu_min),
            ("--gpu-max", self.gpu_max),
            ("--cost", self.cost),
        ];
        match all.iter().find(|(_, it)| !it.is_finite() || *it < 0.0) {
            Some((option, value)) => Err(BadPlan(format!("{option} {value} is not a number from 0 on"))),
            None if self.gpu_min > self.gpu_max => Err(BadPlan(format!("--gpu-min {} is above --gpu-max {}", self.gpu_min, self.gpu_max))),
            None => Ok(()),
        }
    }
}

/// How a figure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Within its target.
    Ok,
    /// Outside it.
    Missed,
    /// Nobody has the figure; counts as missed.
    NoData,
    /// There is no GPU to use; counts neither way.
    NoGpu,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// As a person reads it.
    pub shown: String,
    /// In ms, requests a second, percent, USD, models; null without data.
    pub value: Option<f64>,
    /// As a person reads it.
    pub target: String,
    /// How it stands.
    pub status: Status,
    /// What a reader should know.
    pub note: String,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Where latency, throughput and GPU come from.
    pub source: String,
    /// In the seed's order.
    pub rows: Vec<Row>,
    /// Whether no row is missed or without data.
    pub success: bool,
}

impl Verdict {
    /// Holds facts against targets.
    pub fn new(facts: &Facts, targets: &Targets, source: String) -> Self {
        let &Targets { p95_ms, p99_ms, qps, gpu_min, gpu_max, cost, models } = targets;
        let ms = |it: &Reading| Reading { value: it.value.map(|it| it * 1_000.0), note: it.note.clone() };
        let gpu_target = format!("{gpu_min}-{gpu_max}%");
        let gpu = match &facts.gpu {
            Gpu::Used(it) => row("GPU Util", it, |it| format!("{it:.1}%"), gpu_target, |it| (gpu_min..=gpu_max).contains(&it)),
            Gpu::None => {
                let (shown, note) = ("no GPU".to_owned(), String::new());
                Row { name: "GPU Util", shown, value: None, target: gpu_target, status: Status::NoGpu, note }
            }
        };
        let rows = vec![
            row("P95", &ms(&facts.p95), |it| format!("{it:.2}ms"), format!("<{p95_ms}ms"), |it| it < p95_ms),
            row("P99", &ms(&facts.p99), |it| format!("{it:.2}ms"), format!("<{p99_ms}ms"), |it| it < p99_ms),
            row("QPS", &facts.qps, |it| format!("{it:.1}"), format!(">{qps}"), |it| it > qps),
            gpu,
            // Twelve digits of cost: a picodollar, what the sidecar counts in. The target keeps the seed's seven.
            row("Cost per request", &facts.cost, |it| format!("${it:.12}"), format!("<${}", dollars(cost)), |it| it < cost),
            row("Models available", &facts.models, |it| it.to_string(), models.to_string(), |it| it >= f64::from(models)),
        ];
        let success = rows.iter().all(|it| matches!(it.status, Status::Ok | Status::NoGpu));
        Self { source, rows, success }
    }

    /// For people; the last line is SUCCESS or PARTIAL.
    pub fn text(&self) -> String {
        let row = |it: &Row| {
            let status = match it.status {
                Status::Ok => "ok",
                Status::Missed => "missed",
                Status::NoData => "missed: no data",
                Status::NoGpu => "does not apply",
            };
            let note = if it.note.is_empty() { String::new() } else { format!(" ({})", it.note) };
            let (name, target) = (format!("{}:", it.name), format!("(target: {})", it.target));
            format!("{name:<18}{:<18}{target:<24}{status}{note}\n", it.shown)
        };
        let rows: String = self.rows.iter().map(row).collect();
        let verdict = if self.success { "SUCCESS" } else { "PARTIAL" };
        format!("Final validation\n================\n{}\n{rows}{verdict}\n", self.source)
    }
}

fn row(name: &'static str, reading: &Reading, show: impl Fn(f64) -> String, target: String, ok: impl Fn(f64) -> bool) -> Row {
    let status = match reading.value {
        None => Status::NoData,
        Some(it) if ok(it) => Status::Ok,
        Some(_) => Status::Missed,
    };
    let shown = reading.value.map_or_else(|| "no data".to_owned(), show);
    Row { name, shown, value: reading.value, target, status, note: reading.note.clone() }
}

/// At least seven decimals, as the seed writes its target, and as many more as the number needs.
fn dollars(cost: f64) -> String {
    let (seven, all) = (format!("{cost:.7}"), cost.to_string());
    if all.len() > seven.len() { all } else { seven }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Targets {
        Targets { p95_ms: 10.0, p99_ms: 15.0, qps: 250.0, gpu_min: 80.0, gpu_max: 90.0, cost: 0.00001, models: 5 }
    }

    fn facts() -> Facts {
        Facts {
            p95: Reading::of(0.008),
            p99: Reading::of(0.0149),
            qps: Reading::of(280.0),
            gpu: Gpu::Used(Reading::of(85.0)),
            cost: Reading::of(0.000_008),
            models: Reading::of(5.0),
        }
    }

    fn check(facts: &Facts, name: &str, expected: Status, success: bool) {
        let verdict = Verdict::new(facts, &targets(), String::new());
        let row = verdict.rows.iter().find(|it| it.name == name).unwrap();
        assert_eq!((row.status, verdict.success), (expected, success), "{}", verdict.text());
    }

    #[test]
    fn the_seeds_figures_are_a_success() {
        let text = Verdict::new(&facts(), &targets(), String::new()).text();
        for part in ["8.00ms", "<10ms", "14.90ms", ">250", "80-90%", "$0.000008000000", "<$0.0000100", "(target: 5)"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.ends_with("\nSUCCESS\n"), "{text}");
    }

    #[test]
    fn targets_are_bounds_as_written() {
        check(&Facts { p95: Reading::of(0.010), ..facts() }, "P95", Status::Missed, false);
        check(&Facts { qps: Reading::of(250.0), ..facts() }, "QPS", Status::Missed, false);
        check(&Facts { gpu: Gpu::Used(Reading::of(90.0)), ..facts() }, "GPU Util", Status::Ok, true);
        check(&Facts { gpu: Gpu::Used(Reading::of(95.0)), ..facts() }, "GPU Util", Status::Missed, false);
        check(&Facts { cost: Reading::of(0.000_01), ..facts() }, "Cost per request", Status::Missed, false);
        check(&Facts { models: Reading::of(4.0), ..facts() }, "Models available", Status::Missed, false);
    }

    #[test]
    fn no_data_is_never_ok_and_no_gpu_is_no_miss() {
        check(&Facts { p99: Reading::of(f64::NAN), ..facts() }, "P99", Status::NoData, false);
        check(&Facts { cost: Reading::none("no price"), ..facts() }, "Cost per request", Status::NoData, false);
        check(&Facts { gpu: Gpu::None, ..facts() }, "GPU Util", Status::NoGpu, true);
        check(&Facts { gpu: Gpu::Used(Reading::none("")), ..facts() }, "GPU Util", Status::NoData, false);
    }

    #[test]
    fn bad_targets_are_named() {
        let error = |targets: Targets| targets.check().unwrap_err().to_string();
        assert!(error(Targets { p95_ms: f64::NAN, ..targets() }).contains("--p95-ms"));
        assert!(error(Targets { gpu_min: 95.0, ..targets() }).contains("--gpu-min 95 is above --gpu-max 90"));
    }
}
