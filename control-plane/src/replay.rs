//! `akidb-control-plane replay RECORD`: a decision once more, from its record alone. Enters: a file. Leaves: what it decided, or the first
//! difference. Never: the database, the network; the record holds everything.

use std::path::Path;

use akidb_domain::decision::record::replay as recompute;
use akidb_domain::decision::{Record, Verdict};
use anyhow::Context;

/// Decides again, and says what came out; an error names a changed byte or the first value that differs.
pub fn replay(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("record `{}`", path.display()))?;
    let record = Record::open(&text).with_context(|| format!("record `{}`", path.display()))?;
    recompute(&record).with_context(|| format!("record `{}` does not replay", path.display()))?;
    Ok(said(&record))
}

fn said(record: &Record) -> String {
    let mut lines =
        vec![format!("experiment {}: {} looks replayed, every outcome the same to the bit", record.experiment, record.looks.len())];
    let turns = record.outcomes.iter().filter(|it| matches!(it.verdict, Verdict::Promote { .. } | Verdict::RollBack { .. }));
    lines.extend(turns.map(|it| format!("look {}: {}", it.look, it.reason)));
    lines.extend(record.outcomes.last().map(|it| it.sentence.clone()));
    lines.join("\n")
}
