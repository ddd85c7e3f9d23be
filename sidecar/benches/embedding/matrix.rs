//! `embedding_comprehensive`: models x precisions x batch sizes.
//!
//! Enters: [`Arguments`] and the bundles under `build/bundles`. Leaves: a results file (`docs/BENCHMARKS.md`), written anew after each group of
//! cells that took turns; cells that were not run are in it with the reason. Never: a file half
//! written; a finished cell measured again without being asked to.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use akidb_domain::benchmark::{Cell, Machine, Measured, Results};
use akidb_domain::bundle::Manifest;
use akidb_domain::vocabulary::{BadModelRef, ExecutionProvider, ModelRef, Precision, canonical_model};
use clap::Parser;

use super::engines::{self, Contestant};
use super::here;
use super::places::{self, BUNDLES, Found};
use super::turns::{self, Plan, Seat};

/// Runs of a cell, whatever time they take: a large model at a large batch needs more than its time.
const LEAST_RUNS: usize = 5;

/// Latency and throughput of models x precisions x batch sizes, the precisions of a model taking turns.
#[derive(Debug, Clone, Parser)]
#[command(name = "embedding_comprehensive", bin_name = "cargo bench --bench embedding_comprehensive --")]
pub(crate) struct Arguments {
    /// Models, in any letter case; short names (`bert-base`) too.
    #[arg(long, value_delimiter = ',', default_value = "all-MiniLM-L6-v2,distilled-MiniLM-L3-v2,bert-base,bge-small,uae-large", value_parser = model)]
    models: Vec<String>,
    /// Precisions.
    #[arg(long, value_delimiter = ',', default_value = "fp32,int8,fp8")]
    precision: Vec<Precision>,
    /// Texts a batch.
    #[arg(long, value_delimiter = ',', default_value = "1,8,16,32,64", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    batch_sizes: Vec<u32>,
    /// Tokens of each text, special tokens included.
    #[arg(long, value_delimiter = ',', default_value = "32", value_parser = clap::value_parser!(u32).range(2..=8_192))]
    tokens: Vec<u32>,
    /// Measured time of each cell; at least five runs are made, whatever they take.
    #[arg(long, default_value_t = 8.0, value_parser = seconds)]
    seconds_per_cell: f64,
    /// Threads of an engine; all cores without it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    threads: Option<u32>,
    /// Where `<model>-<precision>` bundles are.
    #[arg(long, default_value = BUNDLES)]
    bundles: PathBuf,
    /// The results file; a relative path starts at the repository's root.
    #[arg(long)]
    output: PathBuf,
    /// Measure everything again instead of keeping the finished cells of an existing file.
    #[arg(long)]
    fresh: bool,
}

fn model(text: &str) -> Result<String, String> {
    let parsed: ModelRef = text.parse().map_err(|it: BadModelRef| it.to_string())?;
    if parsed.selector.is_some() {
        return Err(format!("`{text}` names a variant: name the model, and its precision with --precision"));
    }
    Ok(text.to_owned())
}

/// Also of `embedding_latency`.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().map_err(|it| it.to_string())?;
    if (0.01..=3_600.0).contains(&parsed) { Ok(parsed) } else { Err(format!("{parsed} is not in 0.01..=3600 seconds")) }
}

impl Arguments {
    fn tidy(mut self) -> Self {
        let mut seen = Vec::new();
        self.models.retain(|it| {
            let new = !seen.contains(&canonical_model(it));
            seen.push(canonical_model(it));
            new
        });
        for list in [&mut self.batch_sizes, &mut self.tokens] {
            list.sort_unstable();
            list.dedup();
        }
        self.precision.sort_unstable();
        self.precision.dedup();
        self
    }
}

/// Runs what is not finished; exit 1 when an engine failed or nothing was measured.
pub(crate) fn run(arguments: Arguments, root: &Path) -> Result<ExitCode, String> {
    let arguments = arguments.tidy();
    let library = engines::start_runtime(root)?;
    let threads = arguments.threads.map_or_else(here::cores, |it| it as usize);
    let machine = here::machine(threads, &library);
    let file = root.join(&arguments.output);
    let mut results = if arguments.fresh { Results::default() } else { read(&file)? };
    let invocation = here::invocation("embedding_comprehensive", &machine, root, arguments.seconds_per_cell);
    let invocation = results.begin(&machine, invocation);
    println!("{}, {} cores, {threads} threads, ONNX Runtime {} (machine {})", machine.cpu, machine.cores, machine.onnxruntime, machine.id);
    let plan = Plan { each: Duration::from_secs_f64(arguments.seconds_per_cell), least_runs: LEAST_RUNS };
    let groups = arguments.models.len() * arguments.batch_sizes.len() * arguments.tokens.len();
    let bundles = root.join(&arguments.bundles);
    let mut matrix = Matrix { arguments, machine, invocation, results, plan, file, groups, group: 0, kept: 0, measured: 0, failed: 0 };
    for name in matrix.arguments.models.clone() {
        matrix.model(&name, &bundles)?;
    }
    Ok(matrix.conclude())
}

