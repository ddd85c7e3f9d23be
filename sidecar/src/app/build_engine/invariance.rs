//! Does a text's vector depend on the batch that it comes in?
//!
//! Enters: an engine as a sidecar loads it, so that the shape of a batch picks the profile that runs it; token ids. Leaves: the least cosine
//! between any two vectors of one text. Never: a batch beyond the widest profile.

use akidb_domain::profile::Profile;
use akidb_domain::reference::cosine;
use akidb_domain::vocabulary::Precision;
use anyhow::Result;

use super::batch::together;
use crate::engine::Engine;

/// Texts that are tried.
pub(super) const TEXTS: usize = 64;
/// A small batch.
const SMALL: usize = 8;

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Invariance {
    /// The least cosine.
    pub(super) cosine: f64,
    /// Texts tried.
    pub(super) texts: usize,
    /// Which batches gave those two vectors; empty where all are the same.
    pub(super) between: String,
}

/// The least that an engine is written with. Float16 engines of four models measured 0.99997 at least (`docs/GPU.md`). Within one engine too
/// `TensorRT`'s kernels, or the order in which they add, follow from the batch's shape, and before a quantized layer such a difference becomes
/// a whole step where a value lies near a step's edge. So what a quantized engine promises is that two vectors of one text, of the worst one,
/// are no further apart than its quality gate lets the mean text be from fp32.
pub(super) fn gate(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 | Precision::Tf32 | Precision::Fp16 => 0.9999,
        Precision::Fp8 | Precision::Int8 => 0.99,
    }
}

/// A way to embed the texts: its name, and a vector a text.
type Way = (String, Vec<Vec<f32>>);

/// Runs the texts alone, in small and in full batches of each profile, with texts of like length and of mixed.
pub(super) fn measure(engine: &mut dyn Engine, texts: &[Vec<u32>], profiles: &[Profile]) -> Result<Invariance> {
    let mut ways: Vec<Way> = Vec::new();
    for rows in sizes(profiles) {
        // Alone there are no mates.
        for (order, mates) in orders(texts).into_iter().take(rows.min(2)) {
            ways.push((format!("{rows} texts of {mates} lengths"), run(engine, texts, &order, rows)?));
        }
    }
    Ok(least(&ways, texts.len()))
}

