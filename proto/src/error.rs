//! What can be wrong with a message. Enters: the field and the value. Leaves: one sentence. Never: the whole message.

/// A message that cannot become a domain value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field's value is out of its range or vocabulary.
    #[error("field `{field}`: {problem}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// The value and what would do.
        problem: String,
    },
}

impl WireError {
    pub(crate) fn invalid(field: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Invalid { field, problem: problem.to_string() }
    }
}

pub(crate) fn word<T: std::str::FromStr<Err = akidb_domain::vocabulary::UnknownWord>>(
    field: &'static str,
    value: &str,
) -> Result<T, WireError> {
    value.parse().map_err(|e| WireError::invalid(field, e))
}
