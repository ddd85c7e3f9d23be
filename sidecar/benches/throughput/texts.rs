//! Texts of known lengths, the same in every run.
//!
//! Enters: how many, which mix. Leaves: texts. Never: chance; a mix is drawn by a fixed generator.

/// Everyday words, about one token each.
const WORDS: [&str; 40] = [
    "museum", "opens", "the", "of", "river", "station", "window", "garden", "quiet", "morning", "letter", "answer", "market", "and",
    "green", "under", "bridge", "train", "winter", "story", "music", "doctor", "island", "with", "paper", "north", "people", "small",
    "house", "road", "carry", "water", "school", "between", "summer", "city", "long", "light", "bread", "before",
];

/// Lengths in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// 70 % 6-20 words, 20 % 40-80, 10 % 120-180.
    Mixed,
    /// So many each.
    Uniform(u64),
}

/// `count` texts, in no order of length.
pub(crate) fn texts(mix: Mix, count: usize) -> Vec<String> {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let text = |i: usize| {
        let words = match (mix, i % 10) {
            (Mix::Uniform(words), _) => words,
            (Mix::Mixed, 0..=6) => 6 + dice.below(15),
            (Mix::Mixed, 7 | 8) => 40 + dice.below(41),
            (Mix::Mixed, _) => 120 + dice.below(61),
        };
        let words: Vec<&str> = (0..words).map(|_| WORDS[dice.below(WORDS.len() as u64) as usize]).collect();
        words.join(" ")
    };
    (0..count).map(text).collect()
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
