//! An engine on GPUs: sessions with buffers that stay on the device.
//!
//! Enters: a rectangular batch. Leaves: one vector a row, and the device's own time. Never: a shape that was not built for, a buffer made
//! anew for a shape that was seen, a wait for anything but this context's own work.
//!
//! A context is one stream with sessions of its own: one for each profile, and one for each shape that runs as a CUDA graph, because a graph
//! holds one shape and the addresses it was captured with. Ids and mask go through pinned memory on the stream, the run follows on it, the
//! vectors come back on it, and one wait ends the batch.
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
use std::sync::mpsc::Receiver;
use std::time::Duration;

use akidb_domain::profile::Shape;
use akidb_domain::vocabulary::ExecutionProvider;
use ort::session::RunOptions;

use crate::engine::buckets::{Grid, Part};
use crate::engine::cuda::{Gpu, Pinned, Stream};
use crate::engine::{Engine, EngineError, EngineSpec, Limits, TokenBatch, fault};
use graphs::Graph;
use plane::Plane;

pub(super) use load::load;

/// One execution context.
struct Bound {
    planes: Vec<Plane>,
    graphs: Vec<Graph>,
    /// Graphs come when they are captured; the context serves without them meanwhile.
    coming: Option<Receiver<Graph>>,
    others: Vec<Box<dyn Engine>>,
    grid: Arc<Grid>,
    spec: Arc<EngineSpec>,
    options: RunOptions,
    /// Ids, then mask.
    inputs: Pinned,
    vectors: Pinned,
    device_time: Duration,
    /// What each shape took last.
    took: HashMap<Shape, Duration>,
    gpu: Gpu,
    /// After everything that works on it.
    stream: Arc<Stream>,
}

impl Engine for Bound {
    fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        let elements = batch.rows * batch.tokens;
        if elements == 0 || batch.ids.len() != elements || batch.mask.len() != elements {
            return Err(EngineError::Run(format!("a batch of {} x {} tokens without its ids or mask", batch.rows, batch.tokens)));
        }
        self.collect_graphs();
        self.device_time = Duration::ZERO;
        let parts = self.grid.place(batch.rows, batch.tokens).map_err(|it| EngineError::Run(it.to_string()))?;
        let mut vectors = Vec::with_capacity(batch.rows * self.spec.dimension);
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

    fn device_time(&self) -> Option<Duration> {
        Some(self.device_time)
    }
}

impl Bound {
    fn run_in(&mut self, graph: Option<usize>, batch: &TokenBatch, part: &Part, vectors: &mut Vec<f32>) -> Result<(), String> {
        let (elements, dimension) = (part.shape.rows * part.shape.tokens, self.spec.dimension);
        part.fill(self.inputs.integers(2 * elements), batch);
        let plane = match graph {
            Some(at) => &mut self.graphs[at].plane,
            None => &mut self.planes[part.profile],
        };
        let (session, binding) = plane.binding(part.shape, &self.spec, &self.stream)?;
        let (bytes, stream) = (elements * size_of::<i64>(), &self.stream);
        stream.begin()?;
        stream.to_device(&self.inputs, 0..bytes, binding.ids)?;
        stream.to_device(&self.inputs, bytes..2 * bytes, binding.mask)?;
        drop(session.run_binding_with_options(&binding.io, &self.options).map_err(|it| it.to_string())?);
        let floats = part.texts.len() * dimension;
        stream.to_host(binding.vectors, &self.vectors, 0..floats * size_of::<f32>())?;
        let took = stream.wait(self.took.get(&part.shape).copied().unwrap_or_default())?;
        self.took.insert(part.shape, took);
        self.device_time += took;
        vectors.extend_from_slice(self.vectors.floats(floats));
        Ok(())
    }
}
