//! Lists in pages. Enters: `limit` and `after`. Leaves: bounds and the next cursor. Never: an unbounded list.

use serde::Deserialize;
use utoipa::IntoParams;

use super::error::ApiError;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;

/// Which part of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// At most so many items: 1 to 1,000, default 100.
    limit: Option<u32>,
    /// The `next` of the page before.
    after: Option<String>,
}

impl Page {
    pub(crate) fn new(limit: Option<u32>, after: Option<String>) -> Self {
        Self { limit, after }
    }

    /// Rows to ask for: one more than are shown, to know whether there are more.
    pub(crate) fn fetch(&self) -> Result<i64, ApiError> {
        Ok(self.limit()? as i64 + 1)
    }

    /// The cursor of a list in order of text.
    pub(crate) fn after(&self) -> &str {
        self.after.as_deref().unwrap_or_default()
    }

    /// The cursor of a list in order of numbers.
    pub(crate) fn after_number(&self) -> Result<i64, ApiError> {
        let bad = || ApiError::Malformed(format!("`after` is not the `next` of a page: `{}`", self.after()));
        if self.after().is_empty() { Ok(0) } else { self.after().parse().map_err(|_| bad()) }
    }

    /// Cuts the extra row off; the cursor is that of the last row left, when there are more.
    pub(crate) fn cut<T>(&self, rows: &mut Vec<T>, cursor: impl Fn(&T) -> String) -> Result<Option<String>, ApiError> {
        let limit = self.limit()?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(rows.last().filter(|_| more).map(cursor))
    }

    fn limit(&self) -> Result<usize, ApiError> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit as usize),
            other => Err(ApiError::Invalid(format!("`limit` {other} is not in 1..={MAX_LIMIT}"))),
        }
    }
}
