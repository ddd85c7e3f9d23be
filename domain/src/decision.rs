//! When a canary grows, waits or is rolled back.
//!
//! Enters: a [`Config`] fixed before, a [`State`], one [`Look`] after another. Leaves: an [`Outcome`] each. Pure and the same bit for bit on every
//! machine: fixed orders of summation, logarithms of its own, no clock, no randomness. Never: a verdict from a test that breaks when one looks
//! twice.
//!
//! Every test is an e-process: a quantity whose expectation is at most 1 as long as its null hypothesis holds, so that the chance that it ever
//! reaches `1/alpha` is at most `alpha` (Ville's inequality). docs/EXPERIMENTS.md tells the whole method.
//!
//! Rooms, in reading order:
//! - [`config`]: what is fixed before the first look
//! - [`look`]: what a look sees
//! - [`verdict`]: what leaves
//! - [`state`]: what is remembered, and [`step`], which takes a look
//! - `assess`: the vetoes in order, [`evidence`]: each guardrail's words and numbers, `reason`: the same for people
//! - [`probes`], [`lanes`], [`crash`]: the guardrails
//! - [`bets`], [`signs`], [`multinomial`]: the e-processes, [`quantile`]: the reported interval
//! - [`record`]: a decision that can be replayed

mod assess;
pub mod bets;
pub mod config;
pub mod crash;
pub mod evidence;
pub mod lanes;
pub mod look;
pub mod multinomial;
pub mod probes;
pub mod quantile;
mod reason;
pub mod record;
pub mod signs;
pub mod state;
#[cfg(test)]
mod testing;
pub mod verdict;

pub use config::Config;
pub use look::Look;
pub use record::Record;
pub use state::{BadLook, State, step};
pub use verdict::{Guardrail, Outcome, Stage, Verdict};

/// Names the formulas. A change of any number that a look can lead to is a new version.
pub const METHOD: &str = "1";

#[cfg(test)]
mod tests;