/// The existing results, or none yet.
fn read(file: &Path) -> Result<Results, String> {
    match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Results::default()),
        Err(error) => Err(format!("--output {}: {error}", file.display())),
        Ok(json) => Results::parse(&json).map_err(|it| format!("--output {}: {it}; --fresh replaces it", file.display())),
    }
}

/// In one step: whoever reads it meanwhile sees the old file or the new one.
fn write(results: &Results, file: &Path) -> Result<(), String> {
    let fail = |it: std::io::Error| format!("--output {}: {it}", file.display());
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(fail)?;
    let mut json = serde_json::to_vec_pretty(results).map_err(|it| it.to_string())?;
    json.push(b'\n');
    let mut next = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    next.write_all(&json).and_then(|()| next.as_file().sync_all()).map_err(fail)?;
    std::fs::set_permissions(next.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).map_err(fail)?;
    next.persist(file).map_err(|it| fail(it.error))?;
    Ok(())
}

/// A precision of the model at hand: its bundle, or the reason for none.
struct Wanted {
    precision: Precision,
    found: Result<Found, String>,
}

struct Matrix {
    arguments: Arguments,
    machine: Machine,
    invocation: usize,
    results: Results,
    plan: Plan,
    file: PathBuf,
    groups: usize,
    group: usize,
    kept: usize,
    measured: usize,
    failed: usize,
}

impl Matrix {
    fn model(&mut self, name: &str, bundles: &Path) -> Result<(), String> {
        let mut wanted: Vec<Wanted> = self
            .arguments
            .precision
            .iter()
            .map(|precision| {
                let found = places::variant(bundles, name, precision.as_str());
                let missing = || {
                    format!(
                        "not built: {}-{precision} is not in {}: run `make models`",
                        canonical_model(name),
                        self.arguments.bundles.display()
                    )
                };
                Wanted { precision: *precision, found: found.and_then(|it| it.ok_or_else(missing)) }
            })
            .collect();
        let shapes: Vec<(u32, u32)> =
            self.arguments.tokens.iter().flat_map(|tokens| self.arguments.batch_sizes.iter().map(|batch| (*batch, *tokens))).collect();
        let (mut contestants, mut loaded) = (Vec::new(), false);
        for shape in shapes {
            self.group += 1;
            if !loaded && !self.finished(&wanted, shape) {
                contestants = self.load(name, &mut wanted);
                loaded = true;
            }
            if self.finished(&wanted, shape) {
                self.kept += wanted.iter().filter(|it| runs_here(it)).count();
                println!("[{}/{}] {name}, batch {}, {} tokens: kept", self.group, self.groups, shape.0, shape.1);
            } else {
                self.measure(name, &mut contestants, shape);
            }
            for it in &wanted {
                if let Err(reason) = self.cannot_run(it) {
                    let cell = self.cell(name, it.precision, it.found.as_ref().ok(), shape, Err(reason));
                    self.results.put(cell);
                }
            }
            write(&self.pruned(), &self.file)?;
        }
        Ok(())
    }

    /// Whether all that can run here took turns at that shape in an earlier start.
    fn finished(&self, wanted: &[Wanted], shape: (u32, u32)) -> bool {
        let digests: Vec<(String, ExecutionProvider)> = wanted
            .iter()
            .filter(|it| runs_here(it))
            .filter_map(|it| it.found.as_ref().ok())
            .map(|it| (it.manifest.digest(), engines::provider(&it.manifest)))
            .collect();
        let artifacts: Vec<(&str, ExecutionProvider)> = digests.iter().map(|(digest, provider)| (digest.as_str(), *provider)).collect();
        self.results.finished(&self.machine.id, shape, &artifacts)
    }

