//! Rendering of a file that `cargo bench --bench embedding_comprehensive` wrote (`tests/data/benchmark.json`).

use akidb_domain::vocabulary::ExecutionProvider;

use super::*;

const REAL: &[u8] = include_bytes!("../../tests/data/benchmark.json");

fn real() -> Results {
    Results::parse(REAL).unwrap()
}

fn page(results: &Results) -> (String, Vec<(String, String)>) {
    render(results, "akidb-loadtest report --input r.json --output r.md").unwrap()
}

#[test]
fn each_measured_cell_is_a_row_with_its_figures() {
    let results = real();
    let (text, plots) = page(&results);
    let measured: Vec<_> = results.cells.iter().filter(|it| it.measured.is_some()).collect();
    let rows = text.lines().filter(|it| it.contains("| cpu |")).count();
    assert!(rows == measured.len() && rows >= 4, "{rows} rows\n{text}");
    for cell in measured {
        let it = cell.measured.as_ref().unwrap();
        let row = format!("| {} | {} | cpu | {} | ", cell.batch, cell.variant, it.runs);
        assert!(text.contains(&row), "{row}\n{text}");
    }
    assert!(text.contains(&format!("![all-MiniLM-L6-v2: latency and throughput by batch]({})", plots[0].0)), "{text}");
    for part in ["## AMD EPYC", "no GPU", "--precision fp32,int8 --batch-sizes 1,8 --tokens 32", "report --input r.json", "### Not run"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("eeded"), "nothing here is seeded\n{text}");
}

#[test]
fn a_ratio_is_only_of_cells_that_took_turns() {
    let mut results = real();
    let ratio = |results: &Results| {
        let sections = sections::sections(results);
        let int8 = sections[0].series.iter().find(|it| it.label == "int8").unwrap().cells[0];
        sections[0].ratio(int8)
    };
    let p50 = |variant: &str| results.cells.iter().find(|it| it.variant == variant).unwrap().measured.as_ref().unwrap().latency_ms.p50;
    let expected = p50("fp32") / p50("int8");
    assert!((ratio(&results).unwrap() - expected).abs() < 1e-12);
    for cell in results.cells.iter_mut().filter(|it| it.variant == "int8") {
        cell.measured.iter_mut().for_each(|it| it.turns = "another time".into());
    }
    assert_eq!(ratio(&results), None);
}

#[test]
fn plots_name_axes_units_and_every_series() {
    let (_, plots) = page(&real());
    let [(name, svg)] = plots.as_slice() else { panic!("{} plots", plots.len()) };
    assert_eq!(name, "all-minilm-l6-v2-32-tokens.svg");
    for part in ["<svg", "</svg>", "texts a batch", "ms a batch (log scale)", "texts a second (log scale)", "fp32", "int8", "#FFFFFF"] {
        assert!(svg.contains(part), "{part}\n{svg}");
    }
}

/// What a later stage adds: another machine, another provider, seeded weights.
#[test]
fn machines_providers_and_seeded_weights_are_told_apart() {
    let mut results = real();
    let mut gpu = results.machines[0].clone();
    (gpu.gpu, gpu.compute_capability, gpu.tensorrt) = (Some("NVIDIA <H100>".into()), Some("9.0".into()), Some("10.6".into()));
    gpu.id = gpu.identity();
    let invocation = results.begin(&gpu, akidb_domain::benchmark::Invocation { machine: gpu.id.clone(), ..results.invocations[0].clone() });
    let there: Vec<_> = results.cells.iter().filter(|it| it.variant == "fp32").cloned().collect();
    for cell in there {
        for provider in [ExecutionProvider::Cuda, ExecutionProvider::TensorRt] {
            results.put(akidb_domain::benchmark::Cell { provider, machine: gpu.id.clone(), invocation, seeded: true, ..cell.clone() });
        }
    }
    let (text, plots) = page(&results);
    assert_eq!(plots.len(), 2);
    assert!(plots.iter().all(|it| text.contains(&it.0)) && plots[0].0 != plots[1].0);
    for part in
        ["NVIDIA &lt;H100>, compute capability 9.0, TensorRT 10.6", "fp32 on cuda", "| tensorrt |", "all-MiniLM-L6-v2 (seeded)", "*Seeded*"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn bad_files_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let check = |content: Option<&str>, expected: &str| {
        let input = folder.path().join("results.json");
        if let Some(content) = content {
            std::fs::write(&input, content).unwrap();
        }
        let error = report(&ReportArgs { input, output: folder.path().join("report.md") }).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("results.json") && text.contains(expected), "{text}");
        assert!(!folder.path().join("report.md").exists());
    };
    check(None, "cargo bench --bench embedding_comprehensive");
    check(Some("not json"), "not a results file");
    check(Some(r#"{"format": "other/1"}"#), "format `other/1` is not supported");
    check(Some(r#"{"format": "akidb.benchmark/1"}"#), "missing field `machines`");
    check(Some(r#"{"format": "akidb.benchmark/1", "machines": [], "invocations": [], "cells": []}"#), "has no cells");
}
