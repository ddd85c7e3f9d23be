//! `embedding_latency`: a baseline and its rivals, taking turns.
//!
//! Enters: [`Arguments`]. Leaves: latency and texts a second by batch, the ratio of medians to the baseline, and what was not run with the
//! reason. Never: silence about an engine that was named.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use akidb_domain::benchmark::{ENOUGH_FOR_P95, ENOUGH_FOR_P99, LEAST_FOR_P95, LEAST_FOR_P99, Measured};
use akidb_domain::vocabulary::{ExecutionProvider, Precision};
use clap::Parser;

use super::engines::{self, Contestant};
use super::here;
use super::matrix::seconds;
use super::places::{self, BUNDLES, Problem};
use super::turns::{self, Plan, Seat};

const USUAL: &str = "all-MiniLM-L6-v2";
const LEAST_RUNS: usize = 10;

/// Latency of engines in this process, taking turns: fp32 against int8 of all-MiniLM-L6-v2, or what is named.
///
/// PATH is a bundle's folder, an engine file with `<stem>.manifest.json` beside it, or a name under build/bundles.
#[derive(Debug, Clone, Parser)]
#[command(name = "embedding_latency", bin_name = "cargo bench --bench embedding_latency --")]
pub(crate) struct Arguments {
    /// What the others are compared with; fp32 of the first other's model without it.
    #[arg(long, alias = "baseline", value_name = "PATH")]
    baseline_fp32: Option<String>,
    /// An INT8 artifact.
    #[arg(long, value_name = "PATH")]
    int8: Option<String>,
    /// A TensorRT engine; named and not run where there is no TensorRT.
    #[arg(long, value_name = "PATH")]
    tensorrt_fp8: Option<String>,
    /// Any further artifact; may be given several times.
    #[arg(long, value_name = "PATH")]
    candidate: Vec<String>,
    /// Texts a batch.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    batch_sizes: Vec<u32>,
    /// Tokens of each text, special tokens included.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=8_192))]
    tokens: u32,
    /// Measured time of each engine at each batch size.
    #[arg(long, default_value_t = 8.0, value_parser = seconds)]
    seconds: f64,
    /// Threads of an engine; all cores without it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    threads: Option<u32>,
}

/// An artifact that takes part if it can.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    path: String,
    precision: Precision,
    /// An engine for TensorRT, whatever is found of it.
    tensorrt: bool,
    /// Nobody asked for it: that it is not built is no error.
    optional: bool,
}

impl Asked {
    fn new(path: &str, precision: Precision) -> Self {
        let extension = path.rsplit_once('.').map_or("", |it| it.1);
        let tensorrt = places::is_engine(extension) && !extension.eq_ignore_ascii_case("onnx");
        Self { path: path.to_owned(), precision, tensorrt, optional: false }
    }
}

