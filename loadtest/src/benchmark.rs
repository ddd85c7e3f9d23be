//! `report`: results of `cargo bench --bench embedding_comprehensive` as a page with plots.
//!
//! Enters: a results file. Leaves: a Markdown page, and an SVG plot beside it for each model. Never: a measurement; a figure without the
//! command that repeats it; a ratio of engines that did not take turns.
//!
//! Rooms, in reading order: `sections` (cells by machine, model and length) -> `plot` (one section as SVG) and `page` (all as Markdown).

mod page;
mod plot;
mod sections;

use std::path::{Path, PathBuf};

use akidb_domain::benchmark::Results;
use anyhow::{Context, bail};
use clap::Args;

/// Options of `akidb-loadtest report`.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// A results file of `cargo bench --bench embedding_comprehensive`.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The Markdown page to write; its plots go beside it.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The page.
    pub page: PathBuf,
    /// The plots.
    pub plots: Vec<PathBuf>,
}

/// Reads, renders and writes.
pub fn report(args: &ReportArgs) -> anyhow::Result<Written> {
    let name = args.input.display();
    let json = std::fs::read(&args.input).with_context(|| {
        format!("--input {name} cannot be read; `cargo bench --bench embedding_comprehensive -- --output {name}` writes one")
    })?;
    let results = Results::parse(&json).with_context(|| format!("--input {name}"))?;
    if results.cells.is_empty() {
        bail!("--input {name} has no cells: nothing was asked for");
    }
    let command = format!("akidb-loadtest report --input {name} --output {}", args.output.display());
    let (text, plots) = render(&results, &command)?;
    let folder = args.output.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("--output {}", args.output.display()))?;
    let mut written = Written { page: args.output.clone(), plots: Vec::new() };
    let files = plots.into_iter().map(|(name, svg)| (folder.join(name), svg));
    for (path, content) in files.chain([(args.output.clone(), text)]) {
        std::fs::write(&path, content).with_context(|| format!("--output: {} cannot be written", path.display()))?;
        if path != written.page {
            written.plots.push(path);
        }
    }
    Ok(written)
}

/// The page, and the plots by file name.
fn render(results: &Results, command: &str) -> anyhow::Result<(String, Vec<(String, String)>)> {
    let sections = sections::sections(results);
    let drawn = sections.iter().filter(|it| it.measured());
    let plots = drawn.map(|it| Ok((it.file_name(), plot::svg(it)?))).collect::<anyhow::Result<_>>()?;
    Ok((page::page(results, &sections, command), plots))
}

#[cfg(test)]
mod tests;
