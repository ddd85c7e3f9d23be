//! Shapes that run as CUDA graphs: one call of the driver instead of one for each kernel.
//!
//! Enters: parts of batches, and how often their shapes run. Leaves: a part's run, replayed where its shape was recorded. Never: a replay
//! that was not seen to give what a run gives; a request that waits for its shape to be recorded; more than a small part of a context's time
//! for shapes that nobody named.
//!
//! An engine of ninety kernels keeps a small batch waiting for the host more than for the GPU, and two contexts that launch kernel by kernel
//! wait for each other in the driver besides. All of a part is recorded: ids and mask to the device, the engine, vectors back; their addresses
//! are this context's own and stay. Shapes share the engine's execution context, as in Triton's backend, so it is tried before a graph serves
//! that another shape in between takes nothing from it, nor it from the other. Where that fails, this context goes on without graphs; where CUDA
//! refuses a recording, that shape does.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use akidb_domain::profile::Shape;
use akidb_domain::reference::cosine;
use akidb_domain::vocabulary::ExecutionProvider;

use super::Bound;
use crate::engine::buckets::{Grid, Part};
use crate::engine::cuda::Graph;
use crate::engine::{EngineSpec, TokenBatch};

/// A shape that ran so often is worth its recording, which takes as long as a few runs.
const OFTEN: u32 = 16;
/// A run that takes longer hides the launches of its kernels.
const LONG: Duration = Duration::from_millis(5);
/// Of a context's time, one part in so many is for recording shapes that are not named.
const SHARE: u32 = 50;
/// A replay gives the vectors of the run.
const SAME: f64 = 0.9999;

static CAPTURE: RwLock<()> = RwLock::new(());

/// While a stream is recorded, nobody may wait for the whole device, as ONNX Runtime does when it makes a session: who makes or drops one
/// holds this, and nothing is recorded meanwhile.
pub(super) fn unrecorded() -> RwLockReadGuard<'static, ()> {
    CAPTURE.read().unwrap_or_else(PoisonError::into_inner)
}

/// What was recorded in a context.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    by_shape: HashMap<Shape, Graph>,
    runs: HashMap<Shape, u32>,
    /// Recorded at their first runs.
    named: HashSet<Shape>,
    /// Not to be tried again.
    refused: HashSet<Shape>,
    /// Most shapes besides that are recorded because they run often.
    limit: usize,
    /// When the next of those may be.
    next: Option<Instant>,
    /// Profiles whose largest shape was the other one in between.
    tried: HashSet<usize>,
}

/// Why a shape was not recorded.
enum Unrecorded {
    /// A session is being made or dropped, or another context records: at the next run.
    Later,
    /// CUDA's or the engine's reason.
    Refused(String),
    /// It gave, or left behind, something else than the run.
    Differs,
}

impl From<String> for Unrecorded {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

impl Graphs {
    pub(super) fn of(spec: &EngineSpec, grid: &Grid) -> Self {
        if spec.provider != ExecutionProvider::TensorRt {
            return Self::default();
        }
        let padded = |it: &Shape| match grid.place(it.rows, it.tokens).as_deref() {
            Ok([part]) => Some(part.shape),
            _ => None,
        };
        Self { named: spec.gpu.cuda_graphs.iter().filter_map(padded).collect(), limit: spec.gpu.cuda_graph_limit, ..Self::default() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.by_shape.len()
    }

    /// Whether a shape that has just run is to be recorded now.
    fn wants(&mut self, shape: Shape, took: Duration, now: Instant) -> bool {
        if self.refused.contains(&shape) {
            return false;
        }
        if self.named.contains(&shape) {
            return true;
        }
        if took > LONG {
            return false;
        }
        let runs = self.runs.entry(shape).or_default();
        *runs = runs.saturating_add(1);
        let (often, its_turn) = (*runs >= OFTEN, self.next.is_none_or(|it| now >= it));
        often && its_turn && self.by_shape.keys().filter(|it| !self.named.contains(it)).count() < self.limit
    }

    /// What became of a shape, from `began` to `now`.
    fn take(&mut self, shape: Shape, recorded: Result<Graph, Unrecorded>, began: Instant, now: Instant) {
        if !self.named.contains(&shape) && !matches!(recorded, Err(Unrecorded::Later)) {
            self.next = Some(now + now.saturating_duration_since(began) * (SHARE - 1));
        }
        match recorded {
            Ok(graph) => {
                tracing::debug!(%shape, "runs as a CUDA graph");
                self.by_shape.insert(shape, graph);
            }
            Err(Unrecorded::Later) => {}
            Err(Unrecorded::Refused(error)) => {
                tracing::warn!(%shape, error, "a shape goes on without a CUDA graph");
                self.refused.insert(shape);
            }
            Err(Unrecorded::Differs) => {
                tracing::warn!(%shape, "a CUDA graph gave other vectors than the run; this context goes on without any");
                *self = Self::default();
            }
        }
    }
}

impl Bound {
    /// Runs a part, as a graph where there is one.
    pub(super) fn run_part(&mut self, batch: &TokenBatch, part: &Part, vectors: &mut Vec<f32>) -> Result<(), String> {
        self.due = None;
        if let Some(graph) = self.graphs.by_shape.get(&part.shape) {
            part.fill(self.inputs.integers(part.integers()), batch);
            let took = self.launch(graph, part.shape)?;
            self.done(part, took, vectors);
            return Ok(());
        }
        let took = self.run_kernels(batch, part)?;
        self.done(part, took, vectors);
        if self.graphs.wants(part.shape, took, Instant::now()) {
            self.due = Some(part.clone());
        }
        Ok(())
    }

