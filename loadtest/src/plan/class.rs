//! A class of requests: how it differs from the run's own options.
//!
//! Enters: `short:clients=1,words=18`. Leaves: a name and what it overrides. Never: a key that is passed over.

use std::str::FromStr;

use super::{BadPlan, Stream};
use crate::texts::Mix;

/// A named class.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// In the report.
    pub name: String,
    /// How it differs.
    pub overrides: Overrides,
}

/// What a class, or one side of a comparison, says of its own.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is the option of that name")]
pub struct Overrides {
    pub clients: Option<usize>,
    pub rate: Option<f64>,
    pub words: Option<u32>,
    pub mix: Option<Mix>,
    pub batch: Option<u32>,
    pub app: Option<String>,
    pub model: Option<String>,
}

impl Overrides {
    /// The run's options with these in place.
    pub fn apply(&self, stream: &Stream) -> Stream {
        let mut out = stream.clone();
        let own = self.clone();
        out.clients = own.clients.unwrap_or(out.clients);
        out.rate = own.rate.or(out.rate);
        out.batch = own.batch.unwrap_or(out.batch);
        out.app = own.app.or(out.app);
        out.model = own.model.or(out.model);
        if let Some(words) = own.words {
            (out.words, out.mix) = (words, None);
        }
        out.mix = own.mix.or(out.mix);
        out
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), BadPlan> {
        fn read<T: FromStr>(key: &str, value: &str) -> Result<Option<T>, BadPlan> {
            value.parse().map(Some).map_err(|_| BadPlan(format!("`{key}={value}`: that is not a value of `{key}`")))
        }
        match key {
            "clients" => self.clients = read(key, value)?,
            "rate" => self.rate = read(key, value)?,
            "words" => self.words = read(key, value)?,
            "mix" => self.mix = read(key, value)?,
            "batch" => self.batch = read(key, value)?,
            "app" => self.app = read(key, value)?,
            "model" => self.model = read(key, value)?,
            _ => return Err(BadPlan(format!("`{key}` is not one of clients, rate, words, mix, batch, app, model"))),
        }
        if self.words.is_some() && self.mix.is_some() {
            return Err(BadPlan("`words` and `mix` exclude each other".into()));
        }
        Ok(())
    }
}

impl FromStr for Overrides {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<Self, BadPlan> {
        // A mix has commas of its own: a part without `=` belongs to the value before it.
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split(',') {
            match (part.split_once('='), pairs.last_mut()) {
                (Some((key, value)), _) => pairs.push((key.trim().to_owned(), value.trim().to_owned())),
                (None, Some((_, value))) => value.extend([",", part]),
                (None, None) => return Err(BadPlan(format!("`{part}` is not `key=value`"))),
            }
        }
        let mut out = Self::default();
        for (key, value) in &pairs {
            out.set(key, value)?;
        }
        Ok(out)
    }
}

impl FromStr for Class {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<Self, BadPlan> {
        let bad = |why: String| BadPlan(format!("`{text}` is not a class: {why}; write e.g. `short:clients=1,words=18`"));
        let (name, rest) = text.split_once(':').ok_or_else(|| bad("it has no `:` after its name".into()))?;
        if name.is_empty() || name.contains(['=', ',']) {
            return Err(bad("it has no name".into()));
        }
        let overrides = rest.parse().map_err(|it: BadPlan| bad(it.0))?;
        Ok(Self { name: name.to_owned(), overrides })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_says_what_differs() {
        let class: Class = "bulk:rate=500,mix=6-20:70,40-80:20,app=bulk".parse().unwrap();
        assert_eq!((class.name.as_str(), class.overrides.rate, class.overrides.app.as_deref()), ("bulk", Some(500.0), Some("bulk")));
        assert_eq!(class.overrides.mix.unwrap().to_string(), "6-20:70,40-80:20");
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Class>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("short", "no `:`");
        check(":clients=1", "no name");
        check("clients=1,mix=6-20:70", "no name");
        check("a:client=1", "`client` is not one of");
        check("a:clients=x", "`clients=x`");
        check("a:words=1,mix=6-20:1", "exclude");
        check("a:1", "is not `key=value`");
    }
}
