//! A text's vector, still in the memory of its batch.
//!
//! Enters: what an engine gave. Leaves: rows of it, a copy for each that is asked for, and the memory for a later batch once no row of it is
//! left. Never: a copy on an executor's thread, whose time between two batches is time that the device waits; a page that is asked of the
//! system anew for each batch, which took that thread as long as all else it did.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

/// Most batches whose memory an executor keeps.
const SPARES: usize = 4;

/// Memory of batches that have been answered.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Vec<Vec<f32>>>);

impl Spares {
    pub(super) fn take(&self) -> Option<Vec<f32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give(&self, memory: Vec<f32>) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARES {
            spares.push(memory);
        }
    }
}

/// A batch's vectors.
#[derive(Debug, Default)]
struct Vectors {
    numbers: Vec<f32>,
    home: Option<Arc<Spares>>,
}

impl Drop for Vectors {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.give(std::mem::take(&mut self.numbers));
        }
    }
}

/// One row.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    batch: Arc<Vectors>,
    at: Range<usize>,
}

impl Row {
    /// The rows of a batch, in order. Its memory goes to `home`.
    pub(super) fn all(batch: Vec<f32>, dimension: usize, home: &Arc<Spares>) -> impl Iterator<Item = Self> {
        let (rows, dimension) = (batch.len() / dimension.max(1), dimension.max(1));
        let batch = Arc::new(Vectors { numbers: batch, home: Some(home.clone()) });
        (0..rows).map(move |row| Self { batch: batch.clone(), at: row * dimension..(row + 1) * dimension })
    }
}

impl Deref for Row {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.batch.numbers[self.at.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_where_they_were() {
        let home = Arc::default();
        let rows: Vec<Row> = Row::all(vec![1.0, 2.0, 3.0, 4.0], 2, &home).collect();
        assert_eq!(rows.iter().map(|it| it.to_vec()).collect::<Vec<_>>(), [[1.0, 2.0], [3.0, 4.0]]);
        assert!(Row::default().is_empty() && Row::all(Vec::new(), 0, &home).next().is_none());
    }

    #[test]
    fn memory_comes_back_with_the_last_row_and_no_more_of_it_than_is_kept() {
        let home: Arc<Spares> = Arc::default();
        let mut rows: Vec<Row> = Row::all(vec![1.0, 2.0], 1, &home).collect();
        let address = rows[0].as_ptr();
        rows.pop();
        assert_eq!(home.take(), None);
        rows.pop();
        assert_eq!(home.take().map(|it| it.as_ptr()), Some(address));
        drop((0..SPARES + 3).flat_map(|_| Row::all(vec![1.0], 1, &home)).collect::<Vec<_>>());
        assert_eq!(std::iter::from_fn(|| home.take()).count(), SPARES);
    }
}
