//! What fits in a batch.
//!
//! Enters: lengths, budgets. Leaves: yes or no. Never: a batch over its budget, but for a text that is over it alone.
//!
//! An engine that pads texts to certain lengths computes those lengths whatever is cut, so they count as the texts' own.

use std::sync::Arc;

/// The class of a length: eight to an octave, the shortest up to 8 tokens.
pub(super) fn class_of(tokens: u32) -> u32 {
    let tokens = tokens.max(8);
    let octave = tokens.ilog2();
    octave * 8 + ((tokens >> (octave - 3)) & 7)
}

/// A batch as it grows.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    rows: usize,
    longest: usize,
    tokens: usize,
    max_rows: usize,
    max_tokens: usize,
    free_padding: usize,
    /// Lengths that the engine pads to, rising; empty: it takes any.
    lengths: Arc<[usize]>,
}

impl Shape {
    /// Empty; `free_padding` tokens of padding cost no more than one more run.
    pub(super) fn new(max_rows: usize, max_tokens: usize, free_padding: usize) -> Self {
        Self { max_rows, max_tokens, free_padding, ..Self::default() }
    }

    /// Of an engine that pads texts to these lengths.
    pub(super) fn padding_to(self, lengths: Arc<[usize]>) -> Self {
        Self { lengths, ..self }
    }

    fn length(&self, tokens: u32) -> usize {
        let tokens = tokens as usize;
        self.lengths.iter().copied().find(|it| *it >= tokens).unwrap_or(tokens)
    }

    pub(super) fn fits(&self, tokens: u32) -> bool {
        let tokens = self.length(tokens);
        let (rows, longest) = (self.rows + 1, self.longest.max(tokens));
        let (computed, real) = (rows * longest, self.tokens + tokens);
        rows == 1 || (rows <= self.max_rows && computed <= self.max_tokens && computed - real <= self.free_padding + real / 32)
    }

    pub(super) fn add(&mut self, tokens: u32) -> bool {
        let fits = self.fits(tokens);
        if fits {
            let tokens = self.length(tokens);
            (self.rows, self.longest, self.tokens) = (self.rows + 1, self.longest.max(tokens), self.tokens + tokens);
        }
        fits
    }
}
