use super::*;

fn machine(cpu: &str) -> Machine {
    let mut it = Machine {
        id: String::new(),
        cpu: cpu.into(),
        cores: 2,
        threads: 2,
        cpu_flags: vec!["avx512_vnni".into()],
        memory_bytes: 25_290_000_000,
        onnxruntime: "1.31.1".into(),
        gpu: None,
        compute_capability: None,
        driver: None,
        tensorrt: None,
    };
    it.id = it.identity();
    it
}

fn invocation(machine: &Machine) -> Invocation {
    let (command, started_at) = ("cargo bench".into(), "2026-01-01T00:00:00Z".into());
    Invocation { command, started_at, revision: None, machine: machine.id.clone(), seconds_per_cell: 1.0 }
}

fn cell(machine: &Machine, variant: &str, digest: &str, turns: Option<&str>) -> Cell {
    let latency_ms = Latency::of(&[1.0, 2.0, 3.0]).unwrap();
    let measured = turns.map(|it| Measured {
        turns: it.into(),
        runs: 3,
        warm_up_runs: 1,
        seconds: 0.006,
        latency_ms,
        texts_per_second: 500.0,
        padded_tokens_per_text: 32.0,
    });
    let not_run = measured.is_none().then(|| "not built: run `make models`".to_owned());
    Cell {
        machine: machine.id.clone(),
        invocation: 0,
        provider: ExecutionProvider::Cpu,
        model: "BERT-base".into(),
        variant: variant.into(),
        precision: variant.parse().unwrap(),
        seeded: true,
        digest: Some(digest.into()),
        engine_bytes: Some(1),
        batch: 1,
        tokens: 32,
        measured,
        not_run,
    }
}

fn results(cells: Vec<Cell>) -> Results {
    let mut results = Results::default();
    let here = machine("x");
    assert_eq!(results.begin(&here, invocation(&here)), 0);
    for it in cells {
        results.put(it);
    }
    results
}

#[test]
fn percentiles_are_of_enough_runs_or_marked_or_absent() {
    let check = |n: usize, p95: Option<f64>, few95: bool, p99: Option<f64>, few99: bool| {
        let all: Vec<f64> = (1..=n).rev().map(|it| it as f64).collect();
        let it = Latency::of(&all).unwrap();
        assert_eq!((it.p95, it.p95_of_few, it.p99, it.p99_of_few), (p95, few95, p99, few99), "{n}");
        assert!((it.min - 1.0).abs() < 1e-12 && (it.p50 - n.div_ceil(2) as f64).abs() < 1e-12);
    };
    assert_eq!(Latency::of(&[]), None);
    check(1, None, true, None, true);
    check(20, Some(19.0), true, None, true);
    check(100, Some(95.0), false, Some(99.0), true);
    check(1_000, Some(950.0), false, Some(990.0), false);
}

#[test]
fn a_machine_is_known_by_what_decides_its_speed() {
    let here = machine("x");
    assert_eq!(here.id.len(), 12);
    assert_eq!(Machine { memory_bytes: here.memory_bytes - 5_000_000, ..here.clone() }.identity(), here.id);
    for other in [machine("y"), Machine { threads: 1, ..here.clone() }, Machine { onnxruntime: "1.32.0".into(), ..here.clone() }] {
        assert_ne!(other.identity(), here.id);
    }
}

/// The GPU benchmark computes the same in Python (`scripts/tests/test_gpu_bench.py` has this machine too).
#[test]
fn the_identity_is_the_same_in_both_languages() {
    let machine = Machine {
        id: String::new(),
        cpu: "A CPU".into(),
        cores: 16,
        threads: 16,
        cpu_flags: vec!["avx2".into(), "amx_int8".into()],
        memory_bytes: 128 << 30,
        onnxruntime: "1.31.1".into(),
        gpu: Some("NVIDIA H200".into()),
        compute_capability: Some("9.0".into()),
        driver: Some("580.159.04".into()),
        tensorrt: Some("10.6.0".into()),
    };
    assert_eq!(machine.identity(), "e30f95113fc1");
}

