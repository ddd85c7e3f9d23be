//! Vectors as clients want them: cut, normalised, as numbers or base64.
//!
//! Enters: an engine's vector. Leaves: the same, shorter or encoded. Never: a division by zero.

use std::io::{self, Write};

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::ser::Formatter;
use utoipa::ToSchema;

use super::error::ApiError;

/// Bytes of an answer beside its vectors, and of each vector beside its numbers.
const ENVELOPE: usize = 512;
const AROUND: usize = 64;
/// Bytes of most numbers such as `-0.0123456789,`.
const NUMBER: usize = 14;

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// base64 of little-endian float32.
    Base64,
}

impl EncodingFormat {
    /// About the bytes that vectors take as JSON, rather more than less.
    pub(super) fn bytes(self, vectors: &[Vec<f32>]) -> usize {
        let of = |numbers: usize| match self {
            Self::Float => NUMBER * numbers,
            Self::Base64 => (size_of::<f32>() * numbers).div_ceil(3) * 4,
        };
        vectors.iter().map(|it| AROUND + of(it.len())).sum()
    }
}

/// A vector on the wire.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Vector {
    /// Numbers.
    Float(Vec<f32>),
    /// base64 of little-endian float32.
    #[schema(value_type = String)]
    Base64(Bytes),
}

/// Bytes that [`answer`] writes as base64.
#[derive(Debug)]
pub(super) struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

/// Compact JSON with bytes as base64: as strings, the serializer would look at every character for what to escape, which took longer than to
/// encode them.
struct Base64Bytes;

impl Formatter for Base64Bytes {
    fn write_byte_array<W: ?Sized + Write>(&mut self, writer: &mut W, value: &[u8]) -> io::Result<()> {
        writer.write_all(b"\"")?;
        {
            let mut encoder = EncoderWriter::new(&mut *writer, &STANDARD);
            encoder.write_all(value)?;
            encoder.finish()?;
        }
        writer.write_all(b"\"")
    }
}

impl Vector {
    pub(super) fn new(vector: Vec<f32>, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Float(vector),
            EncodingFormat::Base64 => Self::Base64(Bytes(vector.iter().flat_map(|it| it.to_le_bytes()).collect())),
        }
    }
}

/// An answer whose vectors take `bytes` ([`EncodingFormat::bytes`]), as JSON. Its buffer is long enough from the start: one that grows by
/// doubling copies a vector's text several times.
pub(super) fn answer(headers: HeaderMap, body: &impl Serialize, bytes: usize) -> Response {
    let mut json = Vec::with_capacity(ENVELOPE + bytes);
    // Strings, numbers and lists of them can always be written.
    match write(&mut json, body) {
        Ok(()) => (headers, [(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => ApiError::Internal { cause: error.to_string() }.into_response(),
    }
}

fn write(json: &mut Vec<u8>, body: &impl Serialize) -> serde_json::Result<()> {
    body.serialize(&mut serde_json::Serializer::with_formatter(json, Base64Bytes))
}

/// Cuts a vector to its first `dimensions` numbers and gives what is left norm 1; `normalize` asks for that without a cut.
pub(super) fn fit(vector: &mut Vec<f32>, dimensions: Option<usize>, normalize: bool) {
    let cut = dimensions.is_some_and(|it| it < vector.len());
    if let Some(dimensions) = dimensions {
        vector.truncate(dimensions);
    }
    let norm = vector.iter().map(|it| f64::from(*it) * f64::from(*it)).sum::<f64>().sqrt();
    if (cut || normalize) && norm > 0.0 {
        for number in vector {
            *number = (f64::from(*number) / norm) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut vector: Vec<f32>, dimensions: Option<usize>, normalize: bool, expected: &[f32]) {
        fit(&mut vector, dimensions, normalize);
        assert_eq!(vector, expected);
    }

    #[test]
    fn vectors_are_cut_and_normalised() {
        check(vec![3.0, 4.0, 12.0], Some(2), false, &[0.6, 0.8]);
        check(vec![3.0, 4.0], Some(2), false, &[3.0, 4.0]);
        check(vec![3.0, 4.0], None, true, &[0.6, 0.8]);
        check(vec![0.0, 0.0, 1.0], Some(2), true, &[0.0, 0.0]);
    }

    #[test]
    fn an_answer_fits_its_buffer_and_leaves_little_of_it() {
        let numbers: Vec<f32> = (1..=384).map(|it| -(it as f32).sqrt() / 391.0).collect();
        let all = vec![numbers; 256];
        for format in [EncodingFormat::Float, EncodingFormat::Base64] {
            let mut json = Vec::new();
            write(&mut json, &all.iter().map(|it| Vector::new(it.clone(), format)).collect::<Vec<_>>()).unwrap();
            let written = json.len();
            let room = ENVELOPE + format.bytes(&all);
            assert!((written..written + written / 4).contains(&room), "{format:?}: {room} for {written}");
        }
    }

    #[test]
    fn base64_is_little_endian() {
        for (numbers, expected) in [(1, "AACAPw=="), (2, "AACAPwAAgD8="), (3, "AACAPwAAgD8AAIA/")] {
            let mut json = Vec::new();
            write(&mut json, &Vector::new(vec![1.0; numbers], EncodingFormat::Base64)).unwrap();
            assert_eq!(String::from_utf8(json).unwrap(), format!("\"{expected}\""));
        }
    }
}
