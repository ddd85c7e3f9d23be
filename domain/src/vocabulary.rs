//! The words every room uses, each with its one spelling on the wire, in SQL, in metrics and in documents.
//!
//! Enters: strings. Leaves: checked values. Never: a default for an unknown word; it is an error that lists the known ones.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A word that is not part of the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{value}`: expected one of {expected}")]
pub struct UnknownWord {
    /// The kind of word, e.g. `precision`.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// The words that exist, comma-separated.
    pub expected: String,
}

/// Declares a closed vocabulary: an enum with one spelling a word.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every word, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The one spelling.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;
            fn from_str(s: &str) -> Result<Self, UnknownWord> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord {
                        what: $what,
                        value: s.to_owned(),
                        expected: [$($word),+].join(", "),
                    }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = UnknownWord;
            fn try_from(s: String) -> Result<Self, UnknownWord> { s.parse() }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self { word.as_str().to_owned() }
        }
    };
}

words!(
    /// Number format of an engine's heavy layers, from the highest to the lowest.
    Precision, "precision", {
        /// 32-bit floats.
        Fp32 = "fp32",
        /// 32-bit floats with 10-bit mantissas in matrix products.
        Tf32 = "tf32",
        /// 16-bit floats.
        Fp16 = "fp16",
        /// 8-bit floats (E4M3).
        Fp8 = "fp8",
        /// 8-bit integers.
        Int8 = "int8",
    }
);

words!(
    /// What runs an engine (ONNX Runtime's term), in order of preference.
    ExecutionProvider, "execution provider", {
        /// NVIDIA TensorRT.
        TensorRt = "tensorrt",
        /// NVIDIA CUDA.
        Cuda = "cuda",
        /// The CPU, always there.
        Cpu = "cpu",
    }
);

words!(
    /// What an artifact was built for: any provider, or one.
    TargetProvider, "target provider", {
        /// A plain ONNX file that any provider may run.
        Portable = "portable",
        /// Only the CPU provider.
        Cpu = "cpu",
        /// Only CUDA.
        Cuda = "cuda",
        /// Only TensorRT.
        TensorRt = "tensorrt",
    }
);

words!(
    /// How token vectors become one vector.
    Pooling, "pooling", {
        /// Mean over the tokens that are not padding.
        Mean = "mean",
        /// The first token's vector.
        Cls = "cls",
    }
);

words!(
    /// The part of an experiment a request meets. Traffic outside an experiment is `baseline`.
    Arm, "arm", {
        /// The stable variant, and all traffic outside an experiment.
        Baseline = "baseline",
        /// The stable variant in a lane of its own, as large as the canary's.
        Control = "control",
        /// The variant on trial.
        Canary = "canary",
        /// 5 % of all traffic on the canary's variant, compared with the hold-back at a share of 95 %.
        CanarySample = "canary-sample",
    }
);

words!(
    /// Why the text is embedded: looked up with, or stored in an index.
    Purpose, "purpose", {
        /// A query: may meet a canary.
        Query = "query",
        /// A document for an index: stays on the stable variant.
        Index = "index",
    }
);

words!(
    /// Where an artifact is in its life.
    ArtifactState, "artifact state", {
        /// Files are there and match their digests.
        Uploaded = "uploaded",
        /// An evaluation is attached.
        Validated = "validated",
        /// The evaluation passed its gate: sidecars may serve it.
        Ready = "ready",
        /// Out of service; kept for lineage.
        Retired = "retired",
    }
);

words!(
    /// What a file of a bundle is for.
    FileRole, "file role", {
        /// The engine.
        Engine = "engine",
        /// Weights kept outside the engine file.
        EngineData = "engine_data",
        /// The tokenizer.
        Tokenizer = "tokenizer",
        /// Reference texts and vectors.
        Reference = "reference",
    }
);

words!(
    /// What a bearer token may do.
    Role, "role", {
        /// Everything.
        Admin = "admin",
        /// Read.
        Viewer = "viewer",
        /// Watch and report, for one namespace and app.
        Sidecar = "sidecar",
    }
);

