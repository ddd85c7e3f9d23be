//! What benches of rounds have in common. Enters: arguments, samples. Leaves: how many rounds, the one in the middle. Never: a measurement.

/// What follows `--rounds`.
pub(super) fn rounds(arguments: &[String], otherwise: usize) -> usize {
    arguments.iter().position(|it| it == "--rounds").and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(otherwise)
}

pub(super) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
