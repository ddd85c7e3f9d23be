//! What an answer says of itself beside its body: which variant served it, and where its time went.
//!
//! Enters: an answer. Leaves: headers. Never: a header that a client could have written.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};

use super::pipeline::Answer;

/// `x-akidb-variant` and `server-timing`.
pub(super) fn of(answer: &Answer) -> HeaderMap {
    let headers = [("server-timing", timing(answer)), ("x-akidb-variant", answer.loaded.variant.clone())];
    let pair = |(name, value)| Some((axum::http::HeaderName::from_static(name), HeaderValue::try_from(value).ok()?));
    headers.into_iter().filter_map(pair).collect()
}

/// `server-timing`, in ms.
fn timing(answer: &Answer) -> String {
    let ms = |it: Duration| it.as_secs_f64() * 1e3;
    format!("tokenize;dur={:.3}, queue;dur={:.3}, infer;dur={:.3}", ms(answer.tokenize), ms(answer.queue), ms(answer.engine))
}
