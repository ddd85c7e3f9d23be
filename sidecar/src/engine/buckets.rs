//! How batches are padded and split to the shapes of an engine. Pure.
//!
//! Enters: profiles, the shape of a batch. Leaves: parts, each with the shape that it is padded to and the profile that runs it. Never: a
//! shape outside every profile; a batch that no profile holds is refused by name, not compiled for.
//!
//! Few shapes, so that each keeps its buffers on the device: batches grow by a third or a half from step to step, lengths likewise.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use akidb_domain::profile::{self, Profile, Shape};
use akidb_domain::vocabulary::ExecutionProvider;

use super::{EngineError, EngineSpec, Limits, TokenBatch};

/// Most texts in a batch of a graph that takes any.
const FREE_ROWS: usize = 512;

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
#[error(
    "a text of {tokens} tokens is outside the engine's shape profile {profiles}, which ends at {longest}: build it with one that reaches that"
)]
pub struct Outside {
    /// Its length.
    pub tokens: usize,
    /// Tokens of the longest profile.
    pub longest: usize,
    /// All of them.
    pub profiles: String,
}

impl Grid {
    /// The shapes of an engine on a GPU; those of a graph that was not built for any are few, too. An engine that does not hold the model's
    /// texts is refused here, and not when one of them comes.
    pub fn of(spec: &EngineSpec) -> Result<Self, EngineError> {
        let gpu = &spec.gpu;
        let longest = gpu.profiles.iter().map(|it| it.max.tokens).max();
        let refused = |why: String| Err(EngineError::Load(why));
        match longest {
            None if spec.provider == ExecutionProvider::TensorRt => {
                refused("it says no shape profile (`target.shape_profile`), so no batch can be known to fit it".into())
            }
            None => Ok(Self::free(FREE_ROWS, gpu.max_tokens.max(16))),
            Some(longest) if longest < gpu.max_tokens => refused(format!(
                "its shape profile {} ends at {longest} tokens, the model's texts at {}: build it with a profile that reaches that",
                profile::join(&gpu.profiles),
                gpu.max_tokens
            )),
            Some(_) if gpu.narrow.len() + 1 != gpu.profiles.len() => {
                refused(format!("it has {} shape profiles and {} engine files", gpu.profiles.len(), gpu.narrow.len() + 1))
            }
            Some(_) => Ok(Self::new(gpu.profiles.clone())),
        }
    }

    /// The shapes of these profiles; there is at least one.
    pub fn new(profiles: Vec<Profile>) -> Self {
        Self { profiles }
    }

    /// The shapes of a graph that takes any: up to `rows` texts of `tokens` tokens.
    pub fn free(rows: usize, tokens: usize) -> Self {
        let (min, max) = (Shape { rows: 1, tokens: 16.min(tokens) }, Shape { rows, tokens });
        Self { profiles: vec![Profile { min, opt: max, max }] }
    }

    /// What suits the engine. A batch within it may still be more than the one profile of its length holds: then it is split.
    pub fn limits(&self) -> Limits {
        let most = |of: fn(Shape) -> usize| self.profiles.iter().map(|it| of(it.max)).max().unwrap_or(1);
        let mut lengths: Vec<usize> = self.profiles.iter().flat_map(|it| steps(TOKENS, it.min.tokens, it.max.tokens)).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Limits { max_rows: most(|it| it.rows), max_tokens: most(area), lengths: Arc::from(lengths) }
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

    /// One text in the largest shape of the same profile, where it is another.
    pub fn largest(&self, part: &Part) -> Option<Part> {
        let shape = self.profiles.get(part.profile)?.max;
        (shape != part.shape).then_some(Part { texts: 0..1, shape, profile: part.profile })
    }

    /// One text in another shape of the same profile, a small one, where it has one.
    pub fn another(&self, part: &Part) -> Option<Part> {
        let Profile { min, max, .. } = *self.profiles.get(part.profile)?;
        let rows = [min.rows, up(ROWS, min.rows + 1, min.rows, max.rows)];
        let tokens = [min.tokens, up(TOKENS, min.tokens + 1, min.tokens, max.tokens)];
        let mut shapes = rows.iter().flat_map(|rows| tokens.iter().map(|tokens| Shape { rows: *rows, tokens: *tokens }));
        shapes.find(|it| *it != part.shape).map(|shape| Part { texts: 0..1, shape, profile: part.profile })
    }

    /// All that is left, where it costs the least and then in the narrowest profile; where none holds it, as much as any does.
    fn part(&self, from: usize, left: usize, tokens: usize) -> Result<Part, Outside> {
        let long_enough = || self.profiles.iter().enumerate().filter(move |(_, it)| it.max.tokens >= tokens);
        let whole =
            long_enough().filter(|(_, it)| it.max.rows >= left).min_by_key(|(_, it)| (area(padded(it, left, tokens)), area(it.max)));
        let most = || long_enough().max_by_key(|(_, it)| (it.max.rows, Reverse(area(padded(it, left, tokens)))));
        let Some((profile, it)) = whole.or_else(most) else {
            let longest = self.profiles.iter().map(|it| it.max.tokens).max().unwrap_or(0);
            return Err(Outside { tokens, longest, profiles: profile::join(&self.profiles) });
        };
        let rows = left.min(it.max.rows);
        Ok(Part { texts: from..from + rows, shape: padded(it, rows, tokens), profile })
    }
}

impl Part {
    /// How many its ids and its mask are.
    pub fn integers(&self) -> usize {
        2 * area(self.shape)
    }

