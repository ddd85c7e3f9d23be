//! A text's vector, still in the memory of its batch.
//!
//! Enters: what an engine gave. Leaves: rows of it, and a copy for each that is asked for. Never: a copy on an executor's thread, whose
//! time between two batches is time that the device waits.

use std::ops::{Deref, Range};
use std::sync::Arc;

/// One row.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    batch: Arc<Vec<f32>>,
    at: Range<usize>,
}

impl Row {
    /// The rows of a batch, in order.
    pub(super) fn all(batch: Vec<f32>, dimension: usize) -> impl Iterator<Item = Self> {
        let (batch, dimension) = (Arc::new(batch), dimension.max(1));
        let rows = batch.len() / dimension;
        (0..rows).map(move |row| Self { batch: batch.clone(), at: row * dimension..(row + 1) * dimension })
    }
}

impl Deref for Row {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.batch[self.at.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_where_they_were() {
        let rows: Vec<Row> = Row::all(vec![1.0, 2.0, 3.0, 4.0], 2).collect();
        assert_eq!(rows.iter().map(|it| it.to_vec()).collect::<Vec<_>>(), [[1.0, 2.0], [3.0, 4.0]]);
        assert!(Row::default().is_empty() && Row::all(Vec::new(), 0).next().is_none());
    }
}
