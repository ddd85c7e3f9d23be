//! All sections as a Markdown page.
//!
//! Enters: results and their sections. Leaves: Markdown. Never: a figure without its runs, a p95 of few runs without a mark, seeded weights
//! without the word.

use std::collections::BTreeMap;
use std::fmt::Write;

use akidb_domain::benchmark::{Cell, ENOUGH_FOR_P95, ENOUGH_FOR_P99, LEAST_FOR_P95, LEAST_FOR_P99, Machine, Results};

use super::sections::Section;

/// The page; `command` is what wrote it.
pub(super) fn page(results: &Results, sections: &[Section<'_>], command: &str) -> String {
    let mut page = String::from("# Benchmark of embedding engines\n\n");
    page += "Engines alone, in the process that measures: no tokenizer, no HTTP, no queue. The variants of a model took turns at each shape, so the\n\
             ratios hold even where a machine had other work; absolute figures of a shared machine move. Latency is of a whole batch.\n\n";
    let _ = writeln!(page, "This page and its plots are made again by\n\n```sh\n{command}\n```\n");
    for machine in &results.machines {
        of_machine(&mut page, results, sections, machine);
    }
    notes(&mut page, results);
    page
}

fn of_machine(page: &mut String, results: &Results, sections: &[Section<'_>], machine: &Machine) {
    let sections: Vec<&Section<'_>> = sections.iter().filter(|it| it.machine.id == machine.id).collect();
    let _ = writeln!(page, "## {}\n", describe(machine));
    overview(page, &sections);
    page.push_str("Measured by\n\n| command | started | revision | s a cell |\n|---|---|---|---:|\n");
    for it in results.invocations.iter().filter(|it| it.machine == machine.id) {
        let (command, revision) = (plain(&it.command), it.revision.as_deref().unwrap_or("unknown"));
        let _ = writeln!(page, "| `{command}` | {} | {} | {} |", plain(&it.started_at), plain(revision), it.seconds_per_cell);
    }
    page.push('\n');
    for section in &sections {
        if section.measured() {
            table(page, results, section);
        }
    }
    not_run(page, &sections);
}

/// `AMD EPYC, 2 cores, 2 threads an engine, 24 GB, ONNX Runtime 1.31.1, no GPU`
fn describe(it: &Machine) -> String {
    let gpu = it.gpu.as_ref().map_or_else(
        || "no GPU".to_owned(),
        |gpu| {
            let detail = [("compute capability", &it.compute_capability), ("driver", &it.driver), ("TensorRT", &it.tensorrt)];
            let known = detail.iter().filter_map(|(name, value)| Some(format!(", {name} {}", value.as_ref()?)));
            gpu.clone() + &known.collect::<String>()
        },
    );
    let flags = if it.cpu_flags.is_empty() { String::new() } else { format!(" ({})", it.cpu_flags.join(", ")) };
    let memory = it.memory_bytes as f64 / 1e9;
    let line = format!(
        "{}, {} cores{flags}, {memory:.0} GB, {} threads an engine, ONNX Runtime {}, {gpu}",
        it.cpu, it.cores, it.threads, it.onnxruntime
    );
    plain(&line)
}

fn overview(page: &mut String, sections: &[&Section<'_>]) {
    page.push_str("| model | variant | engine MB | tokens | first batch | p50 ms | x fp32 | best texts/s | at batch | x fp32 there |\n");
    page.push_str("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    for section in sections {
        for series in &section.series {
            let best = series.cells.iter().filter_map(|it| Some((*it, it.measured.as_ref()?)));
            let best = best.max_by(|a, b| a.1.texts_per_second.total_cmp(&b.1.texts_per_second));
            let first = series.cells.iter().find_map(|it| Some((*it, it.measured.as_ref()?)));
            let (Some(best), Some(first)) = (best, first) else { continue };
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                model(section),
                plain(&series.label),
                megabytes(first.0),
                section.tokens,
                first.0.batch,
                figure(first.1.latency_ms.p50),
                ratio(section, first.0),
                figure(best.1.texts_per_second),
                best.0.batch,
                ratio(section, best.0)
            );
        }
    }
    page.push('\n');
}

fn table(page: &mut String, results: &Results, section: &Section<'_>) {
    let _ = writeln!(page, "### {}, {} tokens a text\n", model(section), section.tokens);
    let _ = writeln!(page, "![{}: latency and throughput by batch]({})\n", plain(section.model), section.file_name());
    page.push_str("| batch | variant | provider | runs | p50 ms | p95 ms | p99 ms | texts/s | padded tokens a text | x fp32 |\n");
    page.push_str("|---:|---|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for batch in section.batches() {
        for (series, cell) in section.series.iter().flat_map(|series| series.cells.iter().map(move |cell| (series, *cell))) {
            if cell.batch != batch {
                continue;
            }
            let Some(it) = &cell.measured else { continue };
            let latency = it.latency_ms;
            let _ = writeln!(
                page,
                "| {batch} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {} |",
                plain(&series.label),
                cell.provider,
                it.runs,
                figure(latency.p50),
                quantile(latency.p95, latency.p95_of_few),
                quantile(latency.p99, latency.p99_of_few),
                figure(it.texts_per_second),
                it.padded_tokens_per_text,
                ratio(section, cell)
            );
        }
    }
    let _ = writeln!(page, "\n```sh\n{}\n```\n", command(results, section));
}

/// Measures this section, and nothing else, again.
fn command(results: &Results, section: &Section<'_>) -> String {
    let measured = || section.series.iter().flat_map(|it| &it.cells).filter(|it| it.measured.is_some());
    let mut precisions: Vec<&str> = measured().map(|it| it.precision.as_str()).collect();
    precisions.sort_unstable();
    precisions.dedup();
    let batches: std::collections::BTreeSet<u32> = measured().map(|it| it.batch).collect();
    let seconds = measured().filter_map(|it| Some(results.invocations.get(it.invocation)?.seconds_per_cell)).fold(0.0, f64::max);
    let threads =
        if section.machine.threads == section.machine.cores { String::new() } else { format!(" --threads {}", section.machine.threads) };
    let batches: Vec<String> = batches.iter().map(u32::to_string).collect();
    plain(&format!(
        "cargo bench --bench embedding_comprehensive -- --models {} --precision {} --batch-sizes {} --tokens {} --seconds-per-cell {seconds}{threads} --output build/again.json --fresh",
        section.model,
        precisions.join(","),
        batches.join(","),
        section.tokens
    ))
}

fn not_run(page: &mut String, sections: &[&Section<'_>]) {
    // One line a variant and reason, in place of one a batch size.
    let mut reasons: BTreeMap<(String, String, String), Vec<String>> = BTreeMap::new();
    for (section, series) in sections.iter().flat_map(|section| section.series.iter().map(move |it| (section, it))) {
        for cell in &series.cells {
            let Some(reason) = &cell.not_run else { continue };
            let key = (model(section), plain(&cell.variant), plain(reason));
            reasons.entry(key).or_default().push(format!("{}x{}", cell.batch, cell.tokens));
        }
    }
    if reasons.is_empty() {
        return;
    }
    page.push_str("### Not run\n\n| model | variant | batch x tokens | reason |\n|---|---|---|---|\n");
    for ((model, variant, reason), shapes) in reasons {
        let _ = writeln!(page, "| {model} | {variant} | {} | {reason} |", shapes.join(", "));
    }
    page.push('\n');
}

fn notes(page: &mut String, results: &Results) {
    let _ = writeln!(
        page,
        "`*`: of few runs, under {ENOUGH_FOR_P95} for p95 and {ENOUGH_FOR_P99} for p99; `-`: under {LEAST_FOR_P95} and {LEAST_FOR_P99} there is no such figure. \
         `x fp32`: median of fp32 / median of the variant, of the same turns."
    );
    if results.cells.iter().any(|it| it.seeded) {
        page.push_str(
            "\n*Seeded*: random weights of the right shape. Speed and size are those of the real model, the quality of its vectors is not applicable.\n",
        );
    }
}

fn model(section: &Section<'_>) -> String {
    format!("{}{}", plain(section.model), if section.seeded { " (seeded)" } else { "" })
}

fn ratio(section: &Section<'_>, cell: &Cell) -> String {
    section.ratio(cell).map_or_else(|| "-".into(), |it| format!("{it:.2}"))
}

fn megabytes(cell: &Cell) -> String {
    cell.engine_bytes.map_or_else(|| "-".into(), |it| format!("{:.1}", it as f64 / 1e6))
}

fn quantile(value: Option<f64>, few: bool) -> String {
    value.map_or_else(|| "-".into(), |it| format!("{}{}", figure(it), if few { "\\*" } else { "" }))
}

/// Three digits.
fn figure(value: f64) -> String {
    let digits = if value >= 99.95 { 0 } else { usize::from(value < 9.995) + 1 };
    format!("{value:.digits$}")
}

/// A file may hold anything; a page must not.
fn plain(text: &str) -> String {
    let escaped = text.replace(char::is_control, " ").replace('&', "&amp;").replace('<', "&lt;");
    escaped.replace('|', "\\|").replace('`', "'")
}
