//! Which artifact serves where, on recorded facts.

use akidb_domain::bundle::Graph;
use akidb_domain::vocabulary::Target;

use super::*;
use crate::engine::device::Gpu;

/// What `akidb-sidecar devices` says of a machine with one H100 and TensorRT 10.6.
pub(in crate::models) fn h100() -> Machine {
    let gpu = Gpu {
        index: 0,
        uuid: "GPU-5f3c1a52-0d67-4f0e-9a51-0d1f7f1f6a10".into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        compute_capability: "9.0".into(),
        memory_bytes: 85_520_809_984,
        integrated: false,
    };
    let facts = Facts { gpus: vec![gpu], tensorrt: Some("10.6.0".into()), cuda_driver: Some("13.0".into()), ..Facts::default() };
    Machine { facts, devices: vec![0], demanded: None }
}

fn without(mut machine: Machine, provider: ExecutionProvider, why: &str) -> Machine {
    machine.facts.refuse(provider, why);
    machine
}

fn demanding(provider: ExecutionProvider) -> Machine {
    Machine { demanded: Some(provider), ..h100() }
}

fn engine(compute_capability: &str, tensorrt: &str) -> Target {
    Target {
        provider: TargetProvider::TensorRt,
        compute_capability: Some(compute_capability.into()),
        tensorrt_version: Some(tensorrt.into()),
        shape_profile: Some("1x16:32x64:512x256".into()),
    }
}

fn plain(provider: TargetProvider) -> Target {
    Target { provider, ..Target::portable() }
}

/// Artifacts `a`, `b`, ... of one variant with these targets: which is chosen, what runs it, and why it stands in.
fn check(machine: &Machine, precision: Precision, targets: &[Target], expected: Result<(char, ExecutionProvider, &str), &str>) {
    let graph = Graph { inputs: vec!["input_ids".into()], output: "embedding".into() };
    let names = 'a'..='z';
    let artifact = |(name, target): (char, &Target)| ServedArtifact {
        digest: name.to_string().repeat(64),
        target: target.clone(),
        graph: graph.clone(),
        files: Vec::new(),
    };
    let artifacts = names.zip(targets).map(artifact).collect();
    let served = ServedVariant { version: "1".into(), name: "v".into(), precision, hold: false, artifacts };
    match (PlannedVariant::of(&served, machine).choice, expected) {
        (Ok(choice), Ok((name, provider, why))) => {
            assert_eq!((choice.artifact.digest.chars().next(), choice.provider), (Some(name), provider), "{choice:?}");
            assert!(choice.fallback.contains(why) && choice.fallback.is_empty() == why.is_empty(), "{}", choice.fallback);
        }
        (Err(got), Err(part)) => assert!(got.contains(part), "{got}"),
        (got, expected) => panic!("{got:?}, expected {expected:?}"),
    }
}

use ExecutionProvider::{Cpu, Cuda, TensorRt};

#[test]
fn tensorrt_provider_test_the_exact_engine_is_chosen() {
    let (ours, plain) = (engine("9.0", "10.6"), Target::portable());
    check(&h100(), Precision::Fp16, &[plain.clone(), engine("8.9", "10.6"), ours.clone()], Ok(('c', TensorRt, "")));
    check(&h100(), Precision::Fp16, &[engine("9.0", "10.6.0")], Ok(('a', TensorRt, "")));
    check(&demanding(TensorRt), Precision::Fp16, &[plain, ours], Ok(('b', TensorRt, "")));
}

#[test]
fn tensorrt_provider_test_the_graph_stands_in_on_cuda_then_on_the_cpu_with_the_reason() {
    let both = [engine("8.9", "10.6"), Target::portable()];
    check(&h100(), Precision::Fp32, &both, Ok(('b', Cuda, "compute capability 8.9; this machine's GPU has 9.0")));
    let old = [engine("9.0", "10.5"), Target::portable()];
    check(&h100(), Precision::Fp32, &old, Ok(('b', Cuda, "engine of TensorRT 10.5; this machine has 10.6.0")));
    let blind = without(h100(), TensorRt, "libnvinfer.so.10 (TensorRT 10) cannot be loaded");
    check(&blind, Precision::Fp32, &[engine("9.0", "10.6"), Target::portable()], Ok(('b', Cuda, "libnvinfer.so.10")));
    let bare = without(blind, Cuda, "libcudnn.so.9 cannot be loaded");
    check(&bare, Precision::Fp32, &[engine("9.0", "10.6"), Target::portable()], Ok(('b', Cpu, "runs on `cpu` in its place")));
    check(&h100(), Precision::Fp32, &[Target::portable()], Ok(('a', Cuda, "it has no engine for TensorRT")));
    check(&bare, Precision::Fp32, &[Target::portable()], Ok(('a', Cpu, "")));
}