/// What an artifact was built for. `portable` artifacts have no further fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The provider it needs.
    pub provider: TargetProvider,
    /// CUDA compute capability, e.g. `9.0`.
    #[serde(default)]
    pub compute_capability: Option<String>,
    /// TensorRT version, e.g. `10.6`.
    #[serde(default)]
    pub tensorrt_version: Option<String>,
    /// `min:opt:max`, each `BATCHxTOKENS`.
    #[serde(default)]
    pub shape_profile: Option<String>,
}

impl Target {
    /// Any provider.
    pub fn portable() -> Self {
        Self { provider: TargetProvider::Portable, compute_capability: None, tensorrt_version: None, shape_profile: None }
    }

    /// Whether a CPU can run it.
    pub fn fits_cpu(&self) -> bool {
        matches!(self.provider, TargetProvider::Portable | TargetProvider::Cpu)
    }
}

/// How a caller names what should serve it: `name`, `name@alias` or `name@variant`. Case-insensitive, short names resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelRef {
    /// The model, in lower case.
    pub model: String,
    /// What stands after `@`, in lower case.
    pub selector: Option<String>,
}

/// Short names of well-known models.
const SHORT_NAMES: &[(&str, &str)] =
    &[("bert-base", "bert-base-uncased"), ("bge-small", "bge-small-en-v1.5"), ("uae-large", "uae-large-v1")];

/// A model reference nobody could mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a model reference: write `name`, `name@alias` or `name@variant`, of letters, digits, `.`, `_`, `-`")]
pub struct BadModelRef(pub String);

impl FromStr for ModelRef {
    type Err = BadModelRef;

    fn from_str(s: &str) -> Result<Self, BadModelRef> {
        let bad = || BadModelRef(s.chars().take(200).collect());
        let (model, selector) = match s.split_once('@') {
            Some((model, selector)) => (model, Some(selector)),
            None => (s, None),
        };
        if !is_name(model) || selector.is_some_and(|it| !is_name(it)) {
            return Err(bad());
        }
        Ok(Self { model: canonical_model(model), selector: selector.map(str::to_ascii_lowercase) })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Some(selector) => write!(f, "{}@{selector}", self.model),
            None => f.write_str(&self.model),
        }
    }
}

/// Whether `s` may name a model, version, variant or alias: 1–128 of `A-Za-z0-9._-`, not all dots.
pub fn is_name(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 128
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !s.bytes().all(|b| b == b'.')
}

/// The form in which model names are compared: lower case, short names written out.
pub fn canonical_model(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    SHORT_NAMES.iter().find(|(short, _)| *short == lower).map_or(lower, |(_, long)| (*long).to_owned())
}

/// Aliases the system itself gives meaning to; a variant may not carry one of these names.
pub const RESERVED_ALIASES: &[&str] = &["default", "stable", "canary"];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: Option<(&str, Option<&str>)>) {
        let got = input.parse::<ModelRef>().ok().map(|it| (it.model, it.selector));
        assert_eq!(got, expected.map(|(m, s)| (m.to_owned(), s.map(str::to_owned))), "{input}");
    }

    #[test]
    fn model_references() {
        check("all-MiniLM-L6-v2", Some(("all-minilm-l6-v2", None)));
        check("all-MiniLM-L6-v2@INT8", Some(("all-minilm-l6-v2", Some("int8"))));
        check("BERT-base", Some(("bert-base-uncased", None)));
        check("uae-large@stable", Some(("uae-large-v1", Some("stable"))));
        check("", None);
        check("a@", None);
        check("..", None);
        check("a/b", None);
        check("a@b@c", None);
    }

    #[test]
    fn an_unknown_word_lists_the_known_ones() {
        let error = "fp64".parse::<Precision>().unwrap_err();
        assert_eq!(error.to_string(), "unknown precision `fp64`: expected one of fp32, tf32, fp16, fp8, int8");
    }

    #[test]
    fn every_word_reads_back() {
        for arm in Arm::ALL {
            assert_eq!(arm.as_str().parse::<Arm>(), Ok(*arm));
        }
        for precision in Precision::ALL {
            assert_eq!(precision.as_str().parse::<Precision>(), Ok(*precision));
        }
    }
}
