//! Engines on a GPU. Where there is one, an engine is built, loaded, compared and run from several threads; elsewhere the same commands must
//! say precisely what is missing.

use std::path::Path;
use std::process::{Command, Output};

use akidb_domain::bundle::Manifest;
use akidb_domain::profile;
use akidb_domain::reference::{Reference, cosine};
use akidb_domain::vocabulary::ExecutionProvider;
use akidb_sidecar::engine::device::{self, Facts};
use akidb_sidecar::engine::onnx::{self, Runtime};
use akidb_sidecar::engine::{EngineSpec, GpuSpec, TokenBatch};

use super::rig::{engine_spec, manifest};
use super::shared;

/// Small, so that the build takes seconds.
const PROFILES: [&str; 2] = ["1x16:1x32:8x64", "1x16:8x32:32x256"];

fn facts() -> Facts {
    Runtime::init(&akidb_testkit::onnxruntime()).unwrap();
    device::detect(&akidb_testkit::onnxruntime(), &[0])
}

fn build(bundle: &Path, precision: &str, output: &Path) -> (bool, String) {
    build_with(bundle, precision, output, &[])
}

fn build_with(bundle: &Path, precision: &str, output: &Path, more: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_akidb-sidecar"));
    command.arg("build-engine").arg("--bundle").arg(bundle).args(["--precision", precision, "--optimization-level", "1"]);
    command.arg("--output").arg(output).arg("--onnxruntime").arg(akidb_testkit::onnxruntime());
    for it in PROFILES {
        command.args(["--profile", it]);
    }
    let Output { status, stderr, .. } = command.args(more).output().unwrap();
    (status.success(), String::from_utf8(stderr).unwrap())
}

fn batch(texts: &[Vec<u32>]) -> TokenBatch {
    let tokens = texts.iter().map(Vec::len).max().unwrap();
    let row = |it: &Vec<u32>, value: &dyn Fn(u32) -> i64| {
        let padding = std::iter::repeat_n(0, tokens - it.len());
        it.iter().map(|id| value(*id)).chain(padding).collect::<Vec<i64>>()
    };
    let ids = texts.iter().flat_map(|it| row(it, &i64::from)).collect();
    let mask = texts.iter().flat_map(|it| row(it, &|_| 1)).collect();
    TokenBatch { rows: texts.len(), tokens, ids, mask }
}

