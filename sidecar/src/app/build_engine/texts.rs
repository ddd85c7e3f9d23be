//! Held-out texts, in the forms that `scripts/make_corpus.py` writes.
//!
//! Enters: a file of one text a line, of a JSON list of strings (or of objects with `text`), or of an object with such a list under `texts`.
//! Leaves: its first different texts. Never: fewer than [`LEAST`], which would prove little.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Fewest texts.
pub(super) const LEAST: usize = 32;

/// Texts of a file.
#[derive(Debug)]
#[cfg_attr(not(any(feature = "tensorrt", test)), expect(dead_code, reason = "a build without GPU providers only sees that they are there"))]
pub(super) struct Texts {
    /// SHA-256 of the file.
    pub(super) digest: String,
    /// Each once, in the file's order.
    pub(super) texts: Vec<String>,
}

impl Texts {
    /// The first `most` different texts of a file.
    pub(super) fn read(file: &Path, most: usize) -> Result<Self> {
        let at = file.display();
        let bytes = std::fs::read(file).with_context(|| format!("`--test-dataset` {at} cannot be read"))?;
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{at} is not UTF-8 text"))?;
        let content = text.trim_start_matches('\u{feff}');
        if content.contains('\0') {
            bail!("{at} holds NUL bytes: it is not a text file");
        }
        let all = if file.extension().is_some_and(|it| it == "json") || content.trim_start().starts_with(['[', '{']) {
            let document = serde_json::from_str(content).with_context(|| format!("{at} is not JSON"))?;
            listed(&document).with_context(|| at.to_string())?
        } else {
            content.lines().map(|it| it.trim().to_owned()).collect()
        };
        let mut seen = HashSet::new();
        let mut texts: Vec<String> = all.into_iter().filter(|it| !it.trim().is_empty() && seen.insert(it.clone())).collect();
        if texts.len() < LEAST {
            bail!("{at} holds {} different texts; at least {LEAST} are needed (`make_corpus.py` writes 10,000)", texts.len());
        }
        texts.truncate(most);
        Ok(Self { digest: hex::encode(Sha256::digest(&bytes)), texts })
    }
}

fn listed(document: &Value) -> Result<Vec<String>> {
    let list = document.get("texts").unwrap_or(document).as_array().context("expected a list of texts, or an object with `texts`")?;
    let text = |it: &Value| it.get("text").unwrap_or(it).as_str().map(str::to_owned);
    list.iter().map(text).collect::<Option<_>>().context("every item must be a string, or an object with a string `text`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, content: &str, expected: Result<(usize, &str), &str>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        match (Texts::read(&file, 40), expected) {
            (Ok(got), Ok((count, first))) => {
                assert_eq!((got.texts.len(), got.texts[0].as_str()), (count, first), "{name}");
                assert_eq!(got.digest, hex::encode(Sha256::digest(content)));
            }
            (Err(got), Err(part)) => assert!(format!("{got:#}").contains(part), "{got:#}"),
            (got, expected) => panic!("{name}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn every_form_of_the_corpus_is_read_and_others_are_named() {
        let words = |n: usize| (0..n).map(|it| format!("text {it}")).collect::<Vec<_>>();
        let json = |value: Value| value.to_string();
        check("t.txt", &words(50).join("\n"), Ok((40, "text 0")));
        check("t.txt", &format!("  text 0 \n\n{}", words(35).join("\r\n")), Ok((35, "text 0")));
        check("t.json", &json(serde_json::json!({"texts": words(33), "pairs": [{"a": "x", "b": "y", "score": 1}]})), Ok((33, "text 0")));
        check("t.json", &json(words(32).into()), Ok((32, "text 0")));
        let objects: Vec<Value> = words(32).into_iter().map(|it| serde_json::json!({"text": it})).collect();
        check("t", &json(objects.into()), Ok((32, "text 0")));
        check("t.txt", &words(31).join("\n"), Err("holds 31 different texts; at least 32 are needed"));
        check("t.txt", &"same\n".repeat(99), Err("holds 1 different texts"));
        check("t.json", "{", Err("is not JSON"));
        check("t.json", "{\"lines\": []}", Err("expected a list of texts"));
        check("t.json", "[1]", Err("every item must be a string"));
        check("t.txt", "a\0b", Err("holds NUL bytes"));
    }
}
