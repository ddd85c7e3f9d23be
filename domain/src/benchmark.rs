//! Results of a benchmark of engines (`docs/BENCHMARKS.md`): what the sidecar's benches write and `akidb-loadtest report` reads.
//!
//! Enters: the text of a results file, cells. Leaves: checked [`Results`]. Never: a file, a clock; a cell that names a machine or an
//! invocation which is not there; a percentile of too few runs without a mark.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::vocabulary::{ExecutionProvider, Precision, canonical_model};

/// The only format this code reads.
pub const FORMAT: &str = "akidb.benchmark/1";

/// Below so many runs there is no p95: it would be the slowest run.
pub const LEAST_FOR_P95: usize = 20;
/// Below so many runs a p95 rests on fewer than five of them, and is marked.
pub const ENOUGH_FOR_P95: usize = 100;
/// Below so many runs there is no p99.
pub const LEAST_FOR_P99: usize = 100;
/// Below so many runs a p99 rests on fewer than ten of them, and is marked.
pub const ENOUGH_FOR_P99: usize = 1_000;

/// Why a text is not a results file.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// Not JSON, a missing key or a word outside the vocabulary.
    #[error("not a results file: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Of another format.
    #[error("format `{0}` is not supported; this version reads `{FORMAT}`")]
    Format(String),
    /// A cell that cannot be.
    #[error("cell {index} ({cell}): {problem}")]
    Cell {
        /// Its place, from 0.
        index: usize,
        /// Which.
        cell: String,
        /// What is wrong.
        problem: String,
    },
}

/// A results file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Always [`FORMAT`].
    pub format: String,
    /// Where cells were measured.
    pub machines: Vec<Machine>,
    /// What measured them.
    pub invocations: Vec<Invocation>,
    /// Every model x precision x batch x tokens that was asked for.
    pub cells: Vec<Cell>,
}

/// A machine and what it runs engines with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// [`Machine::identity`]
    pub id: String,
    /// The processor's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: u32,
    /// Threads of an engine on the CPU.
    pub threads: u32,
    /// Instruction sets that decide the speed of 8-bit and 16-bit products, as Linux names them.
    pub cpu_flags: Vec<String>,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
    /// Name of the GPU; null without one.
    pub gpu: Option<String>,
    /// Of the GPU, e.g. `9.0`.
    pub compute_capability: Option<String>,
    /// Version of its driver.
    pub driver: Option<String>,
    /// Version of TensorRT.
    pub tensorrt: Option<String>,
}

/// One start of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invocation {
    /// What was typed, so that it can be typed again.
    pub command: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Of git, with `-dirty` behind it where the tree was changed; null without git.
    pub revision: Option<String>,
    /// Where.
    pub machine: String,
    /// Time of each cell that was asked for; a slow engine takes longer, to have its least number of runs.
    pub seconds_per_cell: f64,
}

/// One engine at one shape. Either `measured` or `not_run` is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The machine's id.
    pub machine: String,
    /// Place in [`Results::invocations`].
    pub invocation: usize,
    /// What runs it, or would have to.
    pub provider: ExecutionProvider,
    /// The model's name.
    pub model: String,
    /// The variant's name.
    pub variant: String,
    /// The variant's number format.
    pub precision: Precision,
    /// Random weights of the right shape: speed only.
    pub seeded: bool,
    /// The artifact's digest; null where there is none.
    pub digest: Option<String>,
    /// Of the engine and its external weights.
    pub engine_bytes: Option<u64>,
    /// Texts a batch.
    pub batch: u32,
    /// Tokens of each text, special tokens included.
    pub tokens: u32,
    /// What was seen.
    pub measured: Option<Measured>,
    /// Why nothing was.
    pub not_run: Option<String>,
}

/// What was seen of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// When its turns began, RFC 3339. Cells of one model, batch and length with the same value took turns: only their ratio means something.
    pub turns: String,
    /// Batches that count.
    pub runs: usize,
    /// Batches before them.
    pub warm_up_runs: usize,
    /// Time of all runs that count.
    pub seconds: f64,
    /// Of a batch.
    pub latency_ms: Latency,
    /// Texts of all runs / `seconds`.
    pub texts_per_second: f64,
    /// Tokens computed for a text, padding included.
    pub padded_tokens_per_text: f64,
}

/// Milliseconds of a batch, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Least.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// Null of fewer than [`LEAST_FOR_P95`] runs.
    pub p95: Option<f64>,
    /// Whether p95 is of fewer than [`ENOUGH_FOR_P95`] runs.
    pub p95_of_few: bool,
    /// Null of fewer than [`LEAST_FOR_P99`] runs.
    pub p99: Option<f64>,
    /// Whether p99 is of fewer than [`ENOUGH_FOR_P99`] runs.
    pub p99_of_few: bool,
}

impl Latency {
    /// Of all runs; `None` of none.
    pub fn of(milliseconds: &[f64]) -> Option<Self> {
        let mut sorted = milliseconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let rank = |q: f64| sorted[((q * n as f64).ceil() as usize).clamp(1, n) - 1];
        (n > 0).then(|| Self {
            min: sorted[0],
            p50: rank(0.5),
            p95: (n >= LEAST_FOR_P95).then(|| rank(0.95)),
            p95_of_few: n < ENOUGH_FOR_P95,
            p99: (n >= LEAST_FOR_P99).then(|| rank(0.99)),
            p99_of_few: n < ENOUGH_FOR_P99,
        })
    }
}

