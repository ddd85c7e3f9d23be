//! Which model a request without `model` gets. Enters: `[embedding.models] default` and `AKIDB_EMBEDDING_MODEL`. Leaves: a model, and a
//! variant where one was named. Never: a guess; what nobody has is an error that lists what there is.

use super::Source;
use super::models::{Entry, as_reference};

/// The default model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultModel {
    /// As it was written.
    pub written: String,
    /// Canonical name.
    pub model: String,
    /// Variant or alias, in lower case, where one was named.
    pub selector: Option<String>,
    /// The entry whose artifact was named.
    pub entry: Option<usize>,
}

/// The variable beats the file; without either, the first entry's model.
pub(crate) fn choose(from_file: Option<&str>, source: &mut Source<'_>, available: &[Entry]) -> Option<DefaultModel> {
    let variable = source.env.get("AKIDB_EMBEDDING_MODEL").filter(|it| !it.is_empty());
    let (key, written) = match (variable, from_file) {
        (Some(written), _) => ("variable `AKIDB_EMBEDDING_MODEL`", written.as_str()),
        (None, Some(written)) => ("`embedding.models.default`", written),
        (None, None) => {
            let written = available.first()?.name.clone();
            return Some(DefaultModel { model: available.first()?.model(), written, selector: None, entry: None });
        }
    };
    if let Some(index) = available.iter().position(|it| it.path.name().eq_ignore_ascii_case(written)) {
        return Some(DefaultModel { written: written.into(), model: available[index].model(), selector: None, entry: Some(index) });
    }
    let names: Vec<&str> = available.iter().map(|it| it.name.as_str()).collect();
    let files: Vec<&str> = available.iter().map(|it| it.path.name()).collect();
    let Some(reference) = as_reference(written) else {
        source.errors.add(format!("{key}: `{written}` is not a model, `name@variant` or artifact file name"));
        return None;
    };
    // A catalog may have what the entries have not.
    if !available.is_empty() && !available.iter().any(|it| it.model() == reference.model) {
        source.errors.add(format!("{key}: `{written}` is none of the models {} or artifacts {}", names.join(", "), files.join(", ")));
        return None;
    }
    Some(DefaultModel { written: written.into(), model: reference.model, selector: reference.selector, entry: None })
}
