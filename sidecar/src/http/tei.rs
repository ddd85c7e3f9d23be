//! The shape of Text Embeddings Inference (TEI): a TEI client works with its address changed.
//!
//! Enters: TEI's requests. Leaves: TEI's answers and errors; always of the default model, since TEI serves one. Never: a decision; the
//! pipeline makes them.

mod embed;
mod error;
mod info;

pub(super) use embed::{__path_embed, __path_embed_at_root, embed, embed_at_root};
pub(super) use error::TeiError;
pub(super) use info::{__path_health, __path_info, health, info};
