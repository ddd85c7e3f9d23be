//! From what was typed to a bundle.
//!
//! Enters: a path, or a name under `build/bundles`. Leaves: a [`Found`], or a [`Missing`] that says where it looked. Never: one of several
//! equally good places without a rule; a path as given comes first, then names.

use std::fmt;
use std::path::{Path, PathBuf};

use akidb_domain::bundle::Manifest;
use akidb_domain::vocabulary::canonical_model;

/// Where bundles are built.
pub(crate) const BUNDLES: &str = "build/bundles";

/// A bundle that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) manifest: Manifest,
    /// Its files are relative to it.
    pub(crate) folder: PathBuf,
}

/// Nothing was found.
#[derive(Debug)]
pub(crate) struct Missing {
    asked: String,
    tried: Vec<PathBuf>,
    root: PathBuf,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tried: Vec<String> = self.tried.iter().map(|it| it.strip_prefix(&self.root).unwrap_or(it).display().to_string()).collect();
        write!(f, "`{}` is not there (tried {}, from {})", self.asked, tried.join(", "), self.root.display())
    }
}

/// Why there is no bundle.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Nothing there.
    Missing(Missing),
    /// Something there that cannot be used.
    Bad(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(it) => it.fmt(f),
            Self::Bad(it) => f.write_str(it),
        }
    }
}

/// The bundle that `asked` means: a bundle's folder, a file of one, or a name under `build/bundles` (its folder's, in any letter case, with or
/// without `-<precision>` and a file's extension). Relative paths are tried from here and from `root`.
pub(crate) fn find(asked: &str, precision: &str, root: &Path) -> Result<Found, Problem> {
    let asked_path = Path::new(asked);
    let mut tried: Vec<PathBuf> = Vec::new();
    let here = std::env::current_dir().unwrap_or_default();
    for base in [&here, root] {
        let path = base.join(asked_path);
        if !tried.contains(&path) {
            if let Some(found) = at(&path)? {
                return Ok(found);
            }
            tried.push(path);
        }
    }
    if asked_path.components().count() == 1 {
        let bundles = root.join(BUNDLES);
        for name in names(asked, precision) {
            if let Some(found) = named(&bundles, &name)? {
                return Ok(found);
            }
            tried.push(bundles.join(name));
        }
    }
    Err(Problem::Missing(Missing { asked: asked.to_owned(), tried, root: root.to_owned() }))
}

/// The bundle of a model in a precision: `<bundles>/<model>-<precision>`, in any letter case, short names written out.
pub(crate) fn variant(bundles: &Path, model: &str, precision: &str) -> Result<Option<Found>, String> {
    match named(bundles, &format!("{}-{precision}", canonical_model(model))) {
        Err(Problem::Missing(_)) => Ok(None),
        found => found.map_err(|it| it.to_string()),
    }
}

