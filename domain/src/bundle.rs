//! The manifest of a bundle (`docs/BUNDLE.md`) and the digest that names the artifact in it.
//!
//! Enters: the text of a `manifest.json`. Leaves: a checked [`Manifest`]. Never: a file; reading and hashing is done elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::vocabulary::{FileRole, Pooling, Precision, RESERVED_ALIASES, Target, is_name};

/// The only format this code reads.
pub const FORMAT: &str = "akidb.bundle/1";

/// Most files one bundle may list.
pub const MAX_FILES: usize = 256;

/// Largest file a bundle may list, 1 PiB: the sum of all fits every integer it is kept in.
pub const MAX_FILE_BYTES: u64 = 1 << 50;

/// What is wrong with a manifest; each message names the key, the value and what would do.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, a missing key or a word outside the vocabulary.
    #[error("manifest is not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// A value outside its range.
    #[error("manifest key `{key}`: {problem}")]
    Invalid {
        /// Path of the key.
        key: &'static str,
        /// The value and the way out.
        problem: String,
    },
}

/// A checked `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: String,
    /// The model served.
    pub model: ModelCard,
    /// Which variant of it.
    pub variant: VariantCard,
    /// What it was built for.
    pub target: Target,
    /// The engine's inputs and output.
    pub graph: Graph,
    /// Every file, the manifest excepted.
    pub files: Vec<BundleFile>,
    /// Where it comes from.
    #[serde(default)]
    pub lineage: Lineage,
    /// The proof that came with it.
    #[serde(default)]
    pub evaluation: Option<Evaluation>,
    /// RFC 3339.
    #[serde(default)]
    pub created_at: Option<String>,
}

/// What is true of a model in every variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Catalog name.
    pub name: String,
    /// Hub id or folder of the weights.
    #[serde(default)]
    pub source: Option<String>,
    /// SPDX id.
    #[serde(default)]
    pub license: Option<String>,
    /// Length of an embedding.
    pub dimension: u32,
    /// Tokens kept of a text, special tokens included.
    pub max_tokens: u32,
    /// Pooling inside the graph.
    pub pooling: Pooling,
    /// Whether the graph's output has L2 norm 1.
    pub normalized: bool,
    /// Only vectors with the same id may be compared.
    pub embedding_space: String,
    /// Digest of the tokenizer file.
    pub tokenizer_sha256: String,
    /// Prompt name -> text put before the input.
    #[serde(default)]
    pub prompts: BTreeMap<String, String>,
    /// Random weights of the right shape.
    #[serde(default)]
    pub seeded: bool,
}

/// Which variant the bundle holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantCard {
    /// Unique in a version.
    pub name: String,
    /// Number format.
    pub precision: Precision,
}

/// The engine's tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// int64 `[batch, tokens]` each.
    pub inputs: Vec<String>,
    /// float32 `[batch, dimension]`.
    pub output: String,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFile {
    /// Relative, with `/`.
    pub path: String,
    /// What it is for.
    pub role: FileRole,
    /// Size.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// Where an artifact comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Artifact this one was made from.
    #[serde(default)]
    pub parent_digest: Option<String>,
    /// Calibration set.
    #[serde(default)]
    pub calibration_digest: Option<String>,
    /// Tool and options, in words.
    #[serde(default)]
    pub recipe: String,
    /// Files it was made from.
    #[serde(default)]
    pub source_files: Vec<SourceFile>,
}

/// A file an artifact was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its name.
    pub path: String,
    /// Its digest.
    pub sha256: String,
}

/// A measured proof of quality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// `parity`, `quality`, `distillation` or `not_applicable`.
    pub kind: String,
    /// Digest of the texts.
    #[serde(default)]
    pub dataset_digest: Option<String>,
    /// Number of texts.
    #[serde(default)]
    pub n: u64,
    /// Mean cosine to the parent's vectors.
    #[serde(default)]
    pub mean_cosine: Option<f64>,
    /// Least cosine.
    #[serde(default)]
    pub min_cosine: Option<f64>,
    /// Share of the parent's 10 nearest neighbours kept.
    #[serde(default)]
    pub recall_at_10: Option<f64>,
    /// Least cosine between two vectors of one text, whatever batches it came in.
    #[serde(default)]
    pub batch_invariance: Option<f64>,
    /// Least value allowed, per metric.
    #[serde(default)]
    pub gate: BTreeMap<String, f64>,
    /// What the tool concluded; [`Evaluation::verdict`] recomputes it.
    #[serde(default)]
    pub passed: bool,
    /// Why it does not apply.
    #[serde(default)]
    pub reason: Option<String>,
    /// What measured it.
    #[serde(default)]
    pub tool: Option<String>,
}

