//! An engine on GPUs: sessions with buffers that stay on the device.
//!
//! Enters: a rectangular batch. Leaves: one vector a row, and the device's own time. Never: a shape that was not built for, a buffer made
//! anew for a shape that was seen, a wait for anything but this context's own work.
//!
//! A context is one stream with a session of its own for each profile. Ids and mask go through pinned memory on the stream, the run follows on
//! it, the vectors come back on it, and one wait ends the batch.
//!
//! Rooms, in reading order:
//! - `load`: from an artifact's files to contexts, where there is room for them
//! - `plane`: a session and its buffers
//! - `graphs`: shapes that run as CUDA graphs

mod graphs;
mod load;
mod plane;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use akidb_domain::profile::Shape;
use akidb_domain::vocabulary::ExecutionProvider;
use ort::session::RunOptions;

use crate::engine::buckets::{Grid, Part};
use crate::engine::cuda::{Gpu, Pinned, Stream};
use crate::engine::{Engine, EngineError, EngineSpec, Limits, TokenBatch, fault};
use graphs::Graphs;
use plane::Plane;

pub(super) use load::load;

/// One execution context.
struct Bound {
    planes: Vec<Plane>,
    graphs: Graphs,
    others: Vec<Box<dyn Engine>>,
    grid: Arc<Grid>,
    spec: Arc<EngineSpec>,
    options: RunOptions,
    /// Ids, then mask.
    inputs: Pinned,
    vectors: Pinned,
    /// Memory for the next batch's vectors.
    spare: Vec<f32>,
    /// What ran last and is to be recorded once it has been answered: of a batch in several parts only the last, as the ids and vectors of
    /// the others are not in pinned memory any more.
    due: Option<Part>,
    device_time: Duration,
    /// What each shape took last.
    took: HashMap<Shape, Duration>,
    gpu: Gpu,
    /// After everything that works on it.
    stream: Arc<Stream>,
}

/// Graphs first, while the engine's modules are there; and no session goes while a stream is recorded.
impl Drop for Bound {
    fn drop(&mut self) {
        let _held = graphs::unrecorded();
        self.graphs = Graphs::default();
        self.planes.clear();
    }
}

impl Engine for Bound {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        let elements = batch.rows * batch.tokens;
        if elements == 0 || batch.ids.len() != elements || batch.mask.len() != elements {
            return Err(EngineError::Run(format!("a batch of {} x {} tokens without its ids or mask", batch.rows, batch.tokens)));
        }
        self.device_time = Duration::ZERO;
        let parts = self.grid.place(batch.rows, batch.tokens).map_err(|it| EngineError::Run(it.to_string()))?;
        let mut vectors = std::mem::take(&mut self.spare);
        vectors.clear();
        vectors.reserve(batch.rows * self.spec.dimension);
        for part in &parts {
            self.run_part(batch, part, &mut vectors).map_err(fault::of_batch)?;
        }
        Ok(vectors)
    }

    fn dimension(&self) -> usize {
        self.spec.dimension
    }

    fn provider(&self) -> ExecutionProvider {
        self.spec.provider
    }

    fn limits(&self) -> Option<Limits> {
        Some(self.grid.limits())
    }

    fn contexts(&mut self) -> Vec<Box<dyn Engine>> {
        std::mem::take(&mut self.others)
    }

    fn settle(&mut self) -> bool {
        let Some(part) = self.due.take() else { return false };
        self.record(&part)
    }

    fn recorded(&self) -> usize {
        self.graphs.count()
    }

    fn reuse(&mut self, vectors: Vec<f32>) {
        self.spare = vectors;
    }

    fn device_time(&self) -> Option<Duration> {
        Some(self.device_time)
    }
}

impl Bound {
    /// Runs a part kernel by kernel; its vectors are in pinned memory then. The device's own time.
    fn run_kernels(&mut self, batch: &TokenBatch, part: &Part) -> Result<Duration, String> {
        part.fill(self.inputs.integers(part.integers()), batch);
        self.stream.begin()?;
        self.enqueue(part.profile, part.shape, part.texts.len())?;
        self.stream.wait(self.expected(part.shape))
    }

    /// Puts a shape's copies and its run on the stream, in order: what is in pinned memory then is read when it runs.
    fn enqueue(&mut self, profile: usize, shape: Shape, rows: usize) -> Result<(), String> {
        let (session, binding) = self.planes[profile].binding(shape, &self.spec, &self.stream)?;
        let (bytes, stream) = (shape.rows * shape.tokens * size_of::<i64>(), &self.stream);
        stream.to_device(&self.inputs, 0..bytes, binding.ids)?;
        stream.to_device(&self.inputs, bytes..2 * bytes, binding.mask)?;
        drop(session.run_binding_with_options(&binding.io, &self.options).map_err(|it| it.to_string())?);
        stream.to_host(binding.vectors, &self.vectors, 0..rows * self.spec.dimension * size_of::<f32>())
    }

    /// What a shape took last.
    fn expected(&self, shape: Shape) -> Duration {
        self.took.get(&shape).copied().unwrap_or_default()
    }

    /// Takes a part's vectors and time.
    fn done(&mut self, part: &Part, took: Duration, vectors: &mut Vec<f32>) {
        self.took.insert(part.shape, took);
        self.device_time += took;
        vectors.extend_from_slice(self.vectors.floats(part.texts.len() * self.spec.dimension));
    }
}
