//! From an artifact's files to contexts on GPUs.
//!
//! Enters: what to load. Leaves: the first context, which has the others. Never: a load that would end in the middle for want of memory, an
//! engine whose shapes nobody knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use akidb_domain::profile::Shape;
use akidb_domain::vocabulary::ExecutionProvider;
use ort::session::RunOptions;

use super::Bound;
use super::graphs::{Graphs, unrecorded};
use super::plane::{Plane, options};
use crate::engine::buckets::Grid;
use crate::engine::cuda::{Gpu, Pinned, Stream};
use crate::engine::device::engine_bytes;
use crate::engine::onnx::providers::builder;
use crate::engine::onnx::ran_on::ran_on;
use crate::engine::{Engine, EngineError, EngineSpec, fault};

/// Loads an engine: its first context on this thread, the others beside it.
pub(in crate::engine::onnx) fn load(spec: &EngineSpec) -> Result<Box<dyn Engine>, EngineError> {
    let devices = if spec.gpu.devices.is_empty() { vec![0] } else { spec.gpu.devices.clone() };
    for device in &devices {
        Gpu::open(*device).map_err(|cause| EngineError::Provider { provider: spec.provider, cause })?;
    }
    let grid = Arc::new(Grid::of(spec)?);
    let spec = Arc::new(spec.clone());
    // In turn: telemetry takes an executor's number, by the number of devices, for its device.
    let places: Vec<u32> = (0..spec.gpu.contexts.max(1)).flat_map(|_| devices.iter().copied()).collect();
    for device in &devices {
        room(&spec, *device)?;
    }
    let mut first = Bound::load(places[0], &spec, &grid)?;
    if spec.provider == ExecutionProvider::Cuda {
        first.verify(&spec)?;
    }
    let others: Vec<_> = std::thread::scope(|scope| {
        let load = |device: &u32| {
            let (device, spec, grid) = (*device, &spec, &grid);
            scope.spawn(move || Bound::load(device, spec, grid))
        };
        let running: Vec<_> = places[1..].iter().map(load).collect();
        running.into_iter().map(|it| it.join().unwrap_or_else(|_| Err(EngineError::Load("a context's load panicked".into())))).collect()
    });
    for other in others {
        first.others.push(Box::new(other?));
    }
    Ok(Box::new(first))
}

/// A load that would end in the middle for want of memory is refused before it begins.
fn room(spec: &EngineSpec, device: u32) -> Result<(), EngineError> {
    let gpu = Gpu::open(device).map_err(fault::of_load)?;
    let (free, total) = gpu.memory().map_err(fault::of_load)?;
    let files = spec.gpu.narrow.iter().chain([&spec.path]);
    let weights: u64 = files.filter_map(|it| std::fs::metadata(it).ok()).map(|it| it.len()).sum();
    let needs = engine_bytes(weights, spec.gpu.contexts);
    if free >= needs {
        return Ok(());
    }
    Err(EngineError::OutOfMemory(format!("GPU {device} has {free} of {total} bytes free; this engine needs at least {needs}")))
}

impl Bound {
    fn load(device: u32, spec: &Arc<EngineSpec>, grid: &Arc<Grid>) -> Result<Self, EngineError> {
        let gpu = Gpu::open(device).map_err(fault::of_load)?;
        let stream = Stream::new(gpu).map_err(fault::of_load)?;
        let files = spec.gpu.narrow.iter().chain([&spec.path]);
        let planes = files.map(|it| Plane::load(it, spec, &stream, gpu)).collect::<Result<_, _>>()?;
        // No part is larger.
        let limits = grid.limits();
        let inputs = Pinned::new(gpu, 2 * limits.max_tokens * size_of::<i64>()).map_err(fault::of_load)?;
        let vectors = Pinned::new(gpu, limits.max_rows * spec.dimension * size_of::<f32>()).map_err(fault::of_load)?;
        let mut options = RunOptions::new().map_err(|it| EngineError::Load(it.to_string()))?;
        // The stream's own wait is enough; it comes after the copy back.
        options.disable_device_sync().map_err(|it| EngineError::Load(it.to_string()))?;
        let (graphs, others, spare, device_time) = (Graphs::of(spec, grid), Vec::new(), Vec::new(), Duration::ZERO);
        let (grid, spec) = (grid.clone(), spec.clone());
        Ok(Self {
            planes,
            graphs,
            others,
            grid,
            spec,
            options,
            inputs,
            vectors,
            spare,
            due: None,
            device_time,
            took: HashMap::new(),
            gpu,
            stream,
        })
    }

    /// Runs one text in a session that tells what ran where: a graph that CUDA has no kernels for would be the CPU's, without a word.
    fn verify(&self, spec: &EngineSpec) -> Result<(), EngineError> {
        let _held = unrecorded();
        let fail = |it: String| EngineError::Load(it);
        let folder = std::env::temp_dir().join(format!("akidb-profile-{}-{}", std::process::id(), self.stream.address()));
        let mut builder =
            builder(spec.provider, &options(spec, &self.stream, self.gpu))?.with_profiling(&folder).map_err(|it| fail(it.to_string()))?;
        let session = builder.commit_from_file(&spec.path).map_err(|it| fault::of_load(it.to_string()))?;
        let mut plane = Plane::of(session, self.gpu, &self.stream)?;
        let shape = Shape { rows: 1, tokens: 16.min(spec.gpu.max_tokens.max(1)) };
        let (session, binding) = plane.binding(shape, spec, &self.stream).map_err(fault::of_load)?;
        self.stream.zero(binding.ids, shape.tokens * size_of::<i64>()).map_err(fault::of_load)?;
        self.stream.zero(binding.mask, shape.tokens * size_of::<i64>()).map_err(fault::of_load)?;
        drop(session.run_binding(&binding.io).map_err(|it| fault::of_load(it.to_string()))?);
        let file = session.end_profiling().map_err(|it| fail(it.to_string()))?;
        let told = std::fs::read(&file);
        // What is left of it harms nobody.
        drop(std::fs::remove_file(&file));
        let told = told.map_err(|it| fail(format!("{file}: {it}")))?;
        ran_on(&told, "CUDAExecutionProvider").map_err(|cause| EngineError::Provider { provider: spec.provider, cause })
    }
}
