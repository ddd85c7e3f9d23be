//! How batches are padded and split to the shapes of an engine. Pure.
//!
//! Enters: profiles, the shape of a batch. Leaves: parts, each with the shape that it is padded to and the profile that runs it. Never: a
//! shape outside every profile; a batch that no profile holds is refused by name, not compiled for.
//!
//! Few shapes, so that each keeps its buffers on the device: batches grow by a third or a half from step to step, lengths likewise.

use std::ops::Range;
use std::sync::Arc;

use super::Limits;
use akidb_domain::profile::{Profile, Shape};

/// Batch sizes, within a profile.
const ROWS: &[usize] = &[1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024];
/// Lengths, within a profile.
const TOKENS: &[usize] = &[16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 2_048, 4_096, 8_192];

/// The shapes of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    profiles: Vec<Profile>,
}

/// Texts of a batch that run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which texts.
    pub texts: Range<usize>,
    /// What they are padded to.
    pub shape: Shape,
    /// Which profile runs them.
    pub profile: usize,
}

/// A text that no profile holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a text of {tokens} tokens is outside the engine's shape profile {profile}: build the engine with a profile that reaches it")]
pub struct Outside {
    /// Its length.
    pub tokens: usize,
    /// The widest profile.
    pub profile: Profile,
}

impl Grid {
    /// The shapes of these profiles, narrow first; there is at least one.
    pub fn new(profiles: Vec<Profile>) -> Self {
        Self { profiles }
    }

    /// The shapes of a graph that takes any: up to `rows` texts of `tokens` tokens.
    pub fn free(rows: usize, tokens: usize) -> Self {
        let (min, max) = (Shape { rows: 1, tokens: 16.min(tokens) }, Shape { rows, tokens });
        Self { profiles: vec![Profile { min, opt: max, max }] }
    }

    /// The widest profile, the last.
    pub fn widest(&self) -> Option<Profile> {
        self.profiles.last().copied()
    }

    /// What suits the engine.
    pub fn limits(&self) -> Limits {
        let widest = self.widest().map_or(Shape { rows: 1, tokens: 1 }, |it| it.max);
        let mut lengths: Vec<usize> = self.profiles.iter().flat_map(|it| steps(TOKENS, it.min.tokens, it.max.tokens)).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Limits { max_rows: widest.rows, max_tokens: widest.rows * widest.tokens, lengths: Arc::from(lengths) }
    }

    /// Cuts a batch into parts that profiles hold, as few as can be.
    pub fn place(&self, rows: usize, tokens: usize) -> Result<Vec<Part>, Outside> {
        let mut parts = Vec::new();
        let mut from = 0;
        while from < rows {
            let part = self.part(from, rows - from, tokens)?;
            from = part.texts.end;
            parts.push(part);
        }
        Ok(parts)
    }

    /// The narrowest profile that holds all that is left, else as much as the widest does.
    fn part(&self, from: usize, left: usize, tokens: usize) -> Result<Part, Outside> {
        let whole = self.profiles.iter().position(|it| it.holds(Shape { rows: left, tokens }));
        let widest = || (0..self.profiles.len()).rev().find(|it| self.profiles[*it].max.tokens >= tokens);
        let Some(profile) = whole.or_else(widest) else {
            let none = Profile { min: Shape { rows: 0, tokens: 0 }, opt: Shape { rows: 0, tokens: 0 }, max: Shape { rows: 0, tokens: 0 } };
            return Err(Outside { tokens, profile: self.widest().unwrap_or(none) });
        };
        let Profile { min, max, .. } = self.profiles[profile];
        let rows = left.min(max.rows);
        let shape = Shape { rows: up(ROWS, rows, min.rows, max.rows), tokens: up(TOKENS, tokens, min.tokens, max.tokens) };
        Ok(Part { texts: from..from + rows, shape, profile })
    }
}

/// The steps from `min` to `max`, both included.
fn steps(of: &[usize], min: usize, max: usize) -> Vec<usize> {
    let between = of.iter().copied().filter(|it| *it > min && *it < max);
    let mut all: Vec<usize> = std::iter::once(min).chain(between).chain([max]).collect();
    all.dedup();
    all
}

/// The smallest step that is no less than `value`.
fn up(of: &[usize], value: usize, min: usize, max: usize) -> usize {
    steps(of, min, max).into_iter().find(|it| *it >= value).unwrap_or(max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use akidb_domain::profile::parse;

    fn grid(text: &str) -> Grid {
        Grid::new(parse(text).unwrap())
    }

    /// `(texts, rows, tokens, profile)` of each part.
    fn check(profiles: &str, rows: usize, tokens: usize, expected: &[(usize, usize, usize, usize)]) {
        let got = grid(profiles).place(rows, tokens).unwrap();
        let got: Vec<_> = got.iter().map(|it| (it.texts.len(), it.shape.rows, it.shape.tokens, it.profile)).collect();
        assert_eq!(got, expected, "{profiles} {rows}x{tokens}");
    }

    const TWO: &str = "1x16:1x32:8x64,1x16:64x32:512x256";

    #[test]
    fn batches_are_padded_to_the_narrowest_profile_that_holds_them() {
        check(TWO, 1, 7, &[(1, 1, 16, 0)]);
        check(TWO, 5, 33, &[(5, 8, 48, 0)]);
        check(TWO, 8, 65, &[(8, 8, 96, 1)]);
        check(TWO, 65, 32, &[(65, 96, 32, 1)]);
        check("4x32:8x64:20x100", 1, 1, &[(1, 4, 32, 0)]);
        check("4x32:8x64:20x100", 17, 97, &[(17, 20, 100, 0)]);
    }

    #[test]
    fn what_is_too_large_is_split_and_what_is_too_long_is_refused() {
        check(TWO, 1_030, 30, &[(512, 512, 32, 1), (512, 512, 32, 1), (6, 8, 32, 0)]);
        let error = grid(TWO).place(1, 257).unwrap_err();
        assert!(error.to_string().contains("257 tokens is outside the engine's shape profile 1x16:64x32:512x256"), "{error}");
    }

    #[test]
    fn every_shape_is_within_its_profile_and_every_text_runs_once() {
        let grid = grid(TWO);
        for rows in 1..=1_100 {
            for tokens in [1, 16, 17, 64, 65, 255, 256] {
                let parts = grid.place(rows, tokens).unwrap();
                assert_eq!(parts.iter().map(|it| it.texts.len()).sum::<usize>(), rows);
                for part in parts {
                    let profile = grid.profiles[part.profile];
                    assert!(profile.min.within(part.shape) && part.shape.within(profile.max), "{part:?}");
                    assert!(part.texts.len() <= part.shape.rows && tokens <= part.shape.tokens, "{part:?}");
                }
            }
        }
    }

    #[test]
    fn limits_follow_from_the_widest_profile() {
        let limits = grid(TWO).limits();
        assert_eq!((limits.max_rows, limits.max_tokens), (512, 512 * 256));
        assert_eq!((limits.padded(3), limits.padded(33), limits.padded(256)), (16, 48, 256));
        assert_eq!(*limits.lengths, [16, 24, 32, 48, 64, 96, 128, 192, 256]);
        assert_eq!(Grid::free(512, 256).limits(), limits);
    }
}
