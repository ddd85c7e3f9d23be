//! Parity: does an engine give the vectors its bundle promises?
//!
//! Enters: the text of a `reference.json`, vectors. Leaves: the least cosine and the gate it must pass. Never: an engine.

use serde::{Deserialize, Serialize};

use crate::vocabulary::{ExecutionProvider, Precision};

/// Reference texts and the vectors expected of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// At least 16.
    pub texts: Vec<String>,
    /// One a text.
    pub vectors: Vec<Vec<f32>>,
}

/// Fewest texts that prove anything.
pub const MIN_TEXTS: usize = 16;

/// Why reference vectors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// Not the JSON described in `docs/BUNDLE.md`.
    #[error("reference.json is not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Too few, or of the wrong length.
    #[error("reference.json: {0}")]
    Invalid(String),
}

impl Reference {
    /// Reads and checks a `reference.json` for vectors of `dimension` floats.
    pub fn parse(json: &[u8], dimension: u32) -> Result<Self, ReferenceError> {
        let reference: Self = serde_json::from_slice(json)?;
        if reference.texts.len() < MIN_TEXTS || reference.texts.len() != reference.vectors.len() {
            let (texts, vectors) = (reference.texts.len(), reference.vectors.len());
            return Err(ReferenceError::Invalid(format!("{texts} texts and {vectors} vectors; at least {MIN_TEXTS} of each are needed")));
        }
        if let Some(bad) = reference.vectors.iter().find(|it| it.len() != dimension as usize) {
            return Err(ReferenceError::Invalid(format!("a vector has {} numbers; the model's dimension is {dimension}", bad.len())));
        }
        Ok(reference)
    }

    /// The least cosine between the expected vectors and `got`, in the same order. A vector that is missing, zero or not finite counts as -1.
    pub fn min_cosine(&self, got: &[Vec<f32>]) -> f64 {
        let pairs = self.vectors.iter().enumerate().map(|(i, want)| got.get(i).map_or(-1.0, |it| cosine(want, it)));
        pairs.fold(1.0, f64::min)
    }
}

/// The least cosine at which an engine may serve on `provider`; `same`: its reference vectors were made on that one too.
pub fn parity_gate(precision: Precision, provider: ExecutionProvider, same: bool) -> f64 {
    match (precision, provider, same) {
        (Precision::Fp32, _, true) => 0.9999,
        // TensorRT's kernels follow from the batch, and what is quantized then rounds apart, about as much as it is from fp32 (docs/GPU.md).
        (_, _, false) | (Precision::Fp8, ..) | (Precision::Int8, ExecutionProvider::TensorRt, true) => 0.99,
        (_, _, true) => 0.999,
    }
}

/// Cosine of the angle between two vectors; -1 where it is not defined.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return -1.0;
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(p, q)| f64::from(*p) * f64::from(*q)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if cosine.is_finite() { cosine } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &[f32], b: &[f32], expected: f64) {
        assert!((cosine(a, b) - expected).abs() < 1e-12, "{a:?} {b:?}: {}", cosine(a, b));
    }

    #[test]
    fn cosines() {
        check(&[1.0, 0.0], &[2.0, 0.0], 1.0);
        check(&[1.0, 0.0], &[0.0, 1.0], 0.0);
        check(&[0.0, 0.0], &[0.0, 1.0], -1.0);
        check(&[f32::NAN, 0.0], &[0.0, 1.0], -1.0);
        check(&[1.0], &[1.0, 0.0], -1.0);
    }

    #[test]
    fn one_wrong_or_missing_vector_fails_parity() {
        let vectors: Vec<Vec<f32>> = (0..16).map(|i| vec![1.0, i as f32]).collect();
        let reference = Reference { texts: vec![String::new(); 16], vectors: vectors.clone() };
        assert!(reference.min_cosine(&vectors) > 0.999_999);
        assert!((reference.min_cosine(&vectors[..15]) + 1.0).abs() < 1e-9);
        let mut wrong = vectors;
        wrong[3] = vec![1.0, -3.0];
        assert!(reference.min_cosine(&wrong) < parity_gate(Precision::Int8, ExecutionProvider::Cpu, false));
    }

    #[test]
    fn what_is_quantized_on_tensorrt_may_differ_by_its_batch() {
        let check = |precision, provider, expected: f64| {
            assert!((parity_gate(precision, provider, true) - expected).abs() < 1e-12, "{precision} {provider}");
        };
        check(Precision::Int8, ExecutionProvider::Cpu, 0.999);
        check(Precision::Int8, ExecutionProvider::TensorRt, 0.99);
        check(Precision::Fp8, ExecutionProvider::TensorRt, 0.99);
        check(Precision::Fp16, ExecutionProvider::TensorRt, 0.999);
    }
}