    /// Records a part that ran last, and whose ids and vectors are still in pinned memory; whether that could be tried.
    pub(super) fn record(&mut self, part: &Part) -> bool {
        let began = Instant::now();
        let recorded = self.try_record(part);
        let tried = !matches!(recorded, Err(Unrecorded::Later));
        self.graphs.take(part.shape, recorded, began, Instant::now());
        tried
    }

    fn launch(&self, graph: &Graph, shape: Shape) -> Result<Duration, String> {
        self.stream.begin()?;
        graph.launch()?;
        self.stream.wait(self.expected(shape))
    }

    fn try_record(&mut self, part: &Part) -> Result<Graph, Unrecorded> {
        let stream = self.stream.clone();
        let graph = {
            let Ok(_alone) = CAPTURE.try_write() else { return Err(Unrecorded::Later) };
            stream.capture(|| self.enqueue(part.profile, part.shape, part.shape.rows))?
        };
        let (ran, run) = (self.inputs.integers(part.integers()).to_vec(), self.given(part));
        // The largest shape takes the longest, so it is the other one once.
        let largest = !self.graphs.tried.contains(&part.profile);
        let other = if largest { self.grid.largest(part) } else { self.grid.another(part) };
        let before = self.run_other(other.as_ref())?;
        self.blank(part)?;
        self.inputs.integers(part.integers()).copy_from_slice(&ran);
        self.launch(&graph, part.shape)?;
        let replayed = self.given(part);
        let after = self.run_other(other.as_ref())?;
        if !self.same(&run, &replayed) || !self.same(&before, &after) {
            return Err(Unrecorded::Differs);
        }
        self.graphs.tried.insert(part.profile);
        Ok(graph)
    }

    /// What a text gives in another shape, where there is one.
    fn run_other(&mut self, other: Option<&Part>) -> Result<Vec<f32>, String> {
        let Some(other) = other else { return Ok(Vec::new()) };
        self.run_kernels(&TokenBatch { rows: 1, tokens: 1, ids: vec![0], mask: vec![1] }, other)?;
        Ok(self.given(other))
    }

    /// The vectors that came back last.
    fn given(&self, part: &Part) -> Vec<f32> {
        self.vectors.floats(part.texts.len() * self.spec.dimension).to_vec()
    }

    /// Takes a shape's ids, mask and vectors off the device: what a replay gives is its own then.
    fn blank(&mut self, part: &Part) -> Result<(), String> {
        let (ints, floats) = (part.shape.rows * part.shape.tokens, part.shape.rows * self.spec.dimension);
        let (_, binding) = self.planes[part.profile].binding(part.shape, &self.spec, &self.stream)?;
        self.stream.zero(binding.ids, ints * size_of::<i64>())?;
        self.stream.zero(binding.mask, ints * size_of::<i64>())?;
        self.stream.zero(binding.vectors, floats * size_of::<f32>())
    }

    fn same(&self, a: &[f32], b: &[f32]) -> bool {
        let dimension = self.spec.dimension.max(1);
        a.len() == b.len() && a.chunks(dimension).zip(b.chunks(dimension)).all(|(a, b)| cosine(a, b) >= SAME)
    }
}

#[cfg(test)]
mod tests {
    use akidb_domain::bundle;

