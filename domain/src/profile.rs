//! The shapes that an engine was built for: `min:opt:max`, each `BATCHxTOKENS`; several profiles are joined by commas. Pure.
//!
//! Enters: text, as in `target.shape_profile`. Leaves: checked profiles. Never: a profile whose min is above its opt or max.

use std::fmt;
use std::str::FromStr;

/// Texts and tokens a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// Texts.
    pub rows: usize,
    /// Tokens a text.
    pub tokens: usize,
}

/// Shapes from `min` to `max`, best at `opt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Smallest.
    pub min: Shape,
    /// The one it is tuned for.
    pub opt: Shape,
    /// Largest.
    pub max: Shape,
}

/// Most profiles of an artifact.
pub const MAX_PROFILES: usize = 4;
/// Largest number of texts or tokens in a shape.
const MAX_SIDE: usize = 131_072;

/// Not a shape or a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// As it says.
    #[error("`{0}` is not a shape: write BATCHxTOKENS, e.g. 32x64")]
    Shape(String),
    /// As it says.
    #[error("`{0}` is not a profile: write min:opt:max, each BATCHxTOKENS and none below the one before it, e.g. 1x16:32x64:512x256")]
    Profile(String),
    /// As it says.
    #[error("{0} profiles; 1 to {MAX_PROFILES} are supported")]
    Count(usize),
}

impl Shape {
    /// Whether neither side is larger than the other's.
    pub fn within(self, other: Self) -> bool {
        self.rows <= other.rows && self.tokens <= other.tokens
    }
}

impl FromStr for Shape {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let side = |it: &str| it.parse::<usize>().ok().filter(|it| (1..=MAX_SIDE).contains(it));
        let sides = text.trim().split_once('x').and_then(|(rows, tokens)| Some(Self { rows: side(rows)?, tokens: side(tokens)? }));
        sides.ok_or_else(|| ProfileError::Shape(text.to_owned()))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.tokens)
    }
}

impl Profile {
    /// Whether a batch of this shape runs in it, padded up to its min.
    pub fn holds(&self, shape: Shape) -> bool {
        shape.within(self.max)
    }
}

impl FromStr for Profile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let shapes: Vec<Shape> = text.split(':').map(str::parse).collect::<Result<_, _>>()?;
        match shapes[..] {
            [min, opt, max] if min.within(opt) && opt.within(max) => Ok(Self { min, opt, max }),
            _ => Err(ProfileError::Profile(text.to_owned())),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.min, self.opt, self.max)
    }
}

/// Reads `target.shape_profile`.
pub fn parse(text: &str) -> Result<Vec<Profile>, ProfileError> {
    let profiles: Vec<Profile> = text.split(',').map(|it| it.trim().parse()).collect::<Result<_, _>>()?;
    if profiles.len() > MAX_PROFILES { Err(ProfileError::Count(profiles.len())) } else { Ok(profiles) }
}

/// Writes `target.shape_profile`.
pub fn join(profiles: &[Profile]) -> String {
    profiles.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<usize, &str>) {
        match (parse(text), expected) {
            (Ok(got), Ok(count)) => {
                assert_eq!(got.len(), count);
                assert_eq!(join(&got), text);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, _) => panic!("{text}: {got:?}"),
        }
    }

    #[test]
    fn profiles_read_back_and_bad_ones_are_named() {
        check("1x16:32x64:512x256", Ok(1));
        check("1x16:1x32:8x64,1x16:64x32:512x256", Ok(2));
        check("1x16:32x64", Err("`1x16:32x64` is not a profile"));
        check("1x16:32x64:16x256", Err("is not a profile"));
        check("1x16:32x64:512", Err("`512` is not a shape"));
        check("0x16:1x16:1x16", Err("`0x16` is not a shape"));
        check(&["1x1:1x1:1x1"; 5].join(","), Err("5 profiles"));
    }
}
