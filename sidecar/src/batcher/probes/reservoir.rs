//! Recent vectors of a baseline, and the nearest among them; pure.
//!
//! Enters: vectors, each with its text's hash. Leaves: how many of a vector's ten nearest another finds too. Never: a text twice, which would be its
//! own neighbour; a vector as its own text's neighbour.

use std::collections::HashMap;

use akidb_domain::agreement::{NEAREST, nearest, normalize};

use super::Known;

/// Vectors kept; the oldest goes.
pub(super) const SIZE: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Reservoir {
    /// Of norm 1.
    vectors: Vec<Vec<f32>>,
    hashes: Vec<u64>,
    places: HashMap<u64, usize>,
    oldest: usize,
}

impl Reservoir {
    pub(super) fn add(&mut self, (hash, mut vector): Known) {
        if self.places.contains_key(&hash) || !normalize(&mut vector) {
            return;
        }
        let at = if self.vectors.len() < SIZE {
            self.vectors.push(Vec::new());
            self.hashes.push(0);
            self.vectors.len() - 1
        } else {
            let at = self.oldest;
            self.oldest = (at + 1) % SIZE;
            self.places.remove(&self.hashes[at]);
            at
        };
        (self.vectors[at], self.hashes[at]) = (vector, hash);
        self.places.insert(hash, at);
    }

    /// The part of the nearest of `baseline` that are also nearest of `canary`, two vectors of the text with this hash; none while there is nothing
    /// to choose among.
    pub(super) fn recall(&self, hash: u64, canary: &[f32], baseline: &[f32]) -> Option<f64> {
        let own = self.places.get(&hash).copied();
        if self.vectors.len() - usize::from(own.is_some()) < 2 * NEAREST {
            return None;
        }
        let (found, wanted) = (nearest(&self.vectors, canary, own), nearest(&self.vectors, baseline, own));
        let both = wanted.iter().filter(|it| found.contains(it)).count();
        Some(both as f64 / NEAREST as f64)
    }
}

/// Cosine of two vectors, -1 to 1; 0 where one has no direction.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    let (ab, aa, bb) = pairs().fold((0.0, 0.0, 0.0), |sum, (x, y)| (sum.0 + x * y, sum.1 + x * x, sum.2 + y * y));
    let norms: f64 = (aa * bb).sqrt();
    if norms > 0.0 { (ab / norms).clamp(-1.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a circle, by degrees.
    fn at(degrees: f32) -> Vec<f32> {
        vec![degrees.to_radians().cos() * 3.0, degrees.to_radians().sin() * 3.0]
    }

    fn circle(count: usize) -> Reservoir {
        let mut reservoir = Reservoir::default();
        for i in 0..count {
            reservoir.add((i as u64, at(i as f32)));
        }
        reservoir
    }

    #[test]
    fn recall_is_the_part_of_neighbours_that_both_find() {
        let reservoir = circle(100);
        let unknown = 1_000;
        // Around 50: 46 to 54 and one of 45 and 55.
        assert_eq!(reservoir.recall(unknown, &at(50.2), &at(50.2)), Some(1.0));
        assert_eq!(reservoir.recall(unknown, &at(53.2), &at(50.2)), Some(0.7));
        assert_eq!(reservoir.recall(unknown, &at(90.2), &at(50.2)), Some(0.0));
    }

    #[test]
    fn a_text_is_not_its_own_neighbour_nor_there_twice() {
        let mut reservoir = circle(100);
        let own = nearest(&reservoir.vectors, &at(50.2), Some(50));
        assert!(!own.contains(&50) && own.len() == NEAREST);
        reservoir.add((50, at(90.0)));
        assert_eq!(reservoir.vectors.len(), 100, "a text that is known");
        reservoir.add((200, vec![0.0, 0.0]));
        reservoir.add((201, vec![f32::NAN, 0.0]));
        assert_eq!(reservoir.vectors.len(), 100, "no direction");
    }

    #[test]
    fn few_vectors_say_nothing_and_the_oldest_leave() {
        assert_eq!(circle(19).recall(1_000, &at(1.0), &at(1.0)), None);
        assert_eq!(circle(20).recall(0, &at(1.0), &at(1.0)), None, "19 beside its own");
        assert_eq!(circle(20).recall(1_000, &at(1.0), &at(1.0)), Some(1.0));
        let mut reservoir = circle(SIZE + 5);
        assert_eq!((reservoir.vectors.len(), reservoir.places.len()), (SIZE, SIZE));
        assert!(!reservoir.places.contains_key(&4) && reservoir.places.contains_key(&5));
        reservoir.add((3, at(0.0)));
        assert!(reservoir.places.contains_key(&3) && !reservoir.places.contains_key(&5));
    }

    #[test]
    fn cosines_are_cosines() {
        assert!((cosine(&at(10.0), &at(70.0)) - 0.5).abs() < 1e-6);
        assert!((cosine(&at(10.0), &at(190.0)) + 1.0).abs() < 1e-6);
        assert!(cosine(&[0.0, 0.0], &at(1.0)).abs() < f64::EPSILON);
    }
}