    use super::*;
    use crate::engine::GpuSpec;

    fn graphs(provider: ExecutionProvider, named: &[&str], limit: usize) -> Graphs {
        let grid = Grid::new(vec!["1x16:1x32:8x64".parse().unwrap(), "1x16:64x32:512x256".parse().unwrap()]);
        let gpu =
            GpuSpec { cuda_graphs: named.iter().map(|it| it.parse().unwrap()).collect(), cuda_graph_limit: limit, ..GpuSpec::default() };
        let graph = bundle::Graph { inputs: Vec::new(), output: String::new() };
        Graphs::of(&EngineSpec { path: "model.onnx".into(), graph, dimension: 1, provider, threads: 1, gpu }, &grid)
    }

    /// After how many runs a shape is recorded, of 100.
    fn check(graphs: &mut Graphs, shape: &str, took: Duration, expected: Option<u32>) {
        let (shape, now) = (shape.parse().unwrap(), Instant::now());
        assert_eq!((1..=100).find(|_| graphs.wants(shape, took, now)), expected, "{shape}");
    }

    #[test]
    fn tensorrt_provider_test_shapes_are_recorded_when_named_or_often_and_short() {
        let (short, long) = (Duration::from_micros(300), Duration::from_millis(6));
        // As they are padded; what no batch can be is nothing.
        let mut some = graphs(ExecutionProvider::TensorRt, &["1x9", "1x1000"], 8);
        check(&mut some, "1x16", short, Some(1));
        check(&mut some, "8x32", short, Some(OFTEN));
        check(&mut some, "512x256", long, None);
        check(&mut graphs(ExecutionProvider::TensorRt, &["1x16"], 0), "8x32", short, None);
        check(&mut graphs(ExecutionProvider::TensorRt, &["1x16"], 0), "1x16", long, Some(1));
        check(&mut graphs(ExecutionProvider::Cuda, &["1x16"], 8), "1x16", short, None);
        // Named ones do not count.
        check(&mut graphs(ExecutionProvider::TensorRt, &["1x16"], 1), "8x32", short, Some(OFTEN));
    }

    #[test]
    fn tensorrt_provider_test_what_could_not_be_recorded_is_tried_again_or_left() {
        let short = Duration::from_micros(300);
        let mut some = graphs(ExecutionProvider::TensorRt, &["1x16"], 8);
        let now = Instant::now();
        let became = |some: &mut Graphs, shape: &str, why| some.take(shape.parse().unwrap(), Err(why), now, now);
        check(&mut some, "8x32", short, Some(OFTEN));
        became(&mut some, "8x32", Unrecorded::Later);
        check(&mut some, "8x32", short, Some(1));
        became(&mut some, "8x32", Unrecorded::Refused("no memory".into()));
        check(&mut some, "8x32", short, None);
        check(&mut some, "1x16", short, Some(1));
        became(&mut some, "1x16", Unrecorded::Later);
        check(&mut some, "1x16", short, Some(1));
        became(&mut some, "1x16", Unrecorded::Refused("no memory".into()));
        check(&mut some, "1x16", short, None);
        became(&mut some, "16x32", Unrecorded::Differs);
        check(&mut some, "1x32", short, None);
    }

    #[test]
    fn tensorrt_provider_test_recording_takes_a_small_part_of_the_time() {
        let short = Duration::from_micros(300);
        let mut some = graphs(ExecutionProvider::TensorRt, &["1x16"], 8);
        let (began, took) = (Instant::now(), Duration::from_millis(2));
        let (now, next) = (began + took, began + took * SHARE);
        let wants = |some: &mut Graphs, shape: &str, at| (0..100).any(|_| some.wants(shape.parse().unwrap(), short, at));
        let refused = || Err(Unrecorded::Refused("no memory".into()));
        some.take("24x32".parse().unwrap(), Err(Unrecorded::Later), began, now);
        assert!(wants(&mut some, "16x32", now), "nothing was recorded");
        some.take("8x32".parse().unwrap(), refused(), began, now);
        assert!(!wants(&mut some, "16x32", now) && wants(&mut some, "16x32", next));
        assert!(wants(&mut some, "1x16", now), "a named one need not wait");
        some.take("1x16".parse().unwrap(), refused(), began, next);
        assert!(wants(&mut some, "16x32", next), "nor does one wait for it");
    }
}
