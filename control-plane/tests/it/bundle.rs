//! Small bundles, so that a test may spoil one and be quick about it.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A bundle of a few kilobytes that passes every check the control plane makes.
pub(crate) struct Bundle {
    pub(crate) model: String,
    pub(crate) variant: String,
    pub(crate) precision: String,
    pub(crate) engine: Vec<u8>,
    pub(crate) seeded: bool,
    pub(crate) evaluation: Value,
    pub(crate) parent: Option<String>,
    pub(crate) target: Value,
}

impl Bundle {
    pub(crate) fn new(model: &str, variant: &str) -> Self {
        let evaluation = json!({"kind": "parity", "n": 16, "mean_cosine": 1.0, "min_cosine": 1.0, "gate": {}, "passed": true});
        let engine = format!("engine of {model} {variant}").into_bytes();
        Self {
            model: model.to_owned(),
            variant: variant.to_owned(),
            precision: "fp32".to_owned(),
            engine,
            seeded: false,
            evaluation,
            parent: None,
            target: json!({"provider": "portable"}),
        }
    }

    pub(crate) fn files(&self) -> Vec<(&'static str, &'static str, Vec<u8>)> {
        let texts: Vec<String> = (0..16).map(|i| format!("text {i}")).collect();
        let vectors = vec![[1.0, 0.0, 0.0, 0.0]; 16];
        let reference = json!({"texts": texts, "vectors": vectors}).to_string().into_bytes();
        vec![
            ("model.onnx", "engine", self.engine.clone()),
            ("reference.json", "reference", reference),
            ("tokenizer.json", "tokenizer", b"{}".to_vec()),
        ]
    }

    pub(crate) fn manifest(&self) -> Value {
        let file = |(path, role, bytes): &(&str, &str, Vec<u8>)| json!({"path": path, "role": role, "bytes": bytes.len(), "sha256": sha256(bytes)});
        json!({
            "format": "akidb.bundle/1",
            "model": {"name": self.model, "dimension": 4, "max_tokens": 16, "pooling": "mean", "normalized": true,
                      "embedding_space": format!("{}@1", self.model), "tokenizer_sha256": sha256(b"{}"), "seeded": self.seeded},
            "variant": {"name": self.variant, "precision": self.precision},
            "target": self.target,
            "graph": {"inputs": ["input_ids", "attention_mask"], "output": "sentence_embedding"},
            "files": self.files().iter().map(file).collect::<Vec<_>>(),
            "lineage": {"parent_digest": self.parent},
            "evaluation": self.evaluation,
        })
    }

    /// A quantized child of the artifact `parent`, with this mean cosine to it.
    pub(crate) fn int8(model: &str, parent: &str, mean_cosine: f64) -> Self {
        let evaluation = json!({"kind": "quality", "n": 2_000, "mean_cosine": mean_cosine, "min_cosine": 0.98, "recall_at_10": 0.95,
                                "gate": {"mean_cosine": 0.5, "recall_at_10": 0.9}, "passed": true});
        let (precision, parent) = ("int8".to_owned(), Some(parent.to_owned()));
        Self { precision, evaluation, parent, ..Self::new(model, "int8") }
    }

    /// An FP8 engine for a Hopper GPU, built from the artifact `parent`, whose vectors differ by batch by this cosine.
    pub(crate) fn engine(model: &str, parent: &str, batch_invariance: f64) -> Self {
        let evaluation = json!({"kind": "quality", "n": 2_000, "mean_cosine": 0.9985, "min_cosine": 0.994, "recall_at_10": 0.949,
                                "batch_invariance": batch_invariance, "gate": {"mean_cosine": 0.99, "batch_invariance": 0.99}});
        let target = json!({"provider": "tensorrt", "compute_capability": "9.0", "tensorrt_version": "10.6.0",
                            "shape_profile": "1x16:64x32:512x256"});
        let (precision, parent) = ("fp8".to_owned(), Some(parent.to_owned()));
        Self { precision, evaluation, parent, target, ..Self::new(model, "tensorrt-fp8") }
    }

    /// Writes it to a new folder.
    pub(crate) fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        for (path, _, bytes) in self.files() {
            std::fs::write(folder.join(path), bytes).unwrap();
        }
        std::fs::write(folder.join("manifest.json"), self.manifest().to_string()).unwrap();
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
