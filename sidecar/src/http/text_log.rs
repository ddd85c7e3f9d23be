//! The opt-in `embed_request` event: some texts in the log, as calibration data.
//!
//! Enters: texts that were embedded. Leaves: a bounded number of bounded log lines. Never: a text nobody asked to have logged; off costs
//! nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::question::Input;
use crate::config::TextSample;

/// The handle; cheap to clone. The default logs nothing.
#[derive(Debug, Clone, Default)]
pub struct TextLog {
    on: Option<(TextSample, Arc<Mutex<Budget>>)>,
}

impl TextLog {
    /// Logs as configured; nothing if the share is 0.
    pub fn new(config: TextSample) -> Self {
        let on = config.share > 0.0 && config.per_second > 0;
        Self { on: on.then(|| (config, Arc::new(Mutex::new(Budget::full(config.per_second, Instant::now()))))) }
    }

    /// Logs a sample of what was embedded; token ids are no text.
    pub(super) fn offer(&self, model: &str, input: &Input) {
        let (Some((config, budget)), Input::Texts(texts)) = (&self.on, input) else { return };
        for text in texts {
            if rand::random::<f64>() < config.share && budget.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
                tracing::info!(model, text = cut(text, config.max_bytes), "embed_request");
            }
        }
    }
}

/// So many lines a second, a second's worth at once.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    fn full(per_second: u32, at: Instant) -> Self {
        Self { per_second: f64::from(per_second), left: f64::from(per_second), at }
    }

    fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + earned).min(self.per_second);
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// The text's first bytes, whole characters only.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_are_bounded_in_size() {
        assert_eq!((cut("hello", 3), cut("hello", 9), cut("aé", 2), cut("é", 1)), ("hel", "hello", "a", ""));
    }

    #[test]
    fn lines_are_bounded_in_rate() {
        let start = Instant::now();
        let mut budget = Budget::full(2, start);
        let mut taken = |after_ms| (0..5).filter(|_| budget.take(start + Duration::from_millis(after_ms))).count();
        assert_eq!([taken(0), taken(400), taken(500), taken(60_000)], [2, 0, 1, 2]);
    }
}