/// What an evaluation says about serving an artifact.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Every gated metric is at or above its gate.
    Passed,
    /// Seeded weights: nothing to prove, nothing proven; barred from experiments.
    NotApplicable,
    /// A metric below its gate or missing.
    Failed(String),
}

/// How an artifact came about; each way has a gate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Full precision, from a checkpoint: against its reference vectors.
    Root,
    /// A full-precision model of its own, trained to give what its parent, a teacher, gives: against the teacher, by a gate that its
    /// evaluation states.
    Student,
    /// Quantized or compiled: against the artifact that it was made from.
    Derived,
}

/// Gates below these do not count: a gate a tool sets for itself must not be laxer than the catalog's.
/// `(metric, least gate)` by [`Step`].
pub const ROOT_GATE: (&str, f64) = ("min_cosine", 0.9999);
/// See [`ROOT_GATE`]. A student has to state one besides.
pub const STUDENT_GATE: (&str, f64) = ("mean_cosine", 0.8);
/// See [`ROOT_GATE`].
pub const DERIVED_GATE: (&str, f64) = ("mean_cosine", 0.99);

impl Step {
    /// `parent_is_this_model`: whether the parent, where it is known, is an artifact of the same model. A student says so by the
    /// kind of its evaluation, and is believed only in full precision and with a parent that is not of its own model.
    pub fn of(precision: Precision, lineage: &Lineage, kind: &str, parent_is_this_model: Option<bool>) -> Self {
        match (precision, &lineage.parent_digest) {
            (Precision::Fp32, None) => Self::Root,
            (Precision::Fp32, Some(_)) if kind == "distillation" && parent_is_this_model != Some(true) => Self::Student,
            _ => Self::Derived,
        }
    }

    fn gate(self) -> (&'static str, f64) {
        match self {
            Self::Root => ROOT_GATE,
            Self::Student => STUDENT_GATE,
            Self::Derived => DERIVED_GATE,
        }
    }
}

impl Evaluation {
    /// Recomputes the verdict from the numbers; `passed` is not believed.
    pub fn verdict(&self, seeded: bool, step: Step) -> Verdict {
        if seeded {
            return Verdict::NotApplicable;
        }
        let (metric, least) = step.gate();
        if step == Step::Student && !self.gate.contains_key(metric) {
            return Verdict::Failed(format!("a distilled student states its own gate, and `{metric}` is not in it"));
        }
        let mut gates = self.gate.clone();
        let own = gates.entry(metric.to_owned()).or_insert(least);
        *own = own.max(least);
        for (metric, gate) in &gates {
            let value = match metric.as_str() {
                "mean_cosine" => self.mean_cosine,
                "min_cosine" => self.min_cosine,
                "recall_at_10" => self.recall_at_10,
                "batch_invariance" => self.batch_invariance,
                _ => return Verdict::Failed(format!("gate on unknown metric `{metric}`")),
            };
            match value {
                Some(value) if value >= *gate => {}
                Some(value) => return Verdict::Failed(format!("{metric} {value} is below its gate {gate}")),
                None => return Verdict::Failed(format!("{metric} was not measured; its gate is {gate}")),
            }
        }
        if self.n < 16 {
            return Verdict::Failed(format!("measured on {} texts; at least 16 are needed", self.n));
        }
        Verdict::Passed
    }
}

impl Manifest {
    /// Reads and checks the text of a `manifest.json`.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The artifact's name everywhere: SHA-256 of its files' `<sha256>  <path>\n` lines sorted by path.
    pub fn digest(&self) -> String {
        artifact_digest(self.files.iter().map(|it| (it.path.as_str(), it.sha256.as_str())))
    }