/// Variants `(name, precision, version, targets)` of one model; what serves `trt` of version 1.
fn lent(
    machine: &Machine,
    variants: &[(&str, Precision, &str, &[Target])],
) -> Result<(String, Precision, ExecutionProvider, String), String> {
    let variant = |(n, (name, precision, version, targets)): (usize, &(&str, Precision, &str, &[Target]))| {
        let artifact = |target: &Target| ServedArtifact {
            digest: char::from(b'a' + n as u8).to_string().repeat(64),
            target: target.clone(),
            graph: Graph { inputs: vec!["input_ids".into()], output: "embedding".into() },
            files: Vec::new(),
        };
        let artifacts = targets.iter().map(artifact).collect();
        ServedVariant { version: (*version).into(), name: (*name).into(), precision: *precision, hold: true, artifacts }
    };
    let model = ServedModel {
        name: "m".into(),
        version: "1".into(),
        dimension: 384,
        max_tokens: 256,
        pooling: akidb_domain::vocabulary::Pooling::Mean,
        normalized: true,
        embedding_space: "m@1".into(),
        prompts: BTreeMap::new(),
        seeded: false,
        variants: variants.iter().enumerate().map(variant).collect(),
        aliases: BTreeMap::new(),
    };
    let planned = PlannedModel::of(&model, machine);
    let found = planned.variants.into_iter().find(|it| it.at.variant == "trt" && it.at.version == "1").unwrap();
    found.choice.map(|it| (it.artifact.digest[..1].to_owned(), it.precision, it.provider, it.fallback))
}

#[test]
fn tensorrt_provider_test_engines_of_other_machines_are_stood_in_for_by_their_graph() {
    let (engines, portable) = ([engine("9.0", "10.6")], [Target::portable()]);
    let all: &[(&str, Precision, &str, &[Target])] = &[
        ("fp8-qdq", Precision::Fp8, "1", &portable),
        ("trt", Precision::Fp8, "1", &engines),
        ("int8", Precision::Int8, "1", &portable),
        ("fp32", Precision::Fp32, "1", &portable),
        ("fp32", Precision::Fp32, "2", &portable),
    ];
    let (digest, precision, provider, fallback) = lent(&h100(), all).unwrap();
    assert_eq!((digest.as_str(), precision, provider, fallback.as_str()), ("b", Precision::Fp8, TensorRt, ""));
    let mut ada = h100();
    ada.facts.gpus[0].compute_capability = "8.9".into();
    let (digest, precision, provider, fallback) = lent(&ada, all).unwrap();
    assert_eq!((digest.as_str(), precision, provider), ("d", Precision::Fp32, Cuda));
    assert!(fallback.contains("is an engine for compute capability 9.0; this machine's GPU has 8.9"), "{fallback}");
    assert!(fallback.ends_with("`fp32` (fp32) runs on `cuda` in its place"), "{fallback}");
    let (digest, _, provider, fallback) = lent(&Machine::cpu(), all).unwrap();
    assert!((digest.as_str(), provider) == ("d", Cpu) && fallback.contains("this machine serves `cpu` only"), "{fallback}");
    // The next best; no graph at all; a provider that is demanded; no artifact.
    assert_eq!(lent(&Machine::cpu(), &all[..3]).unwrap().1, Precision::Int8);
    assert!(lent(&Machine::cpu(), &[all[0], all[1], all[4]]).unwrap_err().contains("this machine serves `cpu` only"));
    let demanded = Machine { demanded: Some(TensorRt), ..ada };
    assert!(lent(&demanded, all).unwrap_err().contains("this machine's GPU has 8.9"));
    assert_eq!(lent(&h100(), &[("trt", Precision::Fp8, "1", &[]), all[3]]).unwrap_err(), "the catalog has no ready artifact of it");
}

#[test]
fn tensorrt_provider_test_what_is_demanded_is_never_replaced() {
    let both = [engine("8.9", "10.6"), Target::portable()];
    check(&demanding(TensorRt), Precision::Fp32, &both, Err("compute capability 8.9; this machine's GPU has 9.0"));
    check(&demanding(TensorRt), Precision::Fp32, &[Target::portable()], Err("demands `tensorrt`: build an engine"));
    check(&demanding(Cuda), Precision::Fp32, &[engine("9.0", "10.6"), Target::portable()], Ok(('b', Cuda, "serves `cuda` only")));
    check(&demanding(Cpu), Precision::Fp32, &[Target::portable()], Ok(('a', Cpu, "")));
}

#[test]
fn tensorrt_provider_test_an_engine_must_say_what_it_is_for() {
    let silent = Target { compute_capability: None, ..engine("9.0", "10.6") };
    check(&h100(), Precision::Fp16, &[silent], Err("does not say which compute capability"));
    let silent = Target { tensorrt_version: None, ..engine("9.0", "10.6") };
    check(&h100(), Precision::Fp16, &[silent], Err("does not say which TensorRT version"));
    check(
        &Machine::cpu(),
        Precision::Fp16,
        &[engine("9.0", "10.6")],
        Err("is built for `tensorrt` (compute capability 9.0); this machine serves `cpu` only"),
    );
}

#[test]
fn integer_graphs_are_the_cpus_and_fp8_graphs_nobodys() {
    check(&h100(), Precision::Int8, &[Target::portable()], Ok(('a', Cpu, "no engine for TensorRT")));
    check(&h100(), Precision::Int8, &[Target::portable(), plain(TargetProvider::Cpu)], Ok(('b', Cpu, "")));
    for machine in [h100(), Machine::cpu(), demanding(Cuda)] {
        check(&machine, Precision::Fp8, &[Target::portable()], Err("artifact aaaaaaaaaaaa is an FP8 QDQ graph"));
    }
    check(&h100(), Precision::Fp8, &[Target::portable(), engine("9.0", "10.6")], Ok(('b', TensorRt, "")));
    check(&Machine::cpu(), Precision::Int8, &[Target::portable()], Ok(('a', Cpu, "")));
}

#[test]
fn versions_agree_in_the_parts_that_both_have() {
    for (a, b, same) in [("10.6", "10.6.0", true), ("10.6.1", "10.6.0", false), ("10.6", "10.60", false), ("10", "10.6", false)] {
        assert_eq!(same_version(a, b), same, "{a} {b}");
    }
}
