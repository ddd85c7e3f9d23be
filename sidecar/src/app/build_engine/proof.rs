//! What an engine must give before a manifest is written over it.
//!
//! Enters: the engine, its reference texts, held-out texts with the fp32 vectors of them. Leaves: a [`Proof`] and the manifest's evaluation of
//! it. Never: a verdict of its own; the catalog's rule is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use akidb_domain::agreement::Agreement;
use akidb_domain::bundle::{Evaluation, Step, Verdict};
use akidb_domain::profile::Profile;
use akidb_domain::vocabulary::Precision;
use anyhow::Result;

use super::batch::embed;
use super::invariance::{self, Invariance};
use crate::engine::Engine;

/// Texts a batch while figures are taken.
pub(super) const ROWS: usize = 64;

/// What an engine gave.
#[derive(Debug)]
pub(super) struct Proof {
    /// Of the reference texts, each embedded alone.
    pub(super) vectors: Vec<Vec<f32>>,
    /// With fp32.
    pub(super) agreement: Agreement,
    /// With itself.
    pub(super) invariance: Invariance,
    /// SHA-256 of the file with the texts.
    pub(super) dataset: String,
    /// How long it took to load.
    pub(super) load: Duration,
}

/// Texts as token ids, and the vectors that they should get.
type Expected = (Vec<Vec<u32>>, Vec<Vec<f32>>);

/// Texts to prove an engine on, as token ids.
#[derive(Debug)]
pub(super) struct Asked {
    /// The bundle's reference texts and their fp32 vectors (or those of the graph that the engine is built from).
    pub(super) reference: Expected,
    /// Held-out texts and their fp32 vectors.
    pub(super) held_out: Option<Expected>,
    /// SHA-256 of the file with the texts that count: the held-out ones where there are some.
    pub(super) dataset: String,
}

impl Proof {
    /// Runs everything.
    pub(super) fn take(engine: &mut dyn Engine, asked: &Asked, profiles: &[Profile], load: Duration) -> Result<Self> {
        let (texts, expected) = &asked.reference;
        let vectors = embed(engine, texts, 1)?;
        let agreement = match &asked.held_out {
            Some((texts, expected)) => Agreement::of(expected, &embed(engine, texts, ROWS)?),
            None => Agreement::of(expected, &vectors),
        };
        let tried: Vec<Vec<u32>> =
            texts.iter().chain(asked.held_out.iter().flat_map(|it| &it.0)).take(invariance::TEXTS).cloned().collect();
        let invariance = invariance::measure(engine, &tried, profiles)?;
        // Few texts are each other's neighbours whatever an engine does.
        let agreement = Agreement { recall_at_10: agreement.recall_at_10.filter(|_| asked.held_out.is_some()), ..agreement };
        Ok(Self { vectors, agreement, invariance, dataset: asked.dataset.clone(), load })
    }