    /// The part's ids, then its mask, padded to its shape. A row that is only padding has one token that counts, so that a mean over its tokens
    /// is a number.
    pub fn fill(&self, into: &mut [i64], batch: &TokenBatch) {
        let Shape { rows, tokens } = self.shape;
        into.fill(0);
        let (ids, mask) = into.split_at_mut(rows * tokens);
        for (row, text) in self.texts.clone().enumerate() {
            let from = text * batch.tokens..(text + 1) * batch.tokens;
            let to = row * tokens..row * tokens + batch.tokens;
            ids[to.clone()].copy_from_slice(&batch.ids[from.clone()]);
            mask[to].copy_from_slice(&batch.mask[from]);
        }
        for row in self.texts.len()..rows {
            mask[row * tokens] = 1;
        }
    }
}

fn area(shape: Shape) -> usize {
    shape.rows * shape.tokens
}

/// What a profile pads a batch to; of more texts than it holds, as many as it does.
fn padded(Profile { min, max, .. }: &Profile, rows: usize, tokens: usize) -> Shape {
    Shape { rows: up(ROWS, rows, min.rows, max.rows), tokens: up(TOKENS, tokens, min.tokens, max.tokens) }
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
    use akidb_domain::bundle::Graph;
    use akidb_domain::profile::parse;

    use super::*;
    use crate::engine::GpuSpec;

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

    /// Profiles that cross: many short texts, or a few long ones.
    const CROSSED: &str = "256x16:256x32:512x64,1x16:2x64:4x256";

    #[test]
    fn batches_are_padded_to_the_narrowest_profile_that_holds_them() {
        check(TWO, 1, 7, &[(1, 1, 16, 0)]);
        check(TWO, 5, 33, &[(5, 8, 48, 0)]);
        check(TWO, 8, 65, &[(8, 8, 96, 1)]);
        check(TWO, 65, 32, &[(65, 96, 32, 1)]);
        check("4x32:8x64:20x100", 1, 1, &[(1, 4, 32, 0)]);
        check("4x32:8x64:20x100", 17, 97, &[(17, 20, 100, 0)]);
        // Whatever their order in the manifest.
        check("1x16:64x32:512x256,1x16:1x32:8x64", 5, 33, &[(5, 8, 48, 1)]);
        // Two texts are not padded to 256 rows where another profile takes them as they are.
        check(CROSSED, 2, 30, &[(2, 2, 32, 1)]);
    }

    #[test]
    fn what_is_too_large_is_split_and_what_is_too_long_is_refused() {
        check(TWO, 1_030, 30, &[(512, 512, 32, 1), (512, 512, 32, 1), (6, 8, 32, 0)]);
        check("4x32:8x64:20x100", 43, 40, &[(20, 20, 48, 0), (20, 20, 48, 0), (3, 4, 48, 0)]);
        check(CROSSED, 600, 30, &[(512, 512, 32, 0), (88, 256, 32, 0)]);
        check(CROSSED, 10, 200, &[(4, 4, 256, 1), (4, 4, 256, 1), (2, 2, 256, 1)]);
        let error = grid(CROSSED).place(1, 257).unwrap_err();
        let told = format!("a text of 257 tokens is outside the engine's shape profile {CROSSED}, which ends at 256: build it with one");
        assert!(error.to_string().starts_with(&told), "{error}");
    }

    #[test]
    fn every_shape_is_within_its_profile_and_the_limits_and_every_text_runs_once() {
        for profiles in [TWO, CROSSED, "4x32:8x64:20x100", "64x16:64x16:64x16,1x300:1x300:1x300"] {
            let grid = grid(profiles);
            let (limits, longest) = (grid.limits(), grid.profiles.iter().map(|it| it.max.tokens).max().unwrap());
            for rows in (1..=70).chain([255, 256, 257, 511, 512, 513, 1_030, 1_100]) {
                for tokens in [1, 16, 17, 64, 65, 255, 256, longest].into_iter().filter(|it| *it <= longest) {
                    let parts = grid.place(rows, tokens).unwrap();
                    let mut next = 0;
                    for part in parts {
                        let profile = grid.profiles[part.profile];
                        assert!(profile.min.within(part.shape) && part.shape.within(profile.max), "{profiles} {part:?}");
                        assert!(part.texts.len() <= part.shape.rows && tokens <= part.shape.tokens, "{profiles} {part:?}");
                        // Buffers are as large as the limits.
                        assert!(part.shape.rows <= limits.max_rows && area(part.shape) <= limits.max_tokens, "{profiles} {part:?}");
                        assert_eq!(part.texts.start, next);
                        next = part.texts.end;
                    }
                    assert_eq!(next, rows);
                }
            }
        }
    }

    #[test]
    fn another_shape_of_a_profile_is_another_and_within_it() {
        for profiles in [TWO, CROSSED, "4x32:8x64:20x100", "1x16:1x32:1x64"] {
            let grid = grid(profiles);
            for (rows, tokens) in [(1, 10), (4, 30), (8, 64), (20, 60)] {
                for part in grid.place(rows, tokens).unwrap_or_default() {
                    let (profile, other) = (grid.profiles[part.profile], grid.another(&part).unwrap());
                    let largest = grid.largest(&part).map(|it| it.shape);
                    assert!(largest.unwrap_or(part.shape) == profile.max && largest != Some(part.shape));
                    assert!(other.shape != part.shape && other.profile == part.profile && other.texts == (0..1));
                    assert!(profile.min.within(other.shape) && other.shape.within(profile.max), "{profiles} {other:?}");
                }
            }
        }
        let only = grid("4x16:4x16:4x16");
        assert_eq!(only.another(&only.place(4, 16).unwrap()[0]), None);
    }

    #[test]
    fn limits_follow_from_all_profiles() {
        let limits = grid(TWO).limits();
        assert_eq!((limits.max_rows, limits.max_tokens), (512, 512 * 256));
        assert_eq!((limits.padded(3), limits.padded(33), limits.padded(256)), (16, 48, 256));
        assert_eq!(*limits.lengths, [16, 24, 32, 48, 64, 96, 128, 192, 256]);
        assert_eq!(Grid::free(512, 256).limits(), limits);
        let crossed = grid(CROSSED).limits();
        assert_eq!((crossed.max_rows, crossed.max_tokens, crossed.padded(65)), (512, 512 * 64, 96));
    }

    #[test]
    fn an_engine_that_does_not_hold_the_models_texts_is_not_loaded() {
        let spec = |profiles: &str, narrow: usize, max_tokens| {
            let profiles = if profiles.is_empty() { Vec::new() } else { parse(profiles).unwrap() };
            let gpu = GpuSpec { profiles, narrow: vec!["model.profile0.onnx".into(); narrow], max_tokens, ..GpuSpec::default() };
            let graph = Graph { inputs: Vec::new(), output: String::new() };
            EngineSpec { path: "model.onnx".into(), graph, dimension: 1, provider: ExecutionProvider::TensorRt, threads: 1, gpu }
        };
        let refused = |spec: &EngineSpec, expected: &str| {
            let error = Grid::of(spec).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(&spec("", 0, 256), "it says no shape profile");
        refused(&spec(TWO, 1, 512), "ends at 256 tokens, the model's texts at 512: build it with a profile that reaches that");
        refused(&spec(TWO, 0, 256), "2 shape profiles and 1 engine files");
        assert_eq!(Grid::of(&spec(TWO, 1, 256)).unwrap(), grid(TWO));
        // The longest profile counts, whichever it is.
        assert_eq!(Grid::of(&spec("1x16:64x32:512x256,1x16:1x32:8x64", 1, 256)).unwrap().limits(), grid(TWO).limits());
        let free = EngineSpec { provider: ExecutionProvider::Cuda, ..spec("", 0, 100) };
        assert_eq!(Grid::of(&free).unwrap(), Grid::free(512, 100));
    }

    #[test]
    fn a_part_is_padded_to_its_shape_and_padding_rows_count_one_token() {
        let batch = TokenBatch { rows: 3, tokens: 2, ids: vec![1, 2, 3, 4, 5, 6], mask: vec![1, 1, 1, 0, 1, 1] };
        let part = Part { texts: 1..3, shape: Shape { rows: 4, tokens: 3 }, profile: 0 };
        let mut into = vec![9; part.integers()];
        part.fill(&mut into, &batch);
        assert_eq!(into, [3, 4, 0, 5, 6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0]);
    }
}
