//! Shapes that run as CUDA graphs: one call of the driver instead of one for each kernel.
//!
//! Enters: parts of batches, and how often their shapes run. Leaves: a part's run, replayed where its shape was recorded. Never: a replay
//! that was not seen to give what a run gives.
//!
//! An engine of ninety kernels keeps a small batch waiting for the host more than for the GPU, and two contexts that launch kernel by kernel
//! wait for each other in the driver besides. All of a part is recorded: ids and mask to the device, the engine, vectors back; their addresses
//! are this context's own and stay. Shapes share the engine's execution context, as in Triton's backend, so what is asked of a graph is that
//! it gives the same after the context ran another shape: that is tried before it serves, and where it fails, this context goes on without graphs.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

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
/// A replay gives the vectors of the run.
const SAME: f64 = 0.9999;

/// What was recorded in a context.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    by_shape: HashMap<Shape, Graph>,
    runs: HashMap<Shape, u32>,
    /// Recorded at their first runs.
    named: HashSet<Shape>,
    /// Most shapes that are recorded because they run often.
    limit: usize,
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

    /// Whether a shape that has just run is to be recorded now.
    fn wants(&mut self, shape: Shape, took: Duration) -> bool {
        if self.named.contains(&shape) {
            return true;
        }
        if self.by_shape.len() >= self.limit || took > LONG {
            return false;
        }
        let runs = self.runs.entry(shape).or_default();
        *runs = runs.saturating_add(1);
        *runs == OFTEN
    }

    fn none_any_more(&mut self) {
        *self = Self::default();
    }
}

impl Bound {
    /// Runs a part, as a graph where there is one.
    pub(super) fn run_part(&mut self, batch: &TokenBatch, part: &Part, vectors: &mut Vec<f32>) -> Result<(), String> {
        if self.graphs.by_shape.contains_key(&part.shape) {
            part.fill(self.inputs.integers(2 * part.shape.rows * part.shape.tokens), batch);
            let took = self.replay(part.shape)?;
            self.done(part, took, vectors);
            return Ok(());
        }
        let took = self.run_kernels(batch, part)?;
        self.done(part, took, vectors);
        if self.graphs.wants(part.shape, took) {
            match self.record(batch, part) {
                Ok(graph) => {
                    tracing::debug!(shape = %part.shape, took_us = took.as_micros() as u64, "runs as a CUDA graph");
                    self.graphs.by_shape.insert(part.shape, graph);
                }
                Err(error) => {
                    tracing::warn!(shape = %part.shape, error, "this context goes on without CUDA graphs");
                    self.graphs.none_any_more();
                }
            }
        }
        Ok(())
    }

    fn replay(&self, shape: Shape) -> Result<Duration, String> {
        let graph = self.graphs.by_shape.get(&shape).ok_or("no graph")?;
        self.launch(graph, shape)
    }

    fn launch(&self, graph: &Graph, shape: Shape) -> Result<Duration, String> {
        self.stream.begin()?;
        graph.launch()?;
        self.stream.wait(self.expected(shape))
    }

    /// Records a part that has just run, and whose ids and vectors are still in pinned memory.
    fn record(&mut self, batch: &TokenBatch, part: &Part) -> Result<Graph, String> {
        let floats = part.texts.len() * self.spec.dimension;
        let direct = self.vectors.floats(floats).to_vec();
        let stream = self.stream.clone();
        let graph = stream.capture(|| self.enqueue(part.profile, part.shape, part.shape.rows))?;
        if let Some(other) = self.grid.another(part) {
            self.run_kernels(&TokenBatch { rows: 1, tokens: 1, ids: vec![0], mask: vec![1] }, &other)?;
        }
        part.fill(self.inputs.integers(2 * part.shape.rows * part.shape.tokens), batch);
        self.launch(&graph, part.shape)?;
        let same = |(a, b): (&[f32], &[f32])| cosine(a, b) >= SAME;
        let dimension = self.spec.dimension.max(1);
        if direct.chunks(dimension).zip(self.vectors.floats(floats).chunks(dimension)).all(same) {
            Ok(graph)
        } else {
            Err("a replay gave other vectors than the run".to_owned())
        }
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
        let shape = shape.parse().unwrap();
        assert_eq!((1..=100).find(|_| graphs.wants(shape, took)), expected, "{shape}");
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
        some.none_any_more();
        check(&mut some, "1x16", short, None);
    }
}
