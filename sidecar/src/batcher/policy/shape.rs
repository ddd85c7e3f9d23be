//! What fits in a batch.
//!
//! Enters: lengths, budgets. Leaves: yes or no. Never: a batch over its budget, but for a text that is over it alone.

/// The class of a length: eight to an octave, the shortest up to 8 tokens.
pub(super) fn class_of(tokens: u32) -> u32 {
    let tokens = tokens.max(8);
    let octave = tokens.ilog2();
    octave * 8 + ((tokens >> (octave - 3)) & 7)
}

/// A batch as it grows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shape {
    rows: usize,
    longest: usize,
    tokens: usize,
    max_rows: usize,
    max_tokens: usize,
    free_padding: usize,
}

impl Shape {
    /// Empty; `free_padding` tokens of padding cost no more than one more run.
    pub(super) fn new(max_rows: usize, max_tokens: usize, free_padding: usize) -> Self {
        Self { max_rows, max_tokens, free_padding, ..Self::default() }
    }

    pub(super) fn fits(&self, tokens: u32) -> bool {
        let (rows, longest) = (self.rows + 1, self.longest.max(tokens as usize));
        let (computed, real) = (rows * longest, self.tokens + tokens as usize);
        rows == 1 || (rows <= self.max_rows && computed <= self.max_tokens && computed - real <= self.free_padding + real / 32)
    }

    pub(super) fn add(&mut self, tokens: u32) -> bool {
        let fits = self.fits(tokens);
        if fits {
            (self.rows, self.longest, self.tokens) = (self.rows + 1, self.longest.max(tokens as usize), self.tokens + tokens as usize);
        }
        fits
    }
}
