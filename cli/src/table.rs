//! Tables. Enters: headings and cells. Leaves: text: ruled on a terminal, blank-separated columns elsewhere. Never: a control character of
//! a cell, which could rewrite the terminal.

use std::io::IsTerminal;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle, presets};

/// A rule under the headings.
const RULED: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table in the making.
pub(crate) struct Rows {
    table: Table,
    empty: bool,
}

impl Rows {
    /// Headings; one that starts with `>` is of a column of numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(if std::io::stdout().is_terminal() { RULED } else { presets::NOTHING });
        table.set_header(headings.iter().map(|it| it.trim_start_matches('>')));
        let last = headings.len().saturating_sub(1);
        for (index, (column, heading)) in table.column_iter_mut().zip(headings).enumerate() {
            column.set_padding((0, if index == last { 0 } else { 2 }));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table, empty: true }
    }

    /// One row.
    pub(crate) fn add(&mut self, cells: impl IntoIterator<Item = String>) {
        self.empty = false;
        self.table.add_row(cells.into_iter().map(|it| clean(&it)));
    }

    /// The text, or `nothing` when there is no row.
    pub(crate) fn text(&self, nothing: &str) -> String {
        if self.empty {
            return nothing.to_owned();
        }
        self.table.lines().map(|it| it.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

/// A cell that may be absent.
pub(crate) fn or_dash(cell: Option<String>) -> String {
    cell.filter(|it| !it.is_empty()).unwrap_or_else(|| "-".to_owned())
}

fn clean(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cleaned() {
        let mut rows = Rows::new(&["NAME", ">BYTES"]);
        rows.add(["a\u{1b}[2J".to_owned(), "1".to_owned()]);
        rows.add(["longer".to_owned(), "1000".to_owned()]);
        assert_eq!(rows.text("none"), "NAME    BYTES\na [2J       1\nlonger   1000");
        assert_eq!(Rows::new(&["NAME"]).text("none"), "none");
    }
}
