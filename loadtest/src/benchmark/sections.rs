//! Cells by machine, model and length of text: what stands together in a table and a plot.
//!
//! Enters: results. Leaves: [`Section`]s in the order of the file. Never: a ratio of cells that did not take turns.

use std::collections::BTreeSet;

use akidb_domain::benchmark::{Cell, Machine, Measured, Results};
use akidb_domain::vocabulary::{Precision, canonical_model};

/// One model at one length of text on one machine.
pub(super) struct Section<'a> {
    pub(super) machine: &'a Machine,
    pub(super) model: &'a str,
    pub(super) tokens: u32,
    pub(super) seeded: bool,
    /// One a variant and provider; cells in order of batch.
    pub(super) series: Vec<Series<'a>>,
    /// Whether there are several machines, so that names must tell them apart.
    several: bool,
}

/// One variant on one provider.
pub(super) struct Series<'a> {
    pub(super) label: String,
    pub(super) cells: Vec<&'a Cell>,
}

impl Series<'_> {
    /// Batch and figures of what was measured.
    pub(super) fn points(&self) -> impl Iterator<Item = (u32, &Measured)> {
        self.cells.iter().filter_map(|it| Some((it.batch, it.measured.as_ref()?)))
    }
}

impl Section<'_> {
    pub(super) fn measured(&self) -> bool {
        self.series.iter().any(|it| it.points().next().is_some())
    }

    /// Of the plot.
    pub(super) fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c.to_ascii_lowercase() } else { '-' };
        let model: String = self.model.chars().map(plain).collect();
        let machine = if self.several { format!("-{}", self.machine.id.chars().map(plain).collect::<String>()) } else { String::new() };
        format!("{model}-{}-tokens{machine}.svg", self.tokens)
    }

    /// Batch sizes in any series.
    pub(super) fn batches(&self) -> BTreeSet<u32> {
        self.series.iter().flat_map(|it| it.cells.iter().map(|it| it.batch)).collect()
    }

    /// How many times faster than fp32 by medians: only where both took turns.
    pub(super) fn ratio(&self, cell: &Cell) -> Option<f64> {
        let measured = cell.measured.as_ref()?;
        let root = |it: &&&Cell| it.precision == Precision::Fp32 && it.batch == cell.batch;
        let roots = self.series.iter().flat_map(|it| &it.cells).filter(root).filter_map(|it| it.measured.as_ref());
        roots.filter(|it| it.turns == measured.turns).map(|it| it.latency_ms.p50 / measured.latency_ms.p50).next()
    }
}

/// All of them.
pub(super) fn sections(results: &Results) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for machine in &results.machines {
        for cell in results.cells.iter().filter(|it| it.machine == machine.id) {
            let same = |it: &&mut Section<'_>| {
                it.machine.id == machine.id && it.tokens == cell.tokens && canonical_model(it.model) == canonical_model(&cell.model)
            };
            let section = if let Some(it) = sections.iter_mut().find(same) {
                it
            } else {
                let several = results.machines.len() > 1;
                sections.push(Section { machine, model: &cell.model, tokens: cell.tokens, seeded: false, series: Vec::new(), several });
                let last = sections.len() - 1;
                &mut sections[last]
            };
            // The name as its bundle spells it, where one was found.
            if cell.digest.is_some() {
                section.model = &cell.model;
            }
            section.seeded |= cell.seeded;
            add(&mut section.series, cell);
        }
    }
    for section in &mut sections {
        let providers: BTreeSet<_> =
            section.series.iter().filter(|it| it.points().next().is_some()).map(|it| it.cells[0].provider).collect();
        for series in &mut section.series {
            series.cells.sort_by_key(|it| it.batch);
            let first = series.cells[0];
            series.label = if providers.len() > 1 { format!("{} on {}", first.variant, first.provider) } else { first.variant.clone() };
        }
        section.series.sort_by_key(|it| (it.cells[0].precision, it.cells[0].provider));
    }
    sections
}

fn add<'a>(series: &mut Vec<Series<'a>>, cell: &'a Cell) {
    let same = |it: &&mut Series<'_>| it.cells[0].variant.eq_ignore_ascii_case(&cell.variant) && it.cells[0].provider == cell.provider;
    match series.iter_mut().find(same) {
        Some(it) => it.cells.push(cell),
        None => series.push(Series { label: String::new(), cells: vec![cell] }),
    }
}
