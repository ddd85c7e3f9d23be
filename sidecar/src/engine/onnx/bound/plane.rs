//! A session and the buffers of the shapes that it has run.
//!
//! Enters: an engine's file, shapes. Leaves: buffers on the device that are bound to the session and stay. Never: two buffers of one shape.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use akidb_domain::profile::Shape;
use akidb_domain::vocabulary::ExecutionProvider;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use super::graphs::unrecorded;
use crate::engine::cuda::{Gpu, Stream};
use crate::engine::onnx::providers::{Options, builder, truth};
use crate::engine::onnx::{Feed, check_inputs, check_output};
use crate::engine::{EngineError, EngineSpec, fault};

/// A session and the buffers of the shapes that it has run.
pub(super) struct Plane {
    bindings: HashMap<Shape, Binding>,
    allocator: Allocator,
    session: Session,
    _stream: Arc<Stream>,
}

/// Buffers of one shape, on the device.
pub(super) struct Binding {
    pub(super) io: IoBinding,
    pub(super) ids: u64,
    pub(super) mask: u64,
    pub(super) vectors: u64,
}

impl Plane {
    pub(super) fn load(file: &Path, spec: &EngineSpec, stream: &Arc<Stream>, gpu: Gpu) -> Result<Self, EngineError> {
        let _held = unrecorded();
        gpu.enter().map_err(fault::of_load)?;
        let fail = |it: ort::Error| fault::of_load(it.to_string());
        let mut builder = builder(spec.provider, &options(spec, stream, gpu))?;
        let session = builder.commit_from_file(file).map_err(fail)?;
        check_inputs(session.inputs(), &spec.graph.inputs)?;
        check_output(session.outputs(), &spec.graph.output, spec.dimension)?;
        Self::of(session, gpu, stream)
    }

    pub(super) fn of(session: Session, gpu: Gpu, stream: &Arc<Stream>) -> Result<Self, EngineError> {
        let fail = |it: ort::Error| fault::of_load(it.to_string());
        let memory = MemoryInfo::new(AllocationDevice::CUDA, gpu.ordinal as i32, AllocatorType::Device, MemoryType::Default);
        let allocator = memory.and_then(|it| Allocator::new(&session, it)).map_err(fail)?;
        Ok(Self { bindings: HashMap::new(), allocator, session, _stream: stream.clone() })
    }

    /// The session and a shape's buffers, made when the shape is first seen.
    pub(super) fn binding(&mut self, shape: Shape, spec: &EngineSpec, stream: &Stream) -> Result<(&mut Session, &Binding), String> {
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

pub(super) fn options(spec: &EngineSpec, stream: &Stream, gpu: Gpu) -> Options {
    let mut options = vec![
        ("device_id", gpu.ordinal.to_string()),
        ("has_user_compute_stream", truth(true)),
        ("user_compute_stream", stream.address().to_string()),
    ];
    if spec.provider == ExecutionProvider::TensorRt {
        // Graphs are recorded by the context itself (`graphs`): ONNX Runtime's own hold one shape a session.
        options.push(("trt_cuda_graph_enable", truth(false)));
        // An engine that does not fit is an error, never a reason to build another.
        options.push(("trt_engine_cache_enable", truth(false)));
    } else {
        options.push(("use_tf32", truth(spec.gpu.tf32)));
    }
    options
}
