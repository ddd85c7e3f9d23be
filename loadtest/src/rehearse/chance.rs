//! Fast random variables: distributions read from tables of their quantiles.
//!
//! Enters: a stream of random bits. Leaves: numbers. Never: a logarithm where a table will do; a rehearsal draws ten thousand million of them.

use crate::random::Random;

const CELLS: usize = 1 << 12;

/// A distribution as a table of quantiles, linear in between.
#[derive(Debug)]
pub(super) struct Table(Vec<f64>);

impl Table {
    fn new(quantile: impl Fn(f64) -> f64) -> Self {
        Self((0..=CELLS).map(|i| quantile((i as f64).clamp(0.25, CELLS as f64 - 0.25) / CELLS as f64)).collect())
    }

    /// Exponential with mean 1. Its last cell is cut at the 0.99994-quantile, 9.7.
    pub(super) fn exponential() -> Self {
        Self::new(|u| -libm::log(1.0 - u))
    }

    /// `median exp(spread N)`.
    pub(super) fn lognormal(median: f64, spread: f64) -> Self {
        Self::new(|u| median * libm::exp(spread * normal_quantile(u)))
    }

    /// The draw of 32 random bits.
    pub(super) fn at(&self, bits: u32) -> f64 {
        let cell = (bits >> 20) as usize;
        let part = f64::from(bits & 0xf_ffff) / f64::from(1 << 20);
        self.0[cell] + part * (self.0[cell + 1] - self.0[cell])
    }
}

/// Bisection on erf: slow, for building tables.
fn normal_quantile(u: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if 0.5 * (1.0 + libm::erf(middle / std::f64::consts::SQRT_2)) < u { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// Standard normal (Box and Muller, 1958).
pub(super) fn normal(random: &mut Random) -> f64 {
    let (u, v) = (unit(random), unit(random));
    (-2.0 * libm::log(1.0 - u)).sqrt() * libm::cos(std::f64::consts::TAU * v)
}

/// Uniform in 0..1.
pub(super) fn unit(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}

/// How many trials until the next success, with probability `p` each: 1, 2, ...
pub(super) fn geometric(random: &mut Random, p: f64) -> u64 {
    if p <= 0.0 { u64::MAX } else { 1 + (libm::log(1.0 - unit(random)) / libm::log(1.0 - p)) as u64 }
}

/// Draws indices with given weights (Walker's alias method, in Vose's form, 1991).
#[derive(Debug)]
pub(super) struct Alias(Vec<(u32, u32)>);

impl Alias {
    pub(super) fn new(weights: &[f64]) -> Self {
        let scale = weights.len() as f64 / weights.iter().sum::<f64>();
        let mut left: Vec<f64> = weights.iter().map(|it| it * scale).collect();
        let mut cells: Vec<(u32, u32)> = (0..weights.len() as u32).map(|it| (u32::MAX, it)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|it| left[*it] < 1.0);
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            cells[less] = ((left[less] * f64::from(u32::MAX)) as u32, more as u32);
            left[more] -= 1.0 - left[less];
            if left[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Self(cells)
    }

    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        let bits = random.next();
        let cell = (((bits >> 32) * self.0.len() as u64) >> 32) as usize;
        let (keep, other) = self.0[cell];
        if bits as u32 <= keep { cell as u32 } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_the_means_they_should() {
        let check = |table: &Table, expected: f64| {
            let mut random = Random::new(1, 0);
            let mean = (0..200_000).map(|_| table.at(random.next() as u32)).sum::<f64>() / 200_000.0;
            assert!((mean / expected - 1.0).abs() < 0.01, "{mean} for {expected}");
        };
        check(&Table::exponential(), 1.0);
        check(&Table::lognormal(2.0, 0.3), 2.0 * libm::exp(0.045));
    }

    #[test]
    fn draws_follow_their_weights() {
        let (alias, mut random, mut counts) = (Alias::new(&[4.0, 3.0, 2.0, 1.0]), Random::new(1, 0), [0i32; 4]);
        (0..100_000).for_each(|_| counts[alias.draw(&mut random) as usize] += 1);
        for (count, expected) in counts.iter().zip([40_000, 30_000, 20_000, 10_000]) {
            assert!((count - expected).abs() < 600, "{counts:?}");
        }
        let mean = (0..20_000).map(|_| geometric(&mut random, 0.05)).sum::<u64>() as f64 / 20_000.0;
        assert!((mean - 20.0).abs() < 0.6, "{mean}");
    }
}