impl Machine {
    /// 12 hex digits of a digest of everything else; memory counts in whole GiB, since kernels report a little more or less of it.
    pub fn identity(&self) -> String {
        let alike = Self { id: String::new(), memory_bytes: (self.memory_bytes + (1 << 29)) >> 30, ..self.clone() };
        hex::encode(Sha256::digest(format!("{alike:?}")))[..12].to_owned()
    }
}

impl Cell {
    /// `all-MiniLM-L6-v2@int8, batch 8, 32 tokens`
    pub fn name(&self) -> String {
        format!("{}@{}, batch {}, {} tokens", self.model, self.variant, self.batch, self.tokens)
    }

    /// Whether both are about one variant at one shape on one machine.
    fn same_place(&self, other: &Self) -> bool {
        self.machine == other.machine
            && canonical_model(&self.model) == canonical_model(&other.model)
            && self.variant.eq_ignore_ascii_case(&other.variant)
            && (self.batch, self.tokens) == (other.batch, other.tokens)
    }

    fn problem(&self, results: &Results) -> Option<String> {
        let Some(invocation) = results.invocations.get(self.invocation) else {
            return Some(format!("invocation {} is not in the file", self.invocation));
        };
        if invocation.machine != self.machine || !results.machines.iter().any(|it| it.id == self.machine) {
            return Some(format!("machine `{}` is not in the file, or not its invocation's", self.machine));
        }
        if self.batch == 0 || self.tokens == 0 {
            return Some("batch and tokens must be at least 1".into());
        }
        match (&self.measured, &self.not_run) {
            (Some(it), None) => {
                let latency = it.latency_ms;
                let figures = [Some(latency.min), Some(latency.p50), latency.p95, latency.p99, Some(it.texts_per_second), Some(it.seconds)];
                let bad = figures.into_iter().flatten().find(|it| !it.is_finite() || *it <= 0.0);
                bad.map(|it| format!("{it} is not a time or a rate")).or_else(|| (it.runs == 0).then(|| "measured in 0 runs".into()))
            }
            (None, Some(_)) => None,
            _ => Some("either `measured` or `not_run` must be there".into()),
        }
    }
}

impl Default for Results {
    fn default() -> Self {
        Self { format: FORMAT.into(), machines: Vec::new(), invocations: Vec::new(), cells: Vec::new() }
    }
}

impl Results {
    /// Reads and checks the text of a results file.
    pub fn parse(json: &[u8]) -> Result<Self, ResultsError> {
        let value: serde_json::Value = serde_json::from_slice(json)?;
        if let Some(other) = value.get("format").and_then(|it| it.as_str()).filter(|it| *it != FORMAT) {
            return Err(ResultsError::Format(other.chars().take(100).collect()));
        }
        let results: Self = serde_json::from_value(value)?;
        for (index, cell) in results.cells.iter().enumerate() {
            if let Some(problem) = cell.problem(&results) {
                return Err(ResultsError::Cell { index, cell: cell.name(), problem });
            }
        }
        Ok(results)
    }

    /// Adds an invocation on a machine, and gives its place.
    pub fn begin(&mut self, machine: &Machine, invocation: Invocation) -> usize {
        if !self.machines.iter().any(|it| it.id == machine.id) {
            self.machines.push(machine.clone());
        }
        self.invocations.push(invocation);
        self.invocations.len() - 1
    }

    /// Whether these artifacts took turns on that machine at that shape, all of them and nothing else needed.
    pub fn finished(&self, machine: &str, (batch, tokens): (u32, u32), artifacts: &[(&str, ExecutionProvider)]) -> bool {
        let turns: Vec<Option<&str>> = artifacts
            .iter()
            .map(|(digest, provider)| {
                let fits = |it: &&Cell| {
                    it.machine == machine
                        && (it.batch, it.tokens, it.provider) == (batch, tokens, *provider)
                        && it.digest.as_deref() == Some(digest)
                };
                self.cells.iter().filter(fits).find_map(|it| Some(it.measured.as_ref()?.turns.as_str()))
            })
            .collect();
        turns.first().is_some_and(Option::is_some) && turns.iter().all(|it| *it == turns[0])
    }

    /// Puts a cell in the place of an older one of the same variant, shape, provider and machine, and of any such that was not run.
    pub fn put(&mut self, cell: Cell) {
        self.cells.retain(|it| !(it.same_place(&cell) && (it.provider == cell.provider || it.not_run.is_some())));
        self.cells.push(cell);
    }

    /// Drops invocations and machines that no cell is from.
    pub fn prune(&mut self) {
        let used: Vec<usize> = self.cells.iter().map(|it| it.invocation).collect::<BTreeSet<_>>().into_iter().collect();
        for cell in &mut self.cells {
            cell.invocation = used.binary_search(&cell.invocation).unwrap_or(0);
        }
        self.invocations = used.iter().filter_map(|it| self.invocations.get(*it).cloned()).collect();
        self.machines.retain(|it| self.cells.iter().any(|cell| cell.machine == it.id));
    }
}

#[cfg(test)]
mod tests;
