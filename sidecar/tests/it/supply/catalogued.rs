//! A TensorRT engine in the catalog of a real control plane: machines that it was built for get it, the others the graph that it was made
//! from, with the reason.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use akidb_domain::snapshot::Snapshot;
use akidb_domain::vocabulary::{ExecutionProvider, Precision};
use akidb_sidecar::engine::device::{Facts, Gpu};
use akidb_sidecar::models::plan::Choice;
use akidb_sidecar::models::{Machine, Plan};
use akidb_testkit::System;
use serde_json::{Value, json};

use super::MODEL;

/// Writes the bundle of an engine of MiniLM as `build_tensorrt_engine.py` does, with the facts of a recorded build; `changed` figures replace
/// recorded ones.
fn engine(output: &Path, precision: &str, changed: &Value) -> Value {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    let mut python = Command::new(akidb_testkit::venv_program("python"));
    python.arg(scripts.join("tests/recorded_engine.py")).arg(akidb_testkit::bundle()).arg(output);
    let done = python.args([precision, &changed.to_string()]).env("PYTHONPATH", scripts).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// What `akidb-sidecar devices` says of a machine with one such GPU.
fn machine(compute_capability: &str, tensorrt: &str) -> Machine {
    let gpu = Gpu {
        index: 0,
        uuid: "GPU-5f3c1a52-0d67-4f0e-9a51-0d1f7f1f6a10".into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        compute_capability: compute_capability.into(),
        memory_bytes: 85_520_809_984,
        integrated: false,
    };
    let facts = Facts { gpus: vec![gpu], tensorrt: Some(tensorrt.into()), cuda_driver: Some("13.0".into()), ..Facts::default() };
    Machine { facts, devices: vec![0], demanded: None }
}

fn choice(snapshot: &Snapshot, machine: &Machine, variant: &str) -> Choice {
    let plan = Plan::of_snapshot(snapshot, machine);
    let planned = plan.models[MODEL].variants.iter().find(|it| it.at.variant == variant).unwrap();
    planned.choice.clone().unwrap()
}

fn snapshot(system: &System) -> Snapshot {
    let (status, body) = system.rest("GET", "snapshot", None);
    assert_eq!(status, 200, "{body}");
    serde_json::from_value(body).unwrap()
}

/// What the sidecar says of a variant.
fn told(system: &System, variant: &str) -> Value {
    let (_, models) = system.get("/api/v1/models");
    let variants = models["models"][0]["variants"].as_array().unwrap().clone();
    variants.into_iter().find(|it| it["name"] == variant).unwrap_or_default()
}

#[test]
fn tensorrt_provider_test_a_catalogued_engine_goes_where_it_fits_and_its_graph_elsewhere() {
    let mut system = System::new();
    system.start_control();
    let root = system.akidb(&["models", "import", &akidb_testkit::bundle().display().to_string()]);
    let built = engine(&system.path("engine"), "fp16", &json!({}));
    let import = system.akidb(&["models", "import", &system.path("engine").display().to_string()]);
    assert_eq!((&import["artifact_state"], &import["digest"]), (&json!("ready"), &built["digest"]), "{import}");
    assert_eq!(built["lineage"]["parent_digest"], root["digest"]);

    let there = snapshot(&system);
    let fits = choice(&there, &machine("9.0", "10.6.0"), "tensorrt-fp16");
    assert_eq!(
        (json!(fits.artifact.digest), fits.provider, fits.fallback.as_str()),
        (built["digest"].clone(), ExecutionProvider::TensorRt, "")
    );
    let check = |machine: Machine, provider, why: &str| {
        let lent = choice(&there, &machine, "tensorrt-fp16");
        assert_eq!((json!(lent.artifact.digest), lent.precision, lent.provider), (root["digest"].clone(), Precision::Fp32, provider));
        assert!(lent.fallback.contains(why) && lent.fallback.contains("`fp32` (fp32) runs on"), "{}", lent.fallback);
    };
    check(machine("8.9", "10.6.0"), ExecutionProvider::Cuda, "is an engine for compute capability 9.0; this machine's GPU has 8.9");
    check(machine("9.0", "10.7.0"), ExecutionProvider::Cuda, "is an engine of TensorRT 10.6.0; this machine has 10.7.0");
    check(Machine::cpu(), ExecutionProvider::Cpu, "is built for `tensorrt` (compute capability 9.0); this machine serves `cpu` only");

    a_sidecar_without_a_gpu_serves_the_graph(&mut system, &root["digest"]);
}

/// A real one: by name, and once the engine is everybody's default.
fn a_sidecar_without_a_gpu_serves_the_graph(system: &mut System, root: &Value) {
    system.start_sidecar();
    let asked = json!({"text": "a text for an engine of another machine", "model": "all-MiniLM-L6-v2@tensorrt-fp16"});
    let (status, answer) = system.embed(&asked);
    assert_eq!((status, &answer["variant"], &answer["precision"]), (200, &json!("tensorrt-fp16"), &json!("fp32")), "{answer}");
    let said = told(system, "tensorrt-fp16");
    assert_eq!((&said["state"], &said["provider"], &said["digest"]), (&json!("ready"), &json!("cpu"), root), "{said}");
    assert!(said["reason"].as_str().unwrap().contains("is built for `tensorrt` (compute capability 9.0)"), "{said}");

    for alias in ["stable", "default"] {
        system.akidb(&["aliases", "set", "all-MiniLM-L6-v2", alias, "tensorrt-fp16"]);
    }
    system.until(Duration::from_secs(30), |it| {
        let (status, answer) = it.embed(&json!({"text": "a text without a name"}));
        assert_eq!(status, 200, "{answer}");
        if answer["variant"] == "tensorrt-fp16" { Ok(()) } else { Err(answer["variant"].to_string()) }
    });
    // Nobody is told that the engine is here: an experiment would count this sidecar.
    let id = system.akidb(&["sidecars", "list"])["sidecars"][0]["id"].as_str().unwrap().to_owned();
    let known = system.akidb(&["sidecars", "show", &id]).to_string();
    assert!(known.contains("\"fp32\"") && !known.contains("tensorrt-fp16"), "{known}");
}

#[test]
fn tensorrt_provider_test_an_engine_that_missed_a_gate_is_refused_with_its_figure() {
    let mut system = System::new();
    system.start_control();
    system.akidb(&["models", "import", &akidb_testkit::bundle().display().to_string()]);
    engine(&system.path("engine"), "fp8", &json!({"batch_invariance": 0.985}));
    let mut import = Command::new(akidb_testkit::program("akidb"));
    let done = import.args(["models", "import"]).arg(system.path("engine")).envs(system.client_environment()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(1) && said.contains("batch_invariance 0.985 is below its gate 0.99"), "{said}");
    let there = snapshot(&system);
    assert!(there.models[0].variants.iter().all(|it| it.name != "tensorrt-fp8"), "{there:?}");
}
