//! Reads keys one by one and keeps every complaint. Enters: a TOML table and the environment. Leaves: values, and a list of errors.
//! Never: a stop at the first error, an unknown key passed over.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::Figment;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

/// The environment, as given to [`super::Config::load`].
pub type Environment = BTreeMap<String, String>;

/// A table of the file together with the variables that override its keys.
#[derive(Debug)]
pub struct Section {
    path: String,
    values: Dict,
    known: Vec<&'static str>,
}

/// Complaints so far.
#[derive(Debug, Default)]
pub struct Errors(pub Vec<String>);

impl Errors {
    /// Adds one.
    pub fn add(&mut self, error: impl Into<String>) {
        self.0.push(error.into());
    }
}

/// A value that a key or a variable may have.
pub trait Setting: Sized {
    /// What would do, for the error.
    const EXPECTED: &'static str;
    /// From the file.
    fn from_file(value: &Value) -> Option<Self>;
    /// From a variable.
    fn from_text(text: &str) -> Option<Self>;
}

impl Section {
    /// The whole file; a file that is not TOML is one error.
    pub fn root(text: &str, errors: &mut Errors) -> Self {
        let values = Figment::from(Toml::string(text)).extract::<Dict>().unwrap_or_else(|error| {
            errors.add(format!("the file is not TOML: {error}"));
            Dict::new()
        });
        Self { path: String::new(), values, known: Vec::new() }
    }

    /// The table under `key`; empty when it is not there.
    #[must_use]
    pub fn table(&mut self, key: &'static str, errors: &mut Errors) -> Self {
        self.known.push(key);
        let path = self.path_of(key);
        let values = match self.values.remove(key) {
            None => Dict::new(),
            Some(Value::Dict(_, values)) => values,
            Some(_) => {
                errors.add(format!("`{path}` must be a table"));
                Dict::new()
            }
        };
        Self { path, values, known: Vec::new() }
    }

    /// The tables under `[[key]]`.
    pub fn tables(&mut self, key: &'static str, errors: &mut Errors) -> Vec<Self> {
        self.known.push(key);
        let path = self.path_of(key);
        let Some(value) = self.values.remove(key) else { return Vec::new() };
        let Value::Array(_, items) = value else {
            errors.add(format!("`{path}` must be an array of tables: write `[[{path}]]`"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            match item {
                Value::Dict(_, values) => sections.push(Self { path: format!("{path}[{i}]"), values, known: Vec::new() }),
                _ => errors.add(format!("`{path}[{i}]` must be a table")),
            }
        }
        sections
    }

    /// A key of the file alone.
    pub fn key<T: Setting>(&mut self, key: &'static str, errors: &mut Errors) -> Option<T> {
        self.known.push(key);
        let value = self.values.remove(key)?;
        let read = T::from_file(&value);
        if read.is_none() {
            errors.add(format!("`{}`: {} is not {}", self.path_of(key), show(&value), T::EXPECTED));
        }
        read
    }

    /// A key that a variable overrides; an empty variable counts as not set.
    pub fn setting<T: Setting>(&mut self, key: &'static str, variable: &str, env: &Environment, errors: &mut Errors) -> Option<T> {
        let from_file = self.key(key, errors);
        let Some(text) = env.get(variable).filter(|it| !it.is_empty()) else { return from_file };
        let read = T::from_text(text);
        if read.is_none() {
            errors.add(format!("variable `{variable}`: `{text}` is not {}", T::EXPECTED));
        }
        read
    }

    /// Complains about every key that nobody asked for.
    pub fn finish(self, errors: &mut Errors) {
        for key in self.values.keys() {
            errors.add(format!("unknown key `{}`: known here are {}", self.path_of(key), self.known.join(", ")));
        }
    }

    /// Full name of a key.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("`{text}`"),
        Value::Bool(_, it) => format!("`{it}`"),
        Value::Num(_, it) => it.to_f64().map_or_else(|| "a number".to_owned(), |it| format!("`{it}`")),
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "an array".to_owned(),
        _ => "this".to_owned(),
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a string";
    fn from_file(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn from_file(value: &Value) -> Option<Self> {
        value.as_str().filter(|it| !it.is_empty()).map(Into::into)
    }
    fn from_text(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_file(value: &Value) -> Option<Self> {
        value.to_bool()
    }
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number, 0 or more";
    fn from_file(value: &Value) -> Option<Self> {
        match value {
            Value::Num(_, number) => {
                number.to_u128().and_then(|it| Self::try_from(it).ok()).or_else(|| number.to_i128().and_then(|it| it.try_into().ok()))
            }
            _ => None,
        }
    }
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Setting for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_file(value: &Value) -> Option<Self> {
        match value {
            Value::Num(_, number) => {
                number.to_f64().or_else(|| number.to_u128().map(|it| it as Self)).or_else(|| number.to_i128().map(|it| it as Self))
            }
            _ => None,
        }
    }
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Words of an array, numbers included; or of one string, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl Words {
    /// Of text such as `0,1`; of an empty one, none.
    pub fn of(text: &str) -> Self {
        Self(text.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned).collect())
    }
}

impl Setting for Words {
    const EXPECTED: &'static str = "an array, or words separated by commas";
    fn from_file(value: &Value) -> Option<Self> {
        let word = |it: &Value| it.as_str().map(str::to_owned).or_else(|| u64::from_file(it).map(|it| it.to_string()));
        match value {
            Value::Array(_, items) => items.iter().map(word).collect::<Option<_>>().map(Self),
            value => word(value).map(|it| Self::of(&it)),
        }
    }
    fn from_text(text: &str) -> Option<Self> {
        // An empty variable counts as not set; `none` says that there are none.
        Some(if text == "none" { Self(Vec::new()) } else { Self::of(text) })
    }
}

/// Words and addresses are strings that parse.
macro_rules! parsed {
    ($($type:ty = $expected:literal),+ $(,)?) => {$(
        impl Setting for $type {
            const EXPECTED: &'static str = $expected;
            fn from_file(value: &Value) -> Option<Self> {
                value.as_str()?.parse().ok()
            }
            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )+};
}

parsed!(
    std::net::SocketAddr = "an address such as 127.0.0.1:8080",
    akidb_domain::vocabulary::Precision = "a precision: fp32, tf32, fp16, fp8 or int8",
    akidb_domain::vocabulary::ExecutionProvider = "an execution provider: tensorrt, cuda or cpu",
    super::LogFormat = "a log format: text or json",
);
