//! Do two engines agree: cosines text by text, and the neighbours that both find.
//!
//! Enters: vectors, the same texts in the same order. Leaves: figures from 0 (or -1) to 1. Never: an engine, a gate.

use crate::reference::cosine;

/// Neighbours looked for.
pub const NEAREST: usize = 10;

/// How much of one engine's answers is left in another's.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Texts.
    pub texts: usize,
    /// Mean of the texts' cosines.
    pub mean_cosine: f64,
    /// Least of them.
    pub min_cosine: f64,
    /// Mean share of a text's ten nearest by the first engine that are also among its ten nearest by the second, each set searched within
    /// itself, the text itself left out; none for up to 20 texts, where nearly everything is near.
    pub recall_at_10: Option<f64>,
}

impl Agreement {
    /// Compares `got` with `expected`; vectors that are missing, zero or not finite count as cosine -1.
    pub fn of(expected: &[Vec<f32>], got: &[Vec<f32>]) -> Self {
        let none = Vec::new();
        let cosines: Vec<f64> = expected.iter().enumerate().map(|(i, want)| cosine(want, got.get(i).unwrap_or(&none))).collect();
        let texts = cosines.len();
        Self {
            texts,
            mean_cosine: cosines.iter().sum::<f64>() / texts.max(1) as f64,
            min_cosine: cosines.iter().copied().fold(1.0, f64::min),
            recall_at_10: (texts > 2 * NEAREST && got.len() == texts).then(|| recall(expected, got)),
        }
    }
}

fn recall(expected: &[Vec<f32>], got: &[Vec<f32>]) -> f64 {
    let (a, b) = (units(expected), units(got));
    let shared = |text: usize| {
        let found = nearest(&b, &b[text], Some(text));
        nearest(&a, &a[text], Some(text)).iter().filter(|it| found.contains(it)).count()
    };
    (0..a.len()).map(shared).sum::<usize>() as f64 / (NEAREST * a.len()) as f64
}

fn units(vectors: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let unit = |it: &Vec<f32>| {
        let mut unit = it.clone();
        if normalize(&mut unit) { unit } else { vec![0.0; it.len()] }
    };
    vectors.iter().map(unit).collect()
}

/// Places of the [`NEAREST`] of `units`, vectors of norm 1, to a vector by cosine, `own` left out; of equals the one that lies first. In no order.
pub fn nearest(units: &[Vec<f32>], vector: &[f32], own: Option<usize>) -> Vec<usize> {
    let others = units.iter().enumerate().filter(|(place, _)| Some(*place) != own);
    let mut scores: Vec<(f32, usize)> = others.map(|(place, it)| (dot(it, vector), place)).collect();
    let nearer = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if scores.len() > NEAREST {
        scores.select_nth_unstable_by(NEAREST - 1, nearer);
        scores.truncate(NEAREST);
    }
    scores.into_iter().map(|it| it.1).collect()
}

/// To norm 1; false if it has no direction.
pub fn normalize(vector: &mut [f32]) -> bool {
    let norm = dot(vector, vector).sqrt();
    for it in vector.iter_mut() {
        *it /= norm;
    }
    norm > 0.0 && norm.is_finite()
}

/// Eight sums side by side, which a compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a circle, by degrees.
    fn at(degrees: f32) -> Vec<f32> {
        vec![degrees.to_radians().cos() * 3.0, degrees.to_radians().sin() * 3.0]
    }

    /// One text a degree, turned by what `off` says of its place.
    fn circle(off: impl Fn(usize) -> f32) -> Vec<Vec<f32>> {
        (0..100).map(|i| at(i as f32 + 0.1 + off(i))).collect()
    }

    fn check(got: &[Vec<f32>], cosines: (f64, f64), recall: f64) {
        let found = Agreement::of(&circle(|_| 0.0), got);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(close(found.mean_cosine, cosines.0) && close(found.min_cosine, cosines.1), "{found:?}");
        assert!(found.texts == 100 && close(found.recall_at_10.unwrap(), recall), "{found:?}");
    }

    #[test]
    fn the_same_vectors_agree_whatever_their_length() {
        check(&circle(|_| 0.0), (1.0, 1.0), 1.0);
        let longer: Vec<Vec<f32>> = circle(|_| 0.0).iter().map(|it| it.iter().map(|x| 7.0 * x).collect()).collect();
        check(&longer, (1.0, 1.0), 1.0);
    }

    #[test]
    fn a_turn_of_everything_costs_cosine_and_no_neighbour() {
        let turn = f64::from(10f32).to_radians().cos();
        check(&circle(|_| 10.0), (turn, turn), 1.0);
    }

    /// The text of 50 goes to 150, where nobody is: it keeps the far end of its neighbours, 90 to 99, of which none was near before; the ten
    /// that had it among their nearest find one other instead.
    #[test]
    fn a_text_that_moves_loses_its_neighbours_and_they_lose_it() {
        let far = f64::from(100f32).to_radians().cos();
        check(&circle(|i| if i == 50 { 100.0 } else { 0.0 }), ((99.0 + far) / 100.0, far), 1.0 - 20.0 / 1000.0);
    }

    #[test]
    fn what_has_no_direction_agrees_with_nothing() {
        let mut got = circle(|_| 0.0);
        got[3] = vec![f32::NAN, 1.0];
        let found = Agreement::of(&circle(|_| 0.0), &got);
        assert!((found.min_cosine + 1.0).abs() < f64::EPSILON && found.recall_at_10.unwrap() < 1.0, "{found:?}");
        let missing = Agreement::of(&circle(|_| 0.0), &got[..99]);
        assert!((missing.min_cosine + 1.0).abs() < f64::EPSILON && missing.recall_at_10.is_none(), "{missing:?}");
        let few = circle(|_| 0.0)[..20].to_vec();
        assert_eq!(Agreement::of(&few, &few).recall_at_10, None);
    }

    #[test]
    fn sums_side_by_side_are_a_sum() {
        let long: Vec<f32> = (0..389).map(|it| (it as f32).sin()).collect();
        assert!((f64::from(dot(&long, &long)) - long.iter().map(|it| f64::from(*it) * f64::from(*it)).sum::<f64>()).abs() < 1e-3);
    }
}
