//! Shapes that run as CUDA graphs. They are made on a thread of their own while the context serves without them.
//!
//! Enters: configured shapes. Leaves: a part's run, as a graph where there is one. Never: a capture beside any other work of the process.

use std::path::PathBuf;
use std::sync::mpsc::{TryRecvError, channel};
use std::sync::{PoisonError, RwLock};

use akidb_domain::profile::Shape;
use akidb_domain::vocabulary::ExecutionProvider;

use super::Bound;
use super::plane::Plane;
use crate::engine::TokenBatch;
use crate::engine::buckets::Part;

/// A shape that runs as a CUDA graph.
pub(super) struct Graph {
    shape: Shape,
    pub(super) plane: Plane,
    captured: bool,
}

/// While a graph is captured, CUDA forbids every other thread of the process to take memory: whoever may do so holds this for reading.
pub(super) static CAPTURE: RwLock<()> = RwLock::new(());

impl Bound {
    /// Makes the sessions of CUDA graphs on a thread of their own; they are captured at their first runs.
    pub(super) fn begin_graphs(&mut self) {
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
    pub(super) fn collect_graphs(&mut self) {
        while let Some(coming) = &self.coming {
            match coming.try_recv() {
                Ok(graph) => self.graphs.push(graph),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.coming = None,
            }
        }
    }

    /// Runs a part as a graph where there is one, which is captured at its first run: then nothing else may be at work.
    pub(super) fn run_part(&mut self, batch: &TokenBatch, part: &Part, vectors: &mut Vec<f32>) -> Result<(), String> {
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
}
