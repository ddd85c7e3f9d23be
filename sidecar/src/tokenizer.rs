//! Text to token ids, on a bounded pool of threads.
//!
//! Enters: texts. Leaves: ids with special tokens, cut at the model's limit, never padded. Never: the padding or truncation that a
//! `tokenizer.json` asks for; a panic that takes a thread along.

mod plain;
pub mod pool;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

use plain::Plain;
pub use pool::TokenizerPool;

/// A model's tokenizer; cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    pool: TokenizerPool,
}

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    /// For plain texts, where there is a shorter way for them.
    plain: Option<Plain>,
    max_tokens: usize,
}

/// A text as the engine takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// The text was longer than the model's limit.
    pub truncated: bool,
}

/// Why a tokenizer cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Not a `tokenizers` file.
    #[error("the tokenizer cannot be loaded: {0}")]
    Load(String),
    /// The operating system refuses threads.
    #[error("tokenizer threads cannot be started: {0}")]
    Threads(#[from] std::io::Error),
}

/// Why a text cannot be tokenized.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizeError {
    /// A text over the limit, and the caller does not want it cut.
    #[error("text {index} has more than the model's {limit} tokens and `truncate` is false")]
    TooLong {
        /// Its place in the request.
        index: usize,
        /// The model's limit.
        limit: usize,
    },
    /// The tokenizer gave up or panicked.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Its own padding and truncation are replaced: none, and `max_tokens`.
    pub fn load(path: &Path, max_tokens: u32, pool: &TokenizerPool) -> Result<Self, TokenizerError> {
        let fail = |it: tokenizers::Error| TokenizerError::Load(format!("{}: {it}", path.display()));
        let truncation = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: max_tokens as usize,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        // A limit below the number of special tokens panics in there.
        let tokenizer = pool::caught(|| {
            let mut tokenizer = tokenizers::Tokenizer::from_file(path)?;
            tokenizer.with_padding(None).with_truncation(Some(truncation))?;
            Ok(tokenizer)
        });
        let tokenizer = tokenizer.map_err(TokenizerError::Load)?.map_err(fail)?;
        let inner = Inner { plain: Plain::of(&tokenizer, max_tokens as usize), tokenizer, max_tokens: max_tokens as usize };
        Ok(Self { inner: Arc::new(inner), pool: pool.clone() })
    }

    /// Token ids of texts, in their order.
    pub async fn encode(&self, texts: Vec<String>, truncate: bool) -> Result<Vec<Encoded>, TokenizeError> {
        // Handing a short text to another thread costs more than tokenizing it.
        if texts.iter().map(String::len).sum::<usize>() <= INLINE_BYTES {
            return pool::caught(|| self.inner.encode(&texts, truncate)).map_err(TokenizeError::Failed)?;
        }
        let inner = self.inner.clone();
        self.pool.run(move || inner.encode(&texts, truncate)).await.map_err(TokenizeError::Failed)?
    }

    /// Number of ids; an id from here on is outside the vocabulary.
    pub fn vocabulary(&self) -> u32 {
        self.inner.tokenizer.get_vocab_size(true) as u32
    }

    /// The model's limit.
    pub fn max_tokens(&self) -> usize {
        self.inner.max_tokens
    }
}

/// Texts up to this many bytes in all are tokenized by the caller.
const INLINE_BYTES: usize = 512;

impl Inner {
    fn encode(&self, texts: &[String], truncate: bool) -> Result<Vec<Encoded>, TokenizeError> {
        let one = |(index, text): (usize, &String)| {
            let short = self.plain.as_ref().and_then(|it| it.encode(text)).map(Ok);
            let encoded = short.unwrap_or_else(|| self.encode_whole(text))?;
            let too_long = encoded.truncated && !truncate;
            if too_long { Err(TokenizeError::TooLong { index, limit: self.max_tokens }) } else { Ok(encoded) }
        };
        texts.iter().enumerate().map(one).collect()
    }

    fn encode_whole(&self, text: &str) -> Result<Encoded, TokenizeError> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|it| TokenizeError::Failed(it.to_string()))?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), truncated: !encoding.get_overflowing().is_empty() })
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("max_tokens", &self.inner.max_tokens).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(max_tokens: u32) -> Result<Tokenizer, TokenizerError> {
        let pool = TokenizerPool::start(1).unwrap();
        Tokenizer::load(&akidb_testkit::bundle().join("tokenizer.json"), max_tokens, &pool)
    }

    #[tokio::test]
    async fn texts_are_neither_padded_nor_cut_at_the_files_limit() {
        let tokenizer = tokenizer(200).unwrap();
        let got = tokenizer.encode(vec!["hello".into(), "word ".repeat(150), "word ".repeat(1_000)], true).await.unwrap();
        let found: Vec<_> = got.iter().map(|it| (it.ids.len(), it.truncated)).collect();
        assert_eq!(found, [(3, false), (152, false), (200, true)]);
        assert_eq!(got[0].ids, [101, 7592, 102]);
    }

    #[tokio::test]
    async fn a_text_over_the_limit_is_named() {
        let tokenizer = tokenizer(16).unwrap();
        let got = tokenizer.encode(vec!["short".into(), "word ".repeat(15)], false).await;
        assert_eq!(got, Err(TokenizeError::TooLong { index: 1, limit: 16 }));
    }

    #[test]
    fn a_limit_below_the_special_tokens_is_an_error() {
        assert!(matches!(tokenizer(1), Err(TokenizerError::Load(_))));
    }
}