/// `all-MiniLM-L6-v2.onnx` may be the folder `all-MiniLM-L6-v2-fp32`.
fn names(asked: &str, precision: &str) -> Vec<String> {
    let mut names = vec![asked.to_owned()];
    let stem = match asked.rsplit_once('.') {
        Some((stem, extension)) if is_engine(extension) => stem,
        _ => asked,
    };
    for name in [stem.to_owned(), format!("{}-{precision}", canonical_model(stem))] {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Extensions of engine files.
pub(crate) fn is_engine(extension: &str) -> bool {
    ["onnx", "trt", "engine", "plan"].iter().any(|it| extension.eq_ignore_ascii_case(it))
}

/// The bundle in a folder's child of that name, in any letter case.
fn named(folder: &Path, name: &str) -> Result<Option<Found>, Problem> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let mut alike: Vec<PathBuf> =
        entries.flatten().filter(|it| it.file_name().to_string_lossy().eq_ignore_ascii_case(name)).map(|it| it.path()).collect();
    alike.sort();
    alike.first().map_or(Ok(None), |it| at(it))
}

/// The bundle that is exactly there: a folder with a manifest, or a file with one beside it that lists it.
fn at(path: &Path) -> Result<Option<Found>, Problem> {
    if path.is_dir() {
        let manifest = path.join("manifest.json");
        return if manifest.is_file() { read(&manifest).map(Some) } else { Ok(None) };
    }
    if !path.is_file() {
        return Ok(None);
    }
    let (folder, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default().to_string_lossy());
    let stem = name.rsplit_once('.').map_or(&*name, |it| it.0);
    let beside = [folder.join(format!("{stem}.manifest.json")), folder.join("manifest.json")];
    let Some(manifest) = beside.iter().find(|it| it.is_file()) else {
        let message = format!("{} has no {stem}.manifest.json beside it: name a bundle that scripts/ wrote", path.display());
        return Err(Problem::Bad(message));
    };
    let found = read(manifest)?;
    if name != "manifest.json" && !name.ends_with(".manifest.json") && !found.manifest.files.iter().any(|it| it.path == name) {
        return Err(Problem::Bad(format!("{} does not list the file `{name}`", manifest.display())));
    }
    Ok(Some(found))
}

fn read(manifest: &Path) -> Result<Found, Problem> {
    let bad = |cause: String| Problem::Bad(format!("{}: {cause}", manifest.display()));
    let json = std::fs::read(manifest).map_err(|it| bad(it.to_string()))?;
    let folder = manifest.parent().unwrap_or(manifest).to_owned();
    Ok(Found { manifest: Manifest::parse(&json).map_err(|it| bad(it.to_string()))?, folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real bundle under names of the test's own.
    fn root(folders: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in folders {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            std::fs::copy(akidb_testkit::bundle().join("manifest.json"), root.path().join(folder).join("manifest.json")).unwrap();
        }
        root
    }

    #[test]
    fn paths_and_names_lead_to_the_bundle() {
        let root = root(&["build/bundles/all-MiniLM-L6-v2-fp32", "build/bundles/BGE-small-en-v1.5-int8", "other/m"]);
        std::fs::write(root.path().join("other/m/model.onnx"), b"").unwrap();
        let check = |asked: &str, precision: &str, expected: &str| {
            let found = find(asked, precision, root.path()).unwrap_or_else(|it| panic!("{asked}: {it}"));
            assert_eq!(found.folder, root.path().join(expected), "{asked}");
        };
        check("build/bundles/all-MiniLM-L6-v2-fp32", "fp32", "build/bundles/all-MiniLM-L6-v2-fp32");
        check("all-minilm-l6-v2-FP32", "int8", "build/bundles/all-MiniLM-L6-v2-fp32");
        check("all-MiniLM-L6-v2.onnx", "fp32", "build/bundles/all-MiniLM-L6-v2-fp32");
        check("bge-small", "int8", "build/bundles/BGE-small-en-v1.5-int8");
        check("other/m", "fp32", "other/m");
        check("other/m/model.onnx", "fp32", "other/m");
        check(&root.path().join("other/m/manifest.json").display().to_string(), "fp32", "other/m");
        let bundles = root.path().join(BUNDLES);
        assert!(variant(&bundles, "BGE-SMALL", "int8").unwrap().is_some() && variant(&bundles, "bge-small", "fp32").unwrap().is_none());
    }

    #[test]
    fn what_is_not_there_or_not_a_bundle_is_told() {
        let root = root(&["other"]);
        for file in ["lonely/x.onnx", "other/stray.onnx"] {
            std::fs::create_dir_all(root.path().join(file).parent().unwrap()).unwrap();
            std::fs::write(root.path().join(file), b"").unwrap();
        }
        let check = |asked: &str, expected: &[&str]| {
            let problem = find(asked, "int8", root.path()).unwrap_err().to_string();
            assert!(expected.iter().all(|it| problem.contains(it)), "{asked}: {problem}");
        };
        check("uae-large.onnx", &["`uae-large.onnx` is not there", "build/bundles/uae-large-v1-int8", "build/bundles/uae-large,"]);
        check("lonely/x.onnx", &["no x.manifest.json beside it"]);
        check("other/stray.onnx", &["does not list the file `stray.onnx`"]);
        std::fs::write(root.path().join("other/manifest.json"), b"{}").unwrap();
        check("other", &["manifest is not readable"]);
    }
}
