//! `[embedding.models]`. Enters: a table. Leaves: checked entries. Never: a look at the files that they name.

use std::time::Duration;

use akidb_domain::vocabulary::{ModelRef, Precision, canonical_model, is_name};
use akidb_store::ObjectUri;

use super::Source;
use super::reader::Section;
use super::reference::{self, DefaultModel};

/// A limit of memory may be, in bytes.
const LIMIT: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;

/// `[embedding.models]`: what to serve without a control plane, or beside it.
#[derive(Debug, Clone, Default)]
pub struct Models {
    /// `default`, `AKIDB_EMBEDDING_MODEL`: a model's name, `name@variant`, or the file name of an entry's artifact.
    pub default: Option<DefaultModel>,
    /// `memory_limit_bytes`, `AKIDB_MEMORY_LIMIT_BYTES`: most memory that loaded engines take together; default half of what the container
    /// (cgroup) may use, or of the machine.
    pub memory_limit_bytes: Option<u64>,
    /// `gpu_memory_limit_bytes`, `AKIDB_GPU_MEMORY_LIMIT_BYTES`: most memory that they take together on a GPU; default three quarters of the
    /// smallest of `runtime.device_ids`.
    pub gpu_memory_limit_bytes: Option<u64>,
    /// `load_timeout_ms`, `AKIDB_LOAD_TIMEOUT_MS`: longest that an engine may take from its files to its proof; default 120,000.
    pub load_timeout: Duration,
    /// `[[available]]`
    pub available: Vec<Entry>,
}

/// `[[embedding.models.available]]`: one artifact.
#[derive(Debug, Clone)]
pub struct Entry {
    /// `name`: the model.
    pub name: String,
    /// `path`: a bundle's folder, or a file of one; `s3://`, `file://` or a path.
    pub path: ObjectUri,
    /// `dimension`: must be the bundle's.
    pub dimension: Option<u32>,
    /// `precision`: must be the bundle's.
    pub precision: Option<Precision>,
    /// `variant`: its name here; default the bundle's.
    pub variant: Option<String>,
    /// `fallback`: when it does not fit this machine, the best portable variant of the model stands in; default false: refused.
    pub fallback: bool,
    /// `pinned`: loaded at start and never evicted; default false.
    pub pinned: bool,
    /// `tokenizer`: where the tokenizer file is, when it is not in the bundle; its digest must be the bundle's.
    pub tokenizer: Option<ObjectUri>,
}

impl Entry {
    /// The form in which its model is compared.
    pub fn model(&self) -> String {
        canonical_model(&self.name)
    }
}

pub(crate) fn read(embedding: &mut Section, source: &mut Source<'_>) -> Models {
    let mut table = embedding.table("models", source.errors);
    let from_file: Option<String> = table.key("default", source.errors);
    let memory_limit_bytes = source.optional(&mut table, ("memory_limit_bytes", "AKIDB_MEMORY_LIMIT_BYTES"), LIMIT);
    let gpu_memory_limit_bytes = source.optional(&mut table, ("gpu_memory_limit_bytes", "AKIDB_GPU_MEMORY_LIMIT_BYTES"), LIMIT);
    let load_timeout = source.number(&mut table, ("load_timeout_ms", "AKIDB_LOAD_TIMEOUT_MS"), 120_000, 100..=3_600_000);
    let available: Vec<Entry> = table.tables("available", source.errors).into_iter().filter_map(|it| entry(it, source)).collect();
    table.finish(source.errors);
    let default = reference::choose(from_file.as_deref(), source, &available);
    Models { default, memory_limit_bytes, gpu_memory_limit_bytes, load_timeout: Duration::from_millis(load_timeout), available }
}

fn entry(mut it: Section, source: &mut Source<'_>) -> Option<Entry> {
    let complaints = source.errors.0.len();
    let name: Option<String> = it.key("name", source.errors);
    let path: Option<String> = it.key("path", source.errors);
    let dimension: Option<u64> = it.key("dimension", source.errors);
    let precision = it.key("precision", source.errors);
    let variant: Option<String> = it.key("variant", source.errors);
    let fallback = it.key("fallback", source.errors).unwrap_or(false);
    let pinned = it.key("pinned", source.errors).unwrap_or(false);
    let tokenizer: Option<String> = it.key("tokenizer", source.errors);
    for (key, missing) in [("name", name.is_none()), ("path", path.is_none())] {
        if missing && complaints == source.errors.0.len() {
            source.errors.add(format!("`{}` is missing", it.path_of(key)));
        }
    }
    for (key, value) in [("name", &name), ("variant", &variant)] {
        if let Some(bad) = value.as_ref().filter(|value| !is_name(value)) {
            source.errors.add(format!("`{}`: `{bad}` is not 1-128 of A-Za-z0-9._-", it.path_of(key)));
        }
    }
    if let Some(bad) = dimension.filter(|value| !(1..=65_536).contains(value)) {
        source.errors.add(format!("`{}`: {bad} is not in 1..=65536", it.path_of("dimension")));
    }
    let path = path.and_then(|value| object(&value, &it.path_of("path"), source));
    let tokenizer = tokenizer.and_then(|value| object(&value, &it.path_of("tokenizer"), source));
    it.finish(source.errors);
    Some(Entry { name: name?, path: path?, dimension: dimension.map(|it| it as u32), precision, variant, fallback, pinned, tokenizer })
}

/// A URI, or a path relative to the configuration's folder.
fn object(text: &str, key: &str, source: &mut Source<'_>) -> Option<ObjectUri> {
    if !text.is_empty() && !text.contains("://") {
        return Some(ObjectUri::File(source.folder.join(text)));
    }
    text.parse().map_err(|error| source.errors.add(format!("`{key}`: {error}, or a path"))).ok()
}

/// Whether `text` could be a model reference.
pub(crate) fn as_reference(text: &str) -> Option<ModelRef> {
    text.parse().ok()
}
