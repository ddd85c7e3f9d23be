//! Variants for tests of whoever reads the table. No engine runs; the tokenizer is the real one.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, OnceLock};

use akidb_domain::vocabulary::{ExecutionProvider, Pooling, Precision};

use super::{Loaded, Variant, VariantState};
use crate::batcher::Batcher;
use crate::tokenizer::{Tokenizer, TokenizerPool};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let pool = TokenizerPool::start(1).unwrap();
    Tokenizer::load(&akidb_testkit::bundle().join("tokenizer.json"), 256, &pool).unwrap()
});

/// A ready variant of version 1 of a model `m`.
pub(crate) fn variant(name: &str) -> Variant {
    let loaded = Loaded {
        model: "m".into(),
        version: "1".into(),
        variant: name.into(),
        precision: Precision::Fp32,
        digest: format!("digest of {name}"),
        provider: ExecutionProvider::Cpu,
        fallback: false,
        dimension: 384,
        max_tokens: 256,
        pooling: Pooling::Mean,
        normalized: true,
        embedding_space: "m".into(),
        prompts: BTreeMap::new(),
        tokenizer: TOKENIZER.clone(),
        engine: Batcher::engine_of_test(if name == "base" { 1 } else { 2 }),
        loaded_at_ns: 1,
        residence: Arc::default(),
        lane: OnceLock::new(),
    };
    let (precision, digest) = (Precision::Fp32, loaded.digest.clone());
    let (version, name, reason) = ("1".into(), name.into(), String::new());
    Variant { version, name, precision, digest, state: VariantState::Ready, reason, lent: false, loaded: Some(Arc::new(loaded)) }
}