    /// Loads what runs here; what does not gets its reason.
    fn load(&mut self, name: &str, wanted: &mut [Wanted]) -> Vec<Contestant> {
        let mut contestants = Vec::new();
        for it in wanted.iter_mut().filter(|it| runs_here(it)) {
            let Ok(found) = &it.found else { continue };
            match Contestant::load(found, self.machine.threads as usize) {
                Ok(contestant) => contestants.push(contestant),
                Err(reason) => {
                    eprintln!("{name}, {}: {reason}", it.precision);
                    self.failed += 1;
                    it.found = Err(reason);
                }
            }
        }
        contestants
    }

    /// Why a precision has no figures here.
    fn cannot_run(&self, it: &Wanted) -> Result<(), String> {
        match &it.found {
            Err(reason) => Err(reason.clone()),
            Ok(_) if runs_here(it) => Ok(()),
            Ok(found) => Err(Contestant::load(found, self.machine.threads as usize).err().unwrap_or_else(|| "not asked for".into())),
        }
    }

    fn measure(&mut self, name: &str, contestants: &mut [Contestant], (batch, tokens): (u32, u32)) {
        let names: Vec<&str> = contestants.iter().map(|it| it.manifest.variant.name.as_str()).collect();
        print!("[{}/{}] {name}, batch {batch}, {tokens} tokens: {} ", self.group, self.groups, names.join(", "));
        drop(std::io::stdout().flush());
        let (turns, from) = (here::now(), Instant::now());
        let outcome = self.figures(contestants, (batch, tokens), &turns);
        if contestants.is_empty() {
            print!("nothing to run ");
        }
        for (i, contestant) in contestants.iter().enumerate() {
            let found = Found { manifest: contestant.manifest.clone(), folder: PathBuf::new() };
            let outcome = match &outcome {
                Ok(all) => Ok(all[i].clone()),
                Err((place, problem)) if *place == i => Err(problem.clone()),
                Err((place, problem)) => {
                    Err(format!("its turns ended when {} failed: {problem}", contestants[*place].manifest.variant.name))
                }
            };
            match &outcome {
                Ok(it) => print!(
                    "| {} p50 {:.1} ms, {:.0} texts/s, {} runs ",
                    contestant.manifest.variant.name, it.latency_ms.p50, it.texts_per_second, it.runs
                ),
                Err(problem) => print!("| {}: {problem} ", contestant.manifest.variant.name),
            }
            self.measured += usize::from(outcome.is_ok());
            self.failed += usize::from(outcome.is_err());
            let cell = self.cell(name, contestant.manifest.variant.precision, Some(&found), (batch, tokens), outcome);
            self.results.put(cell);
        }
        println!("| {:.0} s", from.elapsed().as_secs_f64());
    }

    fn figures(&self, contestants: &mut [Contestant], (batch, tokens): (u32, u32), turns: &str) -> Result<Vec<Measured>, (usize, String)> {
        let mut seats = Vec::new();
        for (i, contestant) in contestants.iter_mut().enumerate() {
            let batches = contestant.batches(batch as usize, tokens as usize).map_err(|it| (i, it))?;
            seats.push(Seat { engine: &mut *contestant.engine, batches });
        }
        if seats.is_empty() {
            return Ok(Vec::new());
        }
        let samples = turns::alternate(&mut seats, self.plan)?;
        let figures = samples.iter().zip(&seats).enumerate();
        figures.map(|(i, (samples, seat))| samples.figures(turns, &seat.batches[0]).ok_or((i, "no run".to_owned()))).collect()
    }

    fn cell(
        &self,
        name: &str,
        precision: Precision,
        found: Option<&Found>,
        (batch, tokens): (u32, u32),
        outcome: Result<Measured, String>,
    ) -> Cell {
        let manifest = found.map(|it| &it.manifest);
        let (measured, not_run) = match outcome {
            Ok(it) => (Some(it), None),
            Err(reason) => (None, Some(reason)),
        };
        Cell {
            machine: self.machine.id.clone(),
            invocation: self.invocation,
            provider: manifest.map_or(ExecutionProvider::Cpu, engines::provider),
            model: manifest.map_or_else(|| canonical_model(name), |it| it.model.name.clone()),
            variant: manifest.map_or_else(|| precision.to_string(), |it| it.variant.name.clone()),
            precision,
            seeded: manifest.is_some_and(|it| it.model.seeded),
            digest: manifest.map(Manifest::digest),
            engine_bytes: manifest.map(engines::engine_bytes),
            batch,
            tokens,
            measured,
            not_run,
        }
    }

    fn pruned(&self) -> Results {
        let mut results = self.results.clone();
        results.prune();
        results
    }

