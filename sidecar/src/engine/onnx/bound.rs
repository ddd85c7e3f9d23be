//! An engine on GPUs: sessions with buffers that stay on the device.
//!
//! Enters: a rectangular batch. Leaves: one vector a row, and the device's own time. Never: a shape that was not built for, a buffer made
//! anew for a shape that was seen, a wait for anything but this context's own work.
//!
//! A context is one stream with sessions of its own: one for each profile, and one for each shape that runs as a CUDA graph, because a graph
//! holds one shape and the addresses it was captured with. Ids and mask go through pinned memory on the stream, the run follows on it, the
//! vectors come back on it, and one wait ends the batch.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use akidb_domain::vocabulary::ExecutionProvider;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::Tensor;

use super::providers::{Options, builder, truth};
use super::ran_on::ran_on;
use super::{Feed, check_inputs, check_output};
use crate::engine::buckets::{Grid, Part};
use crate::engine::cuda::{Gpu, Pinned, Stream};
use crate::engine::{Engine, EngineError, EngineSpec, Limits, TokenBatch, fault};
use akidb_domain::profile::Shape;

/// Most texts in a batch of a graph that takes any.
const FREE_ROWS: usize = 512;
/// Memory that an engine needs beside its weights, at least.
const SPARE_BYTES: u64 = 256 << 20;

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

/// A session and the buffers of the shapes that it has run.
struct Plane {
    bindings: HashMap<Shape, Binding>,
    allocator: Allocator,
    session: Session,
    _stream: Arc<Stream>,
}

/// A shape that runs as a CUDA graph.
struct Graph {
    shape: Shape,
    plane: Plane,
    captured: bool,
}

/// While a graph is captured, CUDA forbids every other thread of the process to take memory: whoever may do so holds this for reading.
static CAPTURE: RwLock<()> = RwLock::new(());

/// Buffers of one shape, on the device.
struct Binding {
    io: IoBinding,
    ids: u64,
    mask: u64,
    vectors: u64,
}

/// Loads an engine: its first context on this thread, the others beside it.
pub(super) fn load(spec: &EngineSpec) -> Result<Box<dyn Engine>, EngineError> {
    let devices = if spec.gpu.devices.is_empty() { vec![0] } else { spec.gpu.devices.clone() };
    for device in &devices {
        Gpu::open(*device).map_err(|cause| EngineError::Provider { provider: spec.provider, cause })?;
    }
    let grid = Arc::new(grid(spec)?);
    let spec = Arc::new(spec.clone());
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
        let mut other: Bound = other?;
        other.begin_graphs();
        first.others.push(Box::new(other));
    }
    first.begin_graphs();
    Ok(Box::new(first))
}

/// The shapes that the engine takes.
fn grid(spec: &EngineSpec) -> Result<Grid, EngineError> {
    let gpu = &spec.gpu;
    match gpu.profiles.last() {
        None if spec.provider == ExecutionProvider::TensorRt => {
            Err(EngineError::Load("it says no shape profile (`target.shape_profile`), so no batch can be known to fit it".into()))
        }
        None => Ok(Grid::free(FREE_ROWS, gpu.max_tokens.max(16))),
        Some(widest) if widest.max.tokens < gpu.max_tokens => Err(EngineError::Load(format!(
            "its shape profile {widest} ends at {} tokens, the model's texts at {}: build it with a profile that reaches that",
            widest.max.tokens, gpu.max_tokens
        ))),
        Some(_) if gpu.narrow.len() + 1 != gpu.profiles.len() => {
            Err(EngineError::Load(format!("it has {} shape profiles and {} engine files", gpu.profiles.len(), gpu.narrow.len() + 1)))
        }
        Some(_) => Ok(Grid::new(gpu.profiles.clone())),
    }
}