    /// As the manifest has it, and why it may not be written.
    pub(super) fn evaluation(&self, precision: Precision, seeded: bool, tool: String) -> (Evaluation, Option<String>) {
        let least = if precision < Precision::Fp8 { 0.999 } else { 0.99 };
        let gate = [("mean_cosine", least), ("batch_invariance", invariance::gate(precision))];
        let mut evaluation = Evaluation {
            kind: if seeded { "not_applicable" } else { "quality" }.to_owned(),
            dataset_digest: Some(self.dataset.clone()),
            n: self.agreement.texts as u64,
            mean_cosine: Some(self.agreement.mean_cosine),
            min_cosine: Some(self.agreement.min_cosine),
            recall_at_10: self.agreement.recall_at_10,
            batch_invariance: Some(self.invariance.cosine),
            gate: gate.map(|(metric, least)| (metric.to_owned(), least)).into_iter().collect::<BTreeMap<_, _>>(),
            passed: false,
            reason: seeded.then(|| "seeded".to_owned()),
            tool: Some(tool),
        };
        let verdict = evaluation.verdict(seeded, Step::Derived);
        evaluation.passed = verdict == Verdict::Passed;
        let why = match verdict {
            Verdict::Failed(why) if self.invariance.cosine < invariance::gate(precision) => {
                Some(format!("{why} ({} differ; if it has several profiles, build it with one)", self.invariance.between))
            }
            Verdict::Failed(why) => Some(why),
            _ => None,
        };
        (evaluation, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mean: f64, invariance: f64, precision: Precision, seeded: bool, expected: Option<&str>) {
        let agreement = Agreement { texts: 2_000, mean_cosine: mean, min_cosine: 0.99, recall_at_10: Some(0.95) };
        let invariance = Invariance { cosine: invariance, texts: 64, between: "batches of 1 and of 512".into() };
        let proof = Proof { vectors: Vec::new(), agreement, invariance, dataset: "d".into(), load: Duration::ZERO };
        let (evaluation, why) = proof.evaluation(precision, seeded, "tool".into());
        assert_eq!((evaluation.n, evaluation.recall_at_10, evaluation.passed), (2_000, Some(0.95), expected.is_none() && !seeded));
        match (why, expected) {
            (None, None) => {}
            (Some(got), Some(part)) => assert!(got.contains(part), "{got}"),
            (got, expected) => panic!("{got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn tensorrt_provider_test_a_missed_gate_is_named_with_its_figure() {
        check(0.9995, 0.99995, Precision::Fp16, false, None);
        check(0.9985, 0.99995, Precision::Fp16, false, Some("mean_cosine 0.9985 is below its gate 0.999"));
        check(0.9985, 0.99995, Precision::Fp8, false, None);
        check(0.9995, 0.9995, Precision::Fp16, false, Some("batch_invariance 0.9995 is below its gate 0.9999"));
        let apart =
            "batch_invariance 0.98 is below its gate 0.99 (batches of 1 and of 512 differ; if it has several profiles, build it with one)";
        for precision in [Precision::Fp8, Precision::Int8] {
            check(0.9985, 0.9937, precision, false, None);
            check(0.9985, 0.98, precision, false, Some(apart));
        }
        check(0.5, 0.98, Precision::Int8, true, None);
    }

    /// The real graph on the CPU, as an engine of one profile.
    #[test]
    fn tensorrt_provider_test_an_engine_that_is_its_parent_agrees_with_it_in_any_batch() {
        use akidb_domain::bundle::Manifest;
        use akidb_domain::reference::Reference;
        use akidb_domain::vocabulary::ExecutionProvider;

        use crate::engine::onnx::{self, Runtime};
        use crate::engine::{EngineSpec, GpuSpec};
        use crate::tokenizer::{Tokenizer, TokenizerPool};

        Runtime::init(&akidb_testkit::onnxruntime()).unwrap();
        let folder = akidb_testkit::bundle();
        let manifest = Manifest::parse(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let reference = std::fs::read(folder.join("reference.json")).unwrap();
        let reference = Reference::parse(&reference, manifest.model.dimension).unwrap();
        let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"), 32, &TokenizerPool::start(1).unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ids = |texts: Vec<String>| -> Vec<Vec<u32>> {
            runtime.block_on(tokenizer.encode(texts, true)).unwrap().into_iter().map(|it| it.ids).collect()
        };
        let held_out = ids((0..40).map(|it| format!("the {it} ships that left the harbour on day {}", it * it)).collect());
        let spec = EngineSpec {
            path: folder.join("model.onnx"),
            graph: manifest.graph.clone(),
            dimension: 384,
            provider: ExecutionProvider::Cpu,
            threads: 2,
            gpu: GpuSpec::default(),
        };
        let mut engine = onnx::load(&spec).unwrap();
        let expected = embed(&mut *engine, &held_out, 8).unwrap();
        let short: Vec<usize> = (0..reference.texts.len()).filter(|it| reference.texts[*it].len() < 60).collect();
        let texts = ids(short.iter().map(|it| reference.texts[*it].clone()).collect());
        let vectors = short.iter().map(|it| reference.vectors[*it].clone()).collect();
        let asked = Asked { reference: (texts, vectors), held_out: Some((held_out, expected)), dataset: "d".into() };
        let profiles = akidb_domain::profile::parse("1x16:8x16:24x32").unwrap();
        let proof = Proof::take(&mut *engine, &asked, &profiles, Duration::ZERO).unwrap();
        assert!(proof.agreement.min_cosine > 0.99999 && proof.invariance.cosine > 0.99999, "{proof:?}");
        assert!(proof.agreement.texts == 40 && proof.agreement.recall_at_10.unwrap() > 0.99, "{:?}", proof.agreement);
        let alone = Asked { held_out: None, ..asked };
        let proof = Proof::take(&mut *engine, &alone, &profiles, Duration::ZERO).unwrap();
        assert_eq!((proof.agreement.texts, proof.agreement.recall_at_10, proof.load), (short.len(), None, Duration::ZERO));
        let again = Agreement::of(&alone.reference.1, &proof.vectors);
        assert!((again.min_cosine - proof.agreement.min_cosine).abs() < f64::EPSILON, "{again:?}");
        assert!(proof.agreement.min_cosine > 0.9999, "{:?}", proof.agreement);
    }
}