#[test]
fn only_the_same_artifacts_that_took_turns_are_finished() {
    let here = machine("x");
    let file = results(vec![cell(&here, "fp32", "a", Some("t1")), cell(&here, "int8", "b", Some("t1"))]);
    let cpu = ExecutionProvider::Cpu;
    assert!(file.finished(&here.id, (1, 32), &[("a", cpu), ("b", cpu)]) && file.finished(&here.id, (1, 32), &[("a", cpu)]));
    assert!(!file.finished(&here.id, (1, 32), &[]));
    assert!(!file.finished(&here.id, (8, 32), &[("a", cpu)]), "another batch");
    assert!(!file.finished(&machine("y").id, (1, 32), &[("a", cpu)]), "another machine");
    assert!(!file.finished(&here.id, (1, 32), &[("a", cpu), ("c", cpu)]), "another digest");
    assert!(!file.finished(&here.id, (1, 32), &[("a", ExecutionProvider::Cuda)]), "another provider");
    let apart = results(vec![cell(&here, "fp32", "a", Some("t1")), cell(&here, "int8", "b", Some("t2"))]);
    assert!(!apart.finished(&here.id, (1, 32), &[("a", cpu), ("b", cpu)]), "did not take turns");
}

#[test]
fn a_newer_cell_takes_the_place_of_the_older_and_of_one_not_run() {
    let here = machine("x");
    let mut file = results(vec![cell(&here, "fp32", "a", Some("t1")), cell(&here, "int8", "b", None)]);
    file.put(Cell { model: "bert-base-uncased".into(), ..cell(&here, "fp32", "a2", Some("t2")) });
    file.put(Cell { provider: ExecutionProvider::Cuda, ..cell(&here, "int8", "b2", Some("t2")) });
    file.put(cell(&here, "int8", "b3", Some("t3")));
    let digests: Vec<_> = file.cells.iter().filter_map(|it| it.digest.as_deref()).collect();
    assert_eq!(digests, ["a2", "b2", "b3"], "short names are the same model, providers stand side by side");
}

#[test]
fn what_no_cell_is_from_is_dropped() {
    let (here, there) = (machine("x"), machine("y"));
    let mut file = results(vec![cell(&here, "fp32", "a", Some("t1"))]);
    file.begin(&there, invocation(&there));
    let third = file.begin(&here, Invocation { command: "third".into(), ..invocation(&here) });
    file.put(Cell { invocation: third, ..cell(&here, "fp32", "a", Some("t2")) });
    file.prune();
    assert_eq!((file.machines.len(), file.invocations.len(), file.cells[0].invocation), (1, 1, 0));
    assert_eq!(file.invocations[0].command, "third");
}

#[test]
fn a_file_reads_back_and_bad_ones_are_named() {
    let here = machine("x");
    let file = results(vec![cell(&here, "fp32", "a", Some("t1")), cell(&here, "fp8", "b", None)]);
    let json = serde_json::to_value(&file).unwrap();
    assert_eq!(Results::parse(json.to_string().as_bytes()).unwrap(), file);
    assert!(json["machines"][0]["gpu"].is_null() && json["cells"][0]["not_run"].is_null(), "{json}");
    let check = |pointer: &str, value: serde_json::Value, expected: &str| {
        let mut json = json.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        let error = Results::parse(json.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{pointer}: {error}");
    };
    check("/format", "other/2".into(), "format `other/2` is not supported");
    check("/cells/0/precision", "fp64".into(), "unknown precision `fp64`");
    check("/cells/0/machine", "y".into(), "cell 0 (BERT-base@fp32, batch 1, 32 tokens): machine `y`");
    check("/cells/0/invocation", 7.into(), "invocation 7 is not in the file");
    check("/cells/0/measured/latency_ms/p50", 0.into(), "0 is not a time");
    check("/cells/0/measured/runs", 0.into(), "0 runs");
    check("/cells/1/not_run", serde_json::Value::Null, "either `measured` or `not_run`");
    assert!(Results::parse(b"[]").unwrap_err().to_string().starts_with("not a results file"));
}