/// Texts a batch: alone, small, as each profile is tuned for, full.
fn sizes(profiles: &[Profile]) -> Vec<usize> {
    let most = profiles.last().map_or(1, |it| it.max.rows);
    let own = profiles.iter().flat_map(|it| [it.min.rows, it.opt.rows, it.max.rows]);
    let mut sizes: Vec<usize> = own.chain([1, SMALL]).map(|it| it.min(most)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// By length, as a sidecar groups them; and the shortest beside the longest.
fn orders(texts: &[Vec<u32>]) -> [(Vec<usize>, &'static str); 2] {
    let mut like: Vec<usize> = (0..texts.len()).collect();
    like.sort_by_key(|it| texts[*it].len());
    let (short, long) = like.split_at(like.len().div_ceil(2));
    let mut mixed = Vec::new();
    for (at, text) in short.iter().enumerate() {
        mixed.push(*text);
        mixed.extend(long.len().checked_sub(at + 1).map(|it| long[it]));
    }
    [(like, "like"), (mixed, "mixed")]
}

/// In batches of exactly `rows`; the last one is filled up with texts from the beginning.
fn run(engine: &mut dyn Engine, texts: &[Vec<u32>], order: &[usize], rows: usize) -> Result<Vec<Vec<f32>>> {
    let mut vectors = vec![Vec::new(); texts.len()];
    for start in (0..order.len()).step_by(rows) {
        let chosen: Vec<usize> = order.iter().cycle().skip(start).take(rows).copied().collect();
        let batch = together(chosen.iter().map(|it| texts[*it].as_slice()));
        let got = engine.run(&batch)?;
        for (text, vector) in chosen.iter().zip(got.chunks(engine.dimension())) {
            vectors[*text] = vector.to_vec();
        }
    }
    Ok(vectors)
}

fn least(ways: &[Way], texts: usize) -> Invariance {
    let mut found = Invariance { cosine: 1.0, texts, between: String::new() };
    for (at, (one, a)) in ways.iter().enumerate() {
        for (other, b) in &ways[at + 1..] {
            let least = a.iter().zip(b).map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
            if least < found.cosine {
                (found.cosine, found.between) = (least, format!("batches of {one} and of {other}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use akidb_domain::profile;
    use akidb_domain::vocabulary::ExecutionProvider;

    use super::*;
    use crate::engine::{EngineError, TokenBatch};

    /// Sum and length of each text, turned by an angle that follows from the batch: what kernels that depend on its shape would do.
    struct Turning<F>(F);

    impl<F: Fn(&TokenBatch) -> f32 + Send> Engine for Turning<F> {
        fn run(&mut self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
            let angle = (self.0)(batch);
            let row = |at: usize| {
                let of = |values: &[i64]| values[at * batch.tokens..(at + 1) * batch.tokens].iter().sum::<i64>() as f32;
                let (x, y) = (of(&batch.ids), of(&batch.mask));
                [x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()]
            };
            Ok((0..batch.rows).flat_map(row).collect())
        }

        fn dimension(&self) -> usize {
            2
        }

        fn provider(&self) -> ExecutionProvider {
            ExecutionProvider::Cpu
        }
    }

    /// 20 texts of 2 to 40 tokens.
    fn texts() -> Vec<Vec<u32>> {
        (1..=20).map(|it| (0..2 * it).map(|id| 7 * id % 13 + it).collect()).collect()
    }

    fn check(profiles: &str, angle: impl Fn(&TokenBatch) -> f32 + Send, between: &[&str]) {
        let found = measure(&mut Turning(angle), &texts(), &profile::parse(profiles).unwrap()).unwrap();
        assert_eq!((found.texts, found.cosine >= gate(Precision::Fp16)), (20, between.is_empty()), "{found:?}");
        assert!(between.iter().all(|it| found.between.contains(it)), "{found:?}");
    }

    const ONE: &str = "1x16:16x32:24x64";
    const TWO: &str = "1x16:1x16:4x16,1x16:16x32:24x64";

    #[test]
    fn tensorrt_provider_test_an_engine_that_looks_at_one_text_is_invariant() {
        check(ONE, |_| 0.0, &[]);
        check(TWO, |_| 0.3, &[]);
    }

    #[test]
    fn tensorrt_provider_test_vectors_that_follow_the_batch_are_found_and_the_batches_named() {
        check(ONE, |it| if it.rows == 24 { 0.02 } else { 0.0 }, &["24 texts"]);
        check(ONE, |it| if it.rows == 8 { 0.02 } else { 0.0 }, &["8 texts"]);
        check(ONE, |it| if it.tokens > 38 && it.rows > 1 { 0.02 } else { 0.0 }, &["texts of"]);
        // Two engines of one graph, each with its own rounding: the narrow one takes up to 4 x 16.
        check(TWO, |it| if it.rows <= 4 && it.tokens <= 16 { 0.02 } else { 0.0 }, &["1 texts"]);
        // As far apart as two float16 engines may be.
        check(TWO, |it| if it.rows <= 4 && it.tokens <= 16 { 0.0075 } else { 0.0 }, &[]);
    }

    #[test]
    fn tensorrt_provider_test_a_quantized_engine_may_turn_further_by_the_batch() {
        let check = |precision: Precision, angle: f32, kept: bool| {
            let mut engine = Turning(move |it: &TokenBatch| if it.rows == 24 { angle } else { 0.0 });
            let found = measure(&mut engine, &texts(), &profile::parse(ONE).unwrap()).unwrap();
            assert_eq!(found.cosine >= gate(precision), kept, "{precision} {found:?}");
        };
        check(Precision::Fp16, 0.0075, true);
        check(Precision::Fp16, 0.03, false); // 0.99955
        for precision in [Precision::Int8, Precision::Fp8] {
            check(precision, 0.112, true); // 0.9937
            check(precision, 0.2, false); // 0.98
        }
    }

    #[test]
    fn tensorrt_provider_test_batches_are_alone_small_as_tuned_for_and_full() {
        let check = |profiles: &str, expected: &[usize]| assert_eq!(sizes(&profile::parse(profiles).unwrap()), expected, "{profiles}");
        check("1x16:1x32:8x64,1x16:64x32:512x256", &[1, 8, 64, 512]);
        check("1x16:64x32:512x256", &[1, 8, 64, 512]);
        check("1x16:1x16:4x16", &[1, 4]);
    }

    #[test]
    fn tensorrt_provider_test_every_text_has_a_turn_in_both_orders() {
        for count in 1..6 {
            let texts: Vec<Vec<u32>> = (0..count).map(|it| vec![1; 9 - it]).collect();
            for (mut order, mates) in orders(&texts) {
                order.sort_unstable();
                assert_eq!(order, (0..count).collect::<Vec<_>>(), "{mates} {count}");
            }
        }
        let [(like, _), (mixed, _)] = orders(&[vec![1; 5], vec![1; 2], vec![1; 9], vec![1; 3]]);
        assert_eq!((like, mixed), (vec![1, 3, 0, 2], vec![1, 2, 3, 0]));
    }
}