/// Measures; exit 1 when an engine failed.
pub(crate) fn run(arguments: &Arguments, root: &Path) -> Result<ExitCode, String> {
    let library = engines::start_runtime(root)?;
    let threads = arguments.threads.map_or_else(here::cores, |it| it as usize);
    let machine = here::machine(threads, &library);
    let (mut contestants, mut left_out) = (Vec::new(), Vec::new());
    for (place, asked) in asked(arguments, root).into_iter().enumerate() {
        match load(&asked, threads, root)? {
            Ok(contestant) => contestants.push(contestant),
            Err(reason) if place == 0 => return Err(format!("the baseline cannot run: {}: {reason}", asked.path)),
            Err(reason) => left_out.push(format!("{}: {reason}", asked.path)),
        }
    }
    println!("{}, {} cores, {threads} threads, ONNX Runtime {}", machine.cpu, machine.cores, machine.onnxruntime);
    println!("{} tokens a text, {} s an engine and batch size, engines taking turns", arguments.tokens, arguments.seconds);
    let arguments_typed: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    println!("{}", here::command("embedding_latency", &arguments_typed));
    let mut first = None;
    for batch in &arguments.batch_sizes {
        let figures = measure(&mut contestants, arguments, *batch)?;
        println!("\n{}", table(*batch, &contestants, &figures));
        first.get_or_insert(figures);
    }
    println!();
    for (contestant, figures) in contestants.iter().zip(first.iter().flatten()) {
        println!("{}", sentence(contestant, figures, first.as_ref().and_then(|it| it.first()), arguments.batch_sizes[0]));
    }
    for it in &left_out {
        println!("not run: {it}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The baseline first.
fn asked(arguments: &Arguments, root: &Path) -> Vec<Asked> {
    let mut rivals: Vec<Asked> = Vec::new();
    rivals.extend(arguments.int8.iter().map(|it| Asked::new(it, Precision::Int8)));
    rivals.extend(arguments.tensorrt_fp8.iter().map(|it| Asked { tensorrt: true, ..Asked::new(it, Precision::Fp8) }));
    rivals.extend(arguments.candidate.iter().map(|it| Asked::new(it, Precision::Int8)));
    let baseline = arguments.baseline_fp32.clone().unwrap_or_else(|| {
        let model = rivals.iter().find_map(|it| places::find(&it.path, it.precision.as_str(), root).ok());
        format!("{}-fp32", model.map_or(USUAL.to_owned(), |it| it.manifest.model.name))
    });
    if rivals.is_empty() && arguments.baseline_fp32.is_none() {
        rivals.push(Asked { optional: true, ..Asked::new(&format!("{USUAL}-int8"), Precision::Int8) });
    }
    std::iter::once(Asked::new(&baseline, Precision::Fp32)).chain(rivals).collect()
}

/// The outer error ends the benchmark; the inner one leaves an engine out.
fn load(asked: &Asked, threads: usize, root: &Path) -> Result<Result<Contestant, String>, String> {
    let found = places::find(&asked.path, asked.precision.as_str(), root);
    if asked.tensorrt && !found.as_ref().is_ok_and(|it| engines::provider(&it.manifest) == ExecutionProvider::TensorRt) {
        let also = found.map_or_else(
            |it| format!(" ({it})"),
            |it| format!(" (under that name lies {}@{})", it.manifest.model.name, it.manifest.variant.name),
        );
        return Ok(Err(format!("an engine for TensorRT; this machine serves cpu only{also}")));
    }
    match found {
        Ok(found) => match Contestant::load(&found, threads) {
            Err(reason) if engines::provider(&found.manifest) == ExecutionProvider::Cpu => Err(reason),
            loaded => Ok(loaded),
        },
        Err(problem @ Problem::Missing(_)) if asked.optional => Ok(Err(format!("{problem}; `make models` builds it"))),
        Err(problem @ Problem::Missing(_)) => {
            Err(format!("{problem}: `make models` builds the bundles under {BUNDLES}, `make setup` {USUAL}-fp32 alone"))
        }
        Err(problem) => Err(problem.to_string()),
    }
}

fn measure(contestants: &mut [Contestant], arguments: &Arguments, batch: u32) -> Result<Vec<Measured>, String> {
    let mut seats = Vec::new();
    let names: Vec<String> = contestants.iter().map(name).collect();
    for contestant in contestants {
        let batches = contestant.batches(batch as usize, arguments.tokens as usize)?;
        seats.push(Seat { engine: &mut *contestant.engine, batches });
    }
    let plan = Plan { each: Duration::from_secs_f64(arguments.seconds), least_runs: LEAST_RUNS };
    let samples = turns::alternate(&mut seats, plan).map_err(|(place, problem)| format!("{}: {problem}", names[place]))?;
    let turns = here::now();
    let figures: Option<Vec<Measured>> = samples.iter().zip(&seats).map(|(it, seat)| it.figures(&turns, &seat.batches[0])).collect();
    figures.ok_or_else(|| "no run".into())
}

fn name(it: &Contestant) -> String {
    format!("{}@{}", it.manifest.model.name, it.manifest.variant.name)
}

fn table(batch: u32, contestants: &[Contestant], figures: &[Measured]) -> String {
    let width = contestants.iter().map(|it| name(it).len()).max().unwrap_or(0);
    let mut lines = vec![format!("{:<width$}      runs    p50 ms    p95 ms    p99 ms   texts/s   x baseline", format!("batch {batch}"))];
    let mut few = false;
    let mut quantile = |value: Option<f64>, mark: bool| {
        few |= mark;
        value.map_or_else(|| "-".to_owned(), |it| format!("{it:.2}{}", if mark { "*" } else { "" }))
    };
    for (contestant, it) in contestants.iter().zip(figures) {
        let latency = it.latency_ms;
        let (p95, p99) = (quantile(latency.p95, latency.p95_of_few), quantile(latency.p99, latency.p99_of_few));
        lines.push(format!(
            "{:<width$} {:>9} {:>9.2} {p95:>9} {p99:>9} {:>9.1} {:>11.2}{}",
            name(contestant),
            it.runs,
            latency.p50,
            it.texts_per_second,
            figures[0].latency_ms.p50 / latency.p50,
            if contestant.manifest.model.seeded { "  (seeded weights)" } else { "" },
        ));
    }
    if few {
        lines.push(format!(
            "* of few runs: under {ENOUGH_FOR_P95} for p95, {ENOUGH_FOR_P99} for p99; none under {LEAST_FOR_P95} and {LEAST_FOR_P99}"
        ));
    }
    lines.join("\n")
}

/// `INT8: P95 2.0ms, 560 QPS (1.75x speedup)`
fn sentence(contestant: &Contestant, it: &Measured, baseline: Option<&Measured>, batch: u32) -> String {
    let precision = contestant.manifest.variant.precision.as_str().to_ascii_uppercase();
    let p95 = it.latency_ms.p95.map_or_else(|| format!("P50 {:.1}ms", it.latency_ms.p50), |it| format!("P95 {it:.1}ms"));
    let texts = it.texts_per_second;
    let speedup = baseline.filter(|baseline| *baseline != it).map(|baseline| baseline.latency_ms.p50 / it.latency_ms.p50);
    let speedup = speedup.map_or_else(String::new, |it| format!(" ({it:.2}x speedup)"));
    format!("{precision}: {p95}, {texts:.0} QPS{speedup}  [{}, batch {batch}, one caller]", name(contestant))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).map_err(|it| it.to_string())
    }

    #[test]
    fn the_seeds_form_names_a_baseline_and_an_engine_for_tensorrt() {
        let root = akidb_testkit::root();
        engines::start_runtime(&root).unwrap();
        let arguments = parse("--baseline-fp32 all-MiniLM-L6-v2.onnx --tensorrt-fp8 all-MiniLM-L6-v2-FP8.trt").unwrap();
        let asked = asked(&arguments, &root);
        assert_eq!(
            asked.iter().map(|it| (it.precision, it.tensorrt)).collect::<Vec<_>>(),
            [(Precision::Fp32, false), (Precision::Fp8, true)]
        );
        let found = places::find(&asked[0].path, "fp32", &root).unwrap();
        assert!(found.folder.ends_with("all-MiniLM-L6-v2-fp32"), "{found:?}");
        let reason = load(&asked[1], 1, &root).unwrap().err().unwrap();
        assert!(reason.contains("TensorRT") && reason.contains("this machine serves cpu only"), "{reason}");
    }

    #[test]
    fn what_is_not_said_is_filled_in_and_what_is_missing_is_told() {
        let root = akidb_testkit::root();
        let usual = asked(&parse("").unwrap(), &root);
        assert_eq!(
            (usual[0].path.as_str(), usual[1].path.as_str(), usual[1].optional),
            ("all-MiniLM-L6-v2-fp32", "all-MiniLM-L6-v2-int8", true)
        );
        let alone = asked(&parse("--baseline-fp32 x").unwrap(), &root);
        assert_eq!(alone.len(), 1);
        let missing = asked(&parse("--candidate gone --candidate x.plan").unwrap(), &root);
        assert!(missing[2].tensorrt && missing[0].path == "all-MiniLM-L6-v2-fp32");
        let problem = load(&missing[1], 1, &root).err().unwrap();
        assert!(problem.contains("`gone` is not there") && problem.contains("`make models`"), "{problem}");
        assert!(parse("--batch-sizes 0").is_err() && parse("--seconds nan").is_err() && parse("--tokens 1").is_err());
    }
}