    /// The file with this role; `Manifest::parse` saw to it that `engine` and `tokenizer` are there once.
    pub fn file(&self, role: FileRole) -> Option<&BundleFile> {
        self.files.iter().find(|it| it.role == role)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|it| it.bytes).sum()
    }

    /// Whether this is an fp32 root: full precision and made from no other artifact.
    pub fn is_root(&self) -> bool {
        self.variant.precision == Precision::Fp32 && self.lineage.parent_digest.is_none()
    }

    fn check(&self) -> Result<(), ManifestError> {
        let fail = |key, problem: String| Err(ManifestError::Invalid { key, problem });
        if self.format != FORMAT {
            return fail("format", format!("`{}` is not supported; this version reads `{FORMAT}`", self.format));
        }
        let model = &self.model;
        if !is_name(&model.name) {
            return fail("model.name", format!("`{}` is not 1-128 of A-Za-z0-9._-", model.name));
        }
        if !(1..=65_536).contains(&model.dimension) {
            return fail("model.dimension", format!("{} is not in 1..=65536", model.dimension));
        }
        if !(1..=131_072).contains(&model.max_tokens) {
            return fail("model.max_tokens", format!("{} is not in 1..=131072", model.max_tokens));
        }
        if model.embedding_space.is_empty() || model.embedding_space.len() > 256 {
            return fail("model.embedding_space", "must have 1-256 bytes".to_owned());
        }
        let variant = self.variant.name.as_str();
        if !is_name(variant) || RESERVED_ALIASES.contains(&variant.to_ascii_lowercase().as_str()) {
            return fail("variant.name", format!("`{variant}` is not a name, or is the name of an alias"));
        }
        if self.graph.inputs.is_empty() || self.graph.inputs.len() > 8 {
            return fail("graph.inputs", format!("{} inputs; 1 to 8 are supported", self.graph.inputs.len()));
        }
        self.check_files()
    }

    fn check_files(&self) -> Result<(), ManifestError> {
        let fail = |problem: String| Err(ManifestError::Invalid { key: "files", problem });
        if self.files.len() > MAX_FILES {
            return fail(format!("{} files; at most {MAX_FILES} are allowed", self.files.len()));
        }
        let mut seen = std::collections::BTreeSet::new();
        for file in &self.files {
            if !is_relative_path(&file.path) {
                return fail(format!("path `{}` must be relative, without `..`, `\\`, control characters or empty parts", file.path));
            }
            if !seen.insert(&file.path) {
                return fail(format!("path `{}` is listed twice", file.path));
            }
            if file.bytes > MAX_FILE_BYTES {
                return fail(format!("`{}`: {} bytes; at most {MAX_FILE_BYTES} are allowed", file.path, file.bytes));
            }
            if !is_sha256(&file.sha256) {
                return fail(format!("`{}`: sha256 `{}` is not 64 lower-case hex digits", file.path, file.sha256));
            }
        }
        for role in [FileRole::Engine, FileRole::Tokenizer, FileRole::Reference] {
            match self.files.iter().filter(|it| it.role == role).count() {
                1 => {}
                0 => return fail(format!("no file has the role `{role}`: the bundle of `{}` has no {role}", self.model.name)),
                n => return fail(format!("{n} files have the role `{role}`; one is needed")),
            }
        }
        let tokenizer = self.file(FileRole::Tokenizer).map(|it| it.sha256.as_str());
        if tokenizer != Some(self.model.tokenizer_sha256.as_str()) {
            return fail(format!("the tokenizer's sha256 differs from model.tokenizer_sha256 `{}`", self.model.tokenizer_sha256));
        }
        Ok(())
    }
}

/// The digest of a set of `(path, sha256)` pairs; see [`Manifest::digest`].
pub fn artifact_digest<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let sorted: BTreeMap<&str, &str> = files.into_iter().collect();
    let mut hash = Sha256::new();
    for (path, sha256) in sorted {
        hash.update(format!("{sha256}  {path}\n"));
    }
    hex::encode(hash.finalize())
}