/// A load that would end in the middle for want of memory is refused before it begins.
fn room(spec: &EngineSpec, device: u32) -> Result<(), EngineError> {
    let gpu = Gpu::open(device).map_err(fault::of_load)?;
    let (free, total) = gpu.memory().map_err(fault::of_load)?;
    let files = spec.gpu.narrow.iter().chain([&spec.path]);
    let weights: u64 = files.filter_map(|it| std::fs::metadata(it).ok()).map(|it| it.len()).sum();
    let needs = weights * spec.gpu.contexts.max(1) as u64 + SPARE_BYTES;
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
        let planes = files.map(|it| Plane::load(it, spec, &stream, gpu, false)).collect::<Result<_, _>>()?;
        let widest = grid.limits().max_tokens;
        let inputs = Pinned::new(gpu, 2 * widest * size_of::<i64>()).map_err(fault::of_load)?;
        let vectors = Pinned::new(gpu, grid.limits().max_rows * spec.dimension * size_of::<f32>()).map_err(fault::of_load)?;
        let mut options = RunOptions::new().map_err(|it| EngineError::Load(it.to_string()))?;
        // The stream's own wait is enough; it comes after the copy back.
        options.disable_device_sync().map_err(|it| EngineError::Load(it.to_string()))?;
        let (graphs, coming, others, device_time) = (Vec::new(), None, Vec::new(), Duration::ZERO);
        let (grid, spec) = (grid.clone(), spec.clone());
        Ok(Self { planes, graphs, coming, others, grid, spec, options, inputs, vectors, device_time, took: HashMap::new(), gpu, stream })
    }

    /// Runs one text in a session that tells what ran where: a graph that CUDA has no kernels for would be the CPU's, without a word.
    fn verify(&self, spec: &EngineSpec) -> Result<(), EngineError> {
        let fail = |it: String| EngineError::Load(it);
        let folder = std::env::temp_dir().join(format!("akidb-profile-{}-{}", std::process::id(), self.stream.address()));
        let mut builder = builder(spec.provider, &options(spec, &self.stream, self.gpu, false))?
            .with_profiling(&folder)
            .map_err(|it| fail(it.to_string()))?;
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

    /// Makes the sessions of CUDA graphs on a thread of their own; they are captured at their first runs.
    fn begin_graphs(&mut self) {
        if self.spec.provider != ExecutionProvider::TensorRt || self.spec.gpu.cuda_graphs.is_empty() {
            return;
        }
        let (done, coming) = channel();
        let (spec, stream, gpu) = (self.spec.clone(), self.stream.clone(), self.gpu);
        let wanted: Vec<(Shape, PathBuf)> = self.graph_shapes();
        let work = move || {
            for (shape, file) in wanted {
                match Plane::load(&file, &spec, &stream, gpu, true) {
                    // The engine may be gone.
                    Ok(plane) => drop(done.send(Graph { shape, plane, captured: false })),
                    Err(error) => tracing::warn!(%shape, %error, "a shape goes on without a CUDA graph"),
                }
            }
        };
        match std::thread::Builder::new().name("cuda-graphs".into()).spawn(work) {
            Ok(_) => self.coming = Some(coming),
            Err(error) => tracing::warn!(%error, "no thread for CUDA graphs; shapes go on without"),
        }
    }

    /// The configured shapes as this engine pads them, each with the file of the narrowest profile that holds it.
    fn graph_shapes(&self) -> Vec<(Shape, PathBuf)> {
        let files: Vec<&PathBuf> = self.spec.gpu.narrow.iter().chain([&self.spec.path]).collect();
        let mut wanted: Vec<(Shape, PathBuf)> = Vec::new();
        for shape in &self.spec.gpu.cuda_graphs {
            let Ok(parts) = self.grid.place(shape.rows, shape.tokens) else { continue };
            if let [part] = &parts[..]
                && !wanted.iter().any(|it| it.0 == part.shape)
            {
                wanted.push((part.shape, files[part.profile].clone()));
            }
        }
        wanted
    }

    /// Takes in what has been made meanwhile.
    fn collect_graphs(&mut self) {
        use std::sync::mpsc::TryRecvError;
        while let Some(coming) = &self.coming {
            match coming.try_recv() {
                Ok(graph) => self.graphs.push(graph),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.coming = None,
            }
        }
    }

    /// Runs a part as a graph where there is one, which is captured at its first run: then nothing else may be at work.
    fn run_part(&mut self, batch: &TokenBatch, part: &Part, vectors: &mut Vec<f32>) -> Result<(), String> {
        let at = self.graphs.iter().position(|it| it.shape == part.shape);
        if let Some(at) = at.filter(|it| !self.graphs[*it].captured) {
            if let Ok(_alone) = CAPTURE.try_write() {
                let done = self.run_in(Some(at), batch, part, vectors);
                match done {
                    Ok(()) => self.graphs[at].captured = true,
                    Err(error) => {
                        tracing::warn!(shape = %part.shape, error, "a shape goes on without a CUDA graph");
                        self.graphs.swap_remove(at);
                    }
                }
                if self.graphs.get(at).is_some_and(|it| it.captured && it.shape == part.shape) {
                    return Ok(());
                }
            }
            let _shared = CAPTURE.read().unwrap_or_else(PoisonError::into_inner);
            return self.run_in(None, batch, part, vectors);
        }
        let _shared = CAPTURE.read().unwrap_or_else(PoisonError::into_inner);
        self.run_in(at, batch, part, vectors)
    }

    fn run_in(&mut self, graph: Option<usize>, batch: &TokenBatch, part: &Part, vectors: &mut Vec<f32>) -> Result<(), String> {
        let (elements, dimension) = (part.shape.rows * part.shape.tokens, self.spec.dimension);
        fill(self.inputs.integers(2 * elements), batch, part);
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

/// The part's ids, then its mask, padded to its shape. A row that is only padding has one token that counts, so that a mean over its tokens is
/// a number.
fn fill(into: &mut [i64], batch: &TokenBatch, part: &Part) {
    let Shape { rows, tokens } = part.shape;
    into.fill(0);
    let (ids, mask) = into.split_at_mut(rows * tokens);
    for (row, text) in part.texts.clone().enumerate() {
        let from = text * batch.tokens..(text + 1) * batch.tokens;
        let to = row * tokens..row * tokens + batch.tokens;
        ids[to.clone()].copy_from_slice(&batch.ids[from.clone()]);
        mask[to].copy_from_slice(&batch.mask[from]);
    }
    for row in part.texts.len()..rows {
        mask[row * tokens] = 1;
    }
}

impl Plane {
    fn load(file: &Path, spec: &EngineSpec, stream: &Arc<Stream>, gpu: Gpu, graph: bool) -> Result<Self, EngineError> {
        let _shared = CAPTURE.read().unwrap_or_else(PoisonError::into_inner);
        gpu.enter().map_err(fault::of_load)?;
        let fail = |it: ort::Error| fault::of_load(it.to_string());
        let mut builder = builder(spec.provider, &options(spec, stream, gpu, graph))?;
        let session = builder.commit_from_file(file).map_err(fail)?;
        check_inputs(session.inputs(), &spec.graph.inputs)?;
        check_output(session.outputs(), &spec.graph.output, spec.dimension)?;
        Self::of(session, gpu, stream)
    }

    fn of(session: Session, gpu: Gpu, stream: &Arc<Stream>) -> Result<Self, EngineError> {
        let fail = |it: ort::Error| fault::of_load(it.to_string());
        let memory = MemoryInfo::new(AllocationDevice::CUDA, gpu.ordinal as i32, AllocatorType::Device, MemoryType::Default);
        let allocator = memory.and_then(|it| Allocator::new(&session, it)).map_err(fail)?;
        Ok(Self { bindings: HashMap::new(), allocator, session, _stream: stream.clone() })
    }

    /// The session and a shape's buffers, made when the shape is first seen.
    fn binding(&mut self, shape: Shape, spec: &EngineSpec, stream: &Stream) -> Result<(&mut Session, &Binding), String> {
        if !self.bindings.contains_key(&shape) {
            let binding = self.bind(shape, spec, stream).map_err(|it| format!("buffers of {shape} tokens: {it}"))?;
            self.bindings.insert(shape, binding);
        }
        let binding = self.bindings.get(&shape).ok_or("no buffers")?;
        Ok((&mut self.session, binding))
    }

    fn bind(&self, shape: Shape, spec: &EngineSpec, stream: &Stream) -> Result<Binding, String> {
        let fail = |it: ort::Error| it.to_string();
        let mut io = self.session.create_binding().map_err(fail)?;
        let sides = [shape.rows, shape.tokens];
        let (mut ids, mut mask) = (0, 0);
        for name in &spec.graph.inputs {
            let tensor = Tensor::<i64>::new(&self.allocator, sides).map_err(fail)?;
            let address = tensor.data_ptr() as u64;
            match Feed::of(name) {
                Some(Feed::Ids) => ids = address,
                Some(Feed::Mask) => mask = address,
                Some(Feed::Zeros) | None => stream.zero(address, shape.rows * shape.tokens * size_of::<i64>())?,
            }
            io.bind_input(name.as_str(), &tensor).map_err(fail)?;
        }
        let output = Tensor::<f32>::new(&self.allocator, [shape.rows, spec.dimension]).map_err(fail)?;
        let vectors = output.data_ptr() as u64;
        io.bind_output(spec.graph.output.as_str(), output).map_err(fail)?;
        Ok(Binding { io, ids, mask, vectors })
    }
}

fn options(spec: &EngineSpec, stream: &Stream, gpu: Gpu, graph: bool) -> Options {
    let mut options = vec![
        ("device_id", gpu.ordinal.to_string()),
        ("has_user_compute_stream", truth(true)),
        ("user_compute_stream", stream.address().to_string()),
    ];
    if spec.provider == ExecutionProvider::TensorRt {
        options.push(("trt_cuda_graph_enable", truth(graph)));
        // An engine that does not fit is an error, never a reason to build another.
        options.push(("trt_engine_cache_enable", truth(false)));
    } else {
        options.push(("use_tf32", truth(spec.gpu.tf32)));
    }
    options
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_padded_to_its_shape_and_padding_rows_count_one_token() {
        let batch = TokenBatch { rows: 3, tokens: 2, ids: vec![1, 2, 3, 4, 5, 6], mask: vec![1, 1, 1, 0, 1, 1] };
        let part = Part { texts: 1..3, shape: Shape { rows: 4, tokens: 3 }, profile: 0 };
        let mut into = vec![9; 24];
        fill(&mut into, &batch, &part);
        assert_eq!(into, [3, 4, 0, 5, 6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0]);
    }
}
