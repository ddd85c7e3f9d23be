//! Token ids to batches, and vectors back in the texts' order.
//!
//! Enters: token ids of texts. Leaves: rectangular batches, a vector a text. Never: a text left out.

use anyhow::Result;

use crate::engine::{Engine, TokenBatch};

/// A batch of these texts, padded to the longest.
pub(super) fn together<'a>(texts: impl Iterator<Item = &'a [u32]> + Clone) -> TokenBatch {
    let tokens = texts.clone().map(<[u32]>::len).max().unwrap_or(0);
    let mut batch = TokenBatch { tokens, ..TokenBatch::default() };
    for text in texts {
        let padding = || std::iter::repeat_n(0, tokens - text.len());
        batch.rows += 1;
        batch.ids.extend(text.iter().map(|it| i64::from(*it)).chain(padding()));
        batch.mask.extend(text.iter().map(|_| 1).chain(padding()));
    }
    batch
}

/// A vector a text, run in batches of up to `rows` texts of like length.
pub(super) fn embed(engine: &mut dyn Engine, texts: &[Vec<u32>], rows: usize) -> Result<Vec<Vec<f32>>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|it| texts[*it].len());
    let mut vectors = vec![Vec::new(); texts.len()];
    for chosen in order.chunks(rows.max(1)) {
        let got = engine.run(&together(chosen.iter().map(|it| texts[*it].as_slice())))?;
        for (text, vector) in chosen.iter().zip(got.chunks(engine.dimension())) {
            vectors[*text] = vector.to_vec();
        }
    }
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensorrt_provider_test_a_batch_is_padded_to_its_longest_text() {
        let texts: [&[u32]; 2] = [&[7], &[8, 9, 10]];
        let batch = together(texts.into_iter());
        assert_eq!((batch.rows, batch.tokens), (2, 3));
        assert_eq!((batch.ids, batch.mask), (vec![7, 0, 0, 8, 9, 10], vec![1, 0, 0, 1, 1, 1]));
    }
}