/// Whether `s` is a SHA-256 in lower-case hex.
pub fn is_sha256(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Without control characters: a line end would let two sets of files have one digest.
fn is_relative_path(path: &str) -> bool {
    path.len() <= 512
        && !path.contains(|c: char| c == '\\' || c.is_control())
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> serde_json::Value {
        let sha = |c: &str| c.repeat(64);
        serde_json::json!({
            "format": "akidb.bundle/1",
            "model": {"name": "m", "dimension": 384, "max_tokens": 256, "pooling": "mean", "normalized": true,
                      "embedding_space": "m@1", "tokenizer_sha256": sha("b"), "unknown": 1},
            "variant": {"name": "fp32", "precision": "fp32"},
            "target": {"provider": "portable"},
            "graph": {"inputs": ["input_ids", "attention_mask"], "output": "sentence_embedding"},
            "files": [
                {"path": "model.onnx", "role": "engine", "bytes": 10, "sha256": sha("a")},
                {"path": "tokenizer.json", "role": "tokenizer", "bytes": 2, "sha256": sha("b")},
                {"path": "reference.json", "role": "reference", "bytes": 3, "sha256": sha("c")},
            ],
        })
    }

    fn check(pointer: &str, value: serde_json::Value, expected: &str) {
        let mut json = manifest();
        *json.pointer_mut(pointer).unwrap() = value;
        let error = Manifest::parse(json.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{pointer}: {error}");
    }

    #[test]
    fn a_good_manifest_is_read_and_unknown_keys_are_ignored() {
        let manifest = Manifest::parse(manifest().to_string().as_bytes()).unwrap();
        assert_eq!(manifest.bytes(), 15);
        assert!(manifest.is_root());
    }

    #[test]
    fn each_bad_value_is_named() {
        check("/format", "akidb.bundle/9".into(), "`akidb.bundle/9` is not supported");
        check("/model/name", "a/b".into(), "model.name");
        check("/model/dimension", 0.into(), "0 is not in 1..=65536");
        check("/variant/name", "stable".into(), "name of an alias");
        check("/variant/precision", "fp64".into(), "unknown precision `fp64`");
        check("/files/0/path", "../model.onnx".into(), "must be relative");
        check("/files/0/path", "a\nb".into(), "must be relative");
        check("/files/0/path", "tokenizer.json".into(), "listed twice");
        check("/files/0/bytes", u64::MAX.into(), "18446744073709551615 bytes; at most");
        check("/files/0/sha256", "AA".into(), "64 lower-case hex digits");
        check("/files/1/role", "engine_data".into(), "has no tokenizer");
        check("/model/tokenizer_sha256", "d".repeat(64).into(), "differs from model.tokenizer_sha256");
    }

    /// `printf '<sha>  a\n<sha>  b\n' | sha256sum`
    #[test]
    fn the_digest_is_that_of_sorted_sha256sum_lines() {
        let (a, b) = ("0".repeat(64), "1".repeat(64));
        let digest = artifact_digest([("b", b.as_str()), ("a", a.as_str())]);
        assert_eq!(digest, hex::encode(Sha256::digest(format!("{a}  a\n{b}  b\n"))));
    }

    #[test]
    fn a_student_is_another_model_in_full_precision() {
        let parent = Lineage { parent_digest: Some("a".repeat(64)), ..Lineage::default() };
        assert_eq!(Step::of(Precision::Fp32, &Lineage::default(), "distillation", None), Step::Root);
        assert_eq!(Step::of(Precision::Fp32, &parent, "distillation", Some(false)), Step::Student);
        assert_eq!(Step::of(Precision::Fp32, &parent, "distillation", None), Step::Student);
        assert_eq!(Step::of(Precision::Fp32, &parent, "distillation", Some(true)), Step::Derived);
        assert_eq!(Step::of(Precision::Fp32, &parent, "quality", Some(false)), Step::Derived);
        assert_eq!(Step::of(Precision::Int8, &parent, "distillation", Some(false)), Step::Derived);
    }

    #[test]
    fn a_gate_may_be_stricter_but_never_laxer() {
        let mut evaluation: Evaluation = serde_json::from_value(
            serde_json::json!({"kind": "parity", "n": 16, "min_cosine": 0.99, "gate": {"min_cosine": 0.5}, "passed": true}),
        )
        .unwrap();
        assert!(matches!(evaluation.verdict(false, Step::Root), Verdict::Failed(why) if why.contains("0.99 is below its gate 0.9999")));
        evaluation.min_cosine = Some(0.999_99);
        assert_eq!(evaluation.verdict(false, Step::Root), Verdict::Passed);
        assert_eq!(evaluation.verdict(true, Step::Root), Verdict::NotApplicable);
        evaluation.kind = "distillation".into();
        evaluation.gate = BTreeMap::default();
        evaluation.mean_cosine = Some(0.95);
        let student = |it: &Evaluation| it.verdict(false, Step::Student);
        assert!(matches!(student(&evaluation), Verdict::Failed(why) if why.contains("states its own gate")));
        evaluation.gate.insert("mean_cosine".into(), 0.93);
        assert_eq!(student(&evaluation), Verdict::Passed);
        assert!(matches!(evaluation.verdict(false, Step::Derived), Verdict::Failed(why) if why.contains("0.95 is below its gate 0.99")));
        evaluation.gate.insert("mean_cosine".into(), 0.96);
        assert!(matches!(student(&evaluation), Verdict::Failed(why) if why.contains("mean_cosine 0.95 is below its gate 0.96")));
        evaluation.gate.insert("batch_invariance".into(), 0.99);
        evaluation.mean_cosine = Some(0.995);
        let engine = |it: &Evaluation| it.verdict(false, Step::Derived);
        assert!(matches!(engine(&evaluation), Verdict::Failed(why) if why.contains("batch_invariance was not measured")));
        evaluation.batch_invariance = Some(0.985);
        assert!(matches!(engine(&evaluation), Verdict::Failed(why) if why.contains("batch_invariance 0.985 is below its gate 0.99")));
        evaluation.batch_invariance = Some(0.9937);
        assert_eq!(engine(&evaluation), Verdict::Passed);
        evaluation.n = 3;
        assert!(matches!(evaluation.verdict(false, Step::Root), Verdict::Failed(_)));
    }
}