#[test]
fn tensorrt_provider_test_an_engine_is_built_and_serves_or_what_is_missing_is_named() {
    let (facts, folder) = (facts(), tempfile::tempdir().unwrap());
    let output = folder.path().join("engine");
    let (built, told) = build(&akidb_testkit::bundle(), "fp16", &output);
    if let Some(why) = facts.refusal(ExecutionProvider::TensorRt) {
        assert!(!built && told.contains("GPU providers") || told.contains(why), "{told}\nbut: {why}");
        assert!(!output.join("manifest.json").exists());
        return;
    }
    assert!(built, "{told}");
    let manifest = Manifest::parse(&std::fs::read(output.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(profile::join(&profile::parse(manifest.target.shape_profile.as_deref().unwrap()).unwrap()), PROFILES.join(","));
    let reference = std::fs::read(akidb_testkit::bundle().join("reference.json")).unwrap();
    let reference = Reference::parse(&reference, manifest.model.dimension).unwrap();
    serves(&output, &manifest, &reference);
    corrupt(&output, &manifest);
}

fn spec(output: &Path, manifest: &Manifest) -> EngineSpec {
    let gpu = GpuSpec {
        devices: vec![0],
        contexts: 2,
        cuda_graphs: vec!["1x16".parse().unwrap()],
        cuda_graph_limit: 8,
        tf32: true,
        profiles: PROFILES.iter().map(|it| it.parse().unwrap()).collect(),
        narrow: vec![output.join("model.profile0.onnx")],
        max_tokens: manifest.model.max_tokens as usize,
    };
    EngineSpec { path: output.join("model.onnx"), provider: ExecutionProvider::TensorRt, gpu, ..engine_spec(manifest) }
}

/// Alone, together, more than a batch holds, so often that shapes become graphs, on two contexts at a time.
fn serves(output: &Path, manifest: &Manifest, reference: &Reference) {
    let rig = shared();
    let texts: Vec<Vec<u32>> =
        rig.runtime.block_on(rig.tokenizer.encode(reference.texts.clone(), true)).unwrap().into_iter().map(|it| it.ids).collect();
    let mut first = onnx::load(&spec(output, manifest)).unwrap();
    let others = first.contexts();
    assert_eq!(others.len(), 1);
    std::thread::scope(|scope| {
        for mut engine in std::iter::once(first).chain(others) {
            let texts = &texts;
            scope.spawn(move || {
                for _ in 0..8 {
                    for (ids, want) in texts.iter().zip(&reference.vectors) {
                        assert!(cosine(&engine.run(&batch(std::slice::from_ref(ids))).unwrap(), want) > 0.999);
                        assert!(engine.device_time().is_some_and(|it| !it.is_zero()));
                        engine.settle();
                    }
                    for some in texts.chunks(3) {
                        let got = engine.run(&batch(some)).unwrap();
                        for (vector, ids) in got.chunks(manifest.model.dimension as usize).zip(some) {
                            let at = texts.iter().position(|it| it == ids).unwrap();
                            assert!(cosine(vector, &reference.vectors[at]) > 0.999, "text {at} among three");
                        }
                        engine.settle();
                    }
                }
                assert!(engine.recorded() > 1, "1x16, and what ran often: {}", engine.recorded());
                let many: Vec<Vec<u32>> = texts.iter().cycle().take(70).cloned().collect();
                let got = engine.run(&batch(&many)).unwrap();
                for (row, vector) in got.chunks(manifest.model.dimension as usize).enumerate() {
                    assert!(cosine(vector, &reference.vectors[row % texts.len()]) > 0.999, "text {row}");
                }
                let long = TokenBatch { rows: 1, tokens: 300, ids: vec![100; 300], mask: vec![1; 300] };
                let error = engine.run(&long).unwrap_err().to_string();
                assert!(error.contains("300 tokens is outside the engine's shape profile"), "{error}");
            });
        }
    });
}

/// A byte in the engine's middle.
fn corrupt(output: &Path, manifest: &Manifest) {
    let path = output.join("model.onnx");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[..4_096].copy_within(middle..middle + 4_096, 0);
    std::fs::write(&path, bytes).unwrap();
    assert!(onnx::load(&spec(output, manifest)).is_err());
}

#[test]
fn tensorrt_provider_test_a_precision_that_a_graph_does_not_give_is_refused_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (built, told) = build(&akidb_testkit::bundle(), "int8", &folder.path().join("engine"));
    assert!(!built && told.contains("is a graph in fp32; an engine in int8 is built from one in int8"), "{told}");
    let (built, told) = build(Path::new("x.trt"), "fp16", &folder.path().join("engine"));
    assert!(!built && told.contains("x.trt is a raw TensorRT plan"), "{told}");
}

#[test]
fn tensorrt_provider_test_held_out_texts_that_prove_nothing_are_refused_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (few, output) = (folder.path().join("few.txt"), folder.path().join("engine"));
    std::fs::write(&few, "one\ntwo\nthree\n").unwrap();
    let few = few.to_str().unwrap();
    let refused = |more: &[&str], part: &str| {
        let (built, told) = build_with(&akidb_testkit::bundle(), "fp16", &output, more);
        assert!(!built && told.contains(part), "{more:?}: {told}");
    };
    refused(&["--test-dataset", few], "holds 3 different texts; at least 32 are needed");
    refused(&["--test-dataset", "/no/such/file"], "`--test-dataset` /no/such/file cannot be read");
    refused(&["--test-dataset", few, "--evaluate", "5"], "5 is not in 32..=100000");
    refused(&["--register", "elsewhere"], "upload, in-place");
    assert!(!output.exists());
}

#[test]
fn tensorrt_provider_test_the_cuda_provider_gives_the_same_vectors_or_says_why_not() {
    let facts = facts();
    let gpu = GpuSpec { contexts: 1, max_tokens: 256, ..GpuSpec::default() };
    let spec = EngineSpec { provider: ExecutionProvider::Cuda, gpu, ..engine_spec(&manifest()) };
    let loaded = onnx::load(&spec);
    let Some(why) = facts.refusal(ExecutionProvider::Cuda) else {
        let texts = [vec![101, 7_592, 102], vec![101, 2_088, 2_003, 102]];
        let (ours, cpus) =
            (loaded.unwrap().run(&batch(&texts)).unwrap(), onnx::load(&engine_spec(&manifest())).unwrap().run(&batch(&texts)).unwrap());
        for (a, b) in ours.chunks(384).zip(cpus.chunks(384)) {
            assert!(cosine(a, b) > 0.9999);
        }
        return;
    };
    let error = loaded.err().expect("a refusal").to_string();
    assert!(error.contains("`cuda` cannot serve here"), "{error}, but: {why}");
}