    fn conclude(&self) -> ExitCode {
        let not_run = self.results.cells.iter().filter(|it| it.machine == self.machine.id && it.not_run.is_some());
        let reasons: BTreeSet<String> =
            not_run.filter_map(|it| Some(format!("  {}@{}: {}", it.model, it.variant, it.not_run.as_ref()?))).collect();
        println!("{} cells measured, {} kept, in {}", self.measured, self.kept, self.file.display());
        if !reasons.is_empty() {
            println!("not run:\n{}", reasons.into_iter().collect::<Vec<_>>().join("\n"));
        }
        if self.measured + self.kept == 0 {
            println!("nothing was measured: run `make models` first");
        }
        if self.failed == 0 && self.measured + self.kept > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// This build serves `cpu` only.
fn runs_here(it: &Wanted) -> bool {
    it.found.as_ref().is_ok_and(|it| engines::provider(&it.manifest) == ExecutionProvider::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        let line = format!("x --output results.json {line}");
        Arguments::try_parse_from(line.split_whitespace()).map(Arguments::tidy).map_err(|it| it.to_string())
    }

    #[test]
    fn lists_are_read_in_any_case_and_without_repetition() {
        let it = parse("--models BERT-base,bert-base-uncased,UAE-Large --precision int8,fp32,int8 --batch-sizes 64,1,8,1").unwrap();
        assert_eq!(it.models, ["BERT-base", "UAE-Large"]);
        assert_eq!(
            (it.precision.as_slice(), it.batch_sizes.as_slice()),
            ([Precision::Fp32, Precision::Int8].as_slice(), [1, 8, 64].as_slice())
        );
        assert_eq!(parse("").unwrap().models.len(), 5);
        let check = |line: &str, expected: &str| {
            let problem = parse(line).unwrap_err();
            assert!(problem.contains(expected), "{line}: {problem}");
        };
        check("--precision fp64", "unknown precision `fp64`: expected one of fp32");
        check("--models a@int8", "names a variant");
        check("--models a/b", "not a model reference");
        check("--batch-sizes 0", "0 is not in 1..=1024");
        check("--seconds-per-cell 0", "0.01..=3600");
    }

    /// The real engine at one shape, a precision that is not built, and a second start that keeps what is finished.
    #[test]
    fn a_matrix_is_measured_once_and_says_what_it_did_not_run() {
        let root = tempfile::tempdir().unwrap();
        let bundle = akidb_testkit::bundle();
        std::fs::create_dir_all(root.path().join("build/bundles")).unwrap();
        std::os::unix::fs::symlink(&bundle, root.path().join("build/bundles/all-minilm-l6-v2-FP32")).unwrap();
        std::os::unix::fs::symlink(akidb_testkit::root().join("build/onnxruntime"), root.path().join("build/onnxruntime")).unwrap();
        let line =
            "--models all-MiniLM-L6-v2,bge-small --precision fp32,int8 --batch-sizes 2 --tokens 8 --seconds-per-cell 0.05 --threads 1";
        let start = |more: &str| {
            let code = run(parse(&format!("{line} {more}")).unwrap(), root.path()).unwrap();
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
            read(&root.path().join("results.json")).unwrap()
        };
        let first = start("");
        let seen: Vec<_> = first.cells.iter().map(|it| (it.model.as_str(), it.variant.as_str(), it.measured.is_some())).collect();
        let expected = [
            ("all-MiniLM-L6-v2", "fp32", true),
            ("all-minilm-l6-v2", "int8", false),
            ("bge-small-en-v1.5", "fp32", false),
            ("bge-small-en-v1.5", "int8", false),
        ];
        assert_eq!(seen, expected);
        let measured = first.cells[0].measured.clone().unwrap();
        assert!(measured.runs >= LEAST_RUNS && measured.seconds >= 0.05, "{measured:?}");
        assert!((measured.padded_tokens_per_text - 8.0).abs() < 1e-12 && first.cells[0].engine_bytes > Some(80_000_000));
        assert!(first.cells[1].not_run.as_ref().unwrap().contains("run `make models`"), "{:?}", first.cells[1]);
        assert_eq!(start("").cells[0].measured, Some(measured.clone()), "finished cells are kept");
        assert_ne!(start("--fresh").cells[0].measured, Some(measured));
        std::fs::write(root.path().join("results.json"), "{}").unwrap();
        let problem = run(parse(line).unwrap(), root.path()).unwrap_err();
        assert!(problem.contains("not a results file") && problem.contains("--fresh replaces it"), "{problem}");
    }
}
