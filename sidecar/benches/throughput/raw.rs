//! The raw bound: the engine in this process, nothing beside it, texts sorted by length, under the best token budget that a sweep finds.
//!
//! Enters: token ids. Leaves: texts a second. Never: tokenization, HTTP or a queue.

use std::time::{Duration, Instant};

use akidb_sidecar::engine::{Engine, TokenBatch};

/// Most rows of a batch, as the sidecar's default.
const MAX_ROWS: usize = 64;
/// Budgets that the sweep tries, in tokens.
const BUDGETS: [usize; 7] = [64, 128, 192, 256, 512, 1_024, 2_048];

pub(crate) struct Raw {
    pub(crate) engine: Box<dyn Engine>,
}

impl Raw {
    /// The two budgets with most texts a second; each is run three times, in turns, and its best counts.
    pub(crate) fn sweep(&mut self, ids: &[Vec<u32>]) -> [usize; 2] {
        let mut best = [Duration::MAX; BUDGETS.len()];
        for _ in 0..3 {
            for (budget, best) in BUDGETS.iter().zip(&mut best) {
                *best = self.pass(&batches(ids, *budget, MAX_ROWS)).min(*best);
            }
        }
        let rates: Vec<String> = BUDGETS.iter().zip(best).map(|(budget, it)| format!("{budget}: {:.0}", rate(ids.len(), it))).collect();
        println!("  raw texts/s by token budget: {}", rates.join(", "));
        let mut order: Vec<usize> = (0..BUDGETS.len()).collect();
        order.sort_by_key(|i| best[*i]);
        [BUDGETS[order[0]], BUDGETS[order[1]]]
    }

    /// Time of a pass over batches.
    pub(crate) fn pass(&mut self, batches: &[TokenBatch]) -> Duration {
        let from = Instant::now();
        for batch in batches {
            self.engine.run(batch).expect("vectors");
        }
        from.elapsed()
    }
}

pub(crate) fn rate(texts: usize, took: Duration) -> f64 {
    texts as f64 / took.as_secs_f64()
}

/// Batches of texts sorted by length.
pub(crate) fn batches(ids: &[Vec<u32>], budget: usize, max_rows: usize) -> Vec<TokenBatch> {
    let mut sorted: Vec<&Vec<u32>> = ids.iter().collect();
    sorted.sort_by_key(|it| it.len());
    let mut groups: Vec<Vec<&Vec<u32>>> = Vec::new();
    for text in sorted {
        match groups.last_mut() {
            Some(group) if group.len() < max_rows && (group.len() + 1) * text.len() <= budget => group.push(text),
            _ => groups.push(vec![text]),
        }
    }
    groups.iter().map(|it| rectangle(it)).collect()
}

fn rectangle(texts: &[&Vec<u32>]) -> TokenBatch {
    let tokens = texts.iter().map(|it| it.len()).max().unwrap_or(0);
    let mut batch = TokenBatch { rows: texts.len(), tokens, ..TokenBatch::default() };
    for text in texts {
        let padding = tokens - text.len();
        batch.ids.extend(text.iter().map(|it| i64::from(*it)).chain(std::iter::repeat_n(0, padding)));
        batch.mask.extend(std::iter::repeat_n(1, text.len()).chain(std::iter::repeat_n(0, padding)));
    }
    batch
}
