//! The bundle that an engine is built from.
//!
//! Enters: its folder. Leaves: a manifest whose files match their digests. Never: a graph that the wanted precision is not built from.

use std::path::{Path, PathBuf};

use akidb_domain::bundle::{BundleFile, Manifest};
#[cfg(feature = "tensorrt")]
use akidb_domain::vocabulary::FileRole;
use akidb_domain::vocabulary::{Precision, TargetProvider};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// A bundle on disk.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) folder: PathBuf,
    pub(super) manifest: Manifest,
}

impl Source {
    /// Reads the manifest and checks its files.
    pub(super) fn read(at: &Path) -> Result<Self> {
        let raw = at.extension().is_some_and(|it| ["trt", "engine", "plan"].iter().any(|raw| it.eq_ignore_ascii_case(raw)));
        if raw {
            bail!("{} is a raw TensorRT plan: engines are built from a bundle with an ONNX graph; name its folder", at.display());
        }
        let path = at.join("manifest.json");
        let json = std::fs::read(&path).with_context(|| format!("{} cannot be read: `--bundle` is a bundle's folder", path.display()))?;
        let manifest = Manifest::parse(&json).with_context(|| path.display().to_string())?;
        let source = Self { folder: at.to_owned(), manifest };
        source.manifest.files.iter().try_for_each(|it| source.verify(it))?;
        Ok(source)
    }

    fn verify(&self, file: &BundleFile) -> Result<()> {
        let path = self.folder.join(&file.path);
        let found = sha256(&path)?;
        if found == file.sha256 { Ok(()) } else { bail!("{} has sha256 {found}, its manifest says {}", path.display(), file.sha256) }
    }

    #[cfg(feature = "tensorrt")]
    /// The file of a role; every bundle has an engine, a tokenizer and reference vectors.
    pub(super) fn file(&self, role: FileRole) -> Result<(&BundleFile, PathBuf)> {
        let file = self.manifest.file(role).with_context(|| format!("the bundle has no {role}"))?;
        Ok((file, self.folder.join(&file.path)))
    }

    /// The fp32 bundle that an engine of it is measured against: itself; the one that is given; or its parent among the folders beside it.
    pub(super) fn fp32(&self, given: Option<&Path>) -> Result<Self> {
        let Manifest { variant, model, lineage, .. } = &self.manifest;
        let name = format!("`{}@{}`", model.name, variant.name);
        let found = match (given, &lineage.parent_digest) {
            (None, _) if variant.precision == Precision::Fp32 => self.clone(),
            (Some(given), _) => Self::read(given)?,
            (None, Some(parent)) => self.beside(parent)?.with_context(|| {
                format!("{name} was made from artifact {parent}, which is not beside {}: name its folder, `--fp32`", self.folder.display())
            })?,
            (None, None) => bail!("{name} does not say what it was made from: name its fp32 bundle's folder, `--fp32`"),
        };
        let theirs = &found.manifest;
        if theirs.variant.precision != Precision::Fp32 || theirs.target.provider != TargetProvider::Portable {
            bail!(
                "{} holds `{}@{}`: an engine is measured against a plain fp32 graph",
                found.folder.display(),
                theirs.model.name,
                theirs.variant.name
            );
        }
        if theirs.model.embedding_space != model.embedding_space || theirs.model.tokenizer_sha256 != model.tokenizer_sha256 {
            bail!("{} holds `{}`, whose vectors or tokenizer are not those of {name}", found.folder.display(), theirs.model.name);
        }
        Ok(found)
    }

    /// The bundle of this digest in a folder beside this one.
    fn beside(&self, digest: &str) -> Result<Option<Self>> {
        let folder = std::fs::canonicalize(&self.folder)?;
        let Some(around) = folder.parent() else { return Ok(None) };
        for entry in std::fs::read_dir(around).with_context(|| around.display().to_string())? {
            let path = entry?.path();
            // What cannot be read there is not it.
            let Ok(json) = std::fs::read(path.join("manifest.json")) else { continue };
            if Manifest::parse(&json).is_ok_and(|it| it.digest() == digest) {
                return Self::read(&path).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether engines of this precision are built from this graph.
    pub(super) fn check(&self, precision: Precision) -> Result<()> {
        let Manifest { target, variant, model, lineage, .. } = &self.manifest;
        let name = format!("`{}@{}`", model.name, variant.name);
        if target.provider != TargetProvider::Portable {
            bail!("{name} is built for `{}` already: engines are built from a plain ONNX graph", target.provider);
        }
        let needed = match precision {
            Precision::Fp32 | Precision::Tf32 | Precision::Fp16 => Precision::Fp32,
            Precision::Int8 | Precision::Fp8 => precision,
        };
        if variant.precision == needed {
            return Ok(());
        }
        let parent = lineage.parent_digest.as_ref().map_or_else(String::new, |it| format!("; it was made from artifact {it}"));
        bail!("{name} is a graph in {}; an engine in {precision} is built from one in {needed}{parent}", variant.precision)
    }
}

/// Digest of a file.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).with_context(|| path.display().to_string())? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Manifest), precision: Precision, expected: Option<&str>) {
        let mut source = Source::read(&akidb_testkit::bundle()).unwrap();
        change(&mut source.manifest);
        match (source.check(precision), expected) {
            (Ok(()), None) => {}
            (Err(got), Some(part)) => assert!(got.to_string().contains(part), "{got}"),
            (got, expected) => panic!("{got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn tensorrt_provider_test_a_precision_is_built_from_its_graph_only() {
        check(|_| {}, Precision::Fp16, None);
        check(|_| {}, Precision::Tf32, None);
        check(|_| {}, Precision::Int8, Some("is a graph in fp32; an engine in int8 is built from one in int8"));
        let quantized = |it: &mut Manifest| {
            it.variant.precision = Precision::Int8;
            it.lineage.parent_digest = Some("a".repeat(64));
        };
        check(quantized, Precision::Int8, None);
        check(quantized, Precision::Fp16, Some("it was made from artifact aaaa"));
        check(|it| it.target.provider = TargetProvider::TensorRt, Precision::Fp16, Some("is built for `tensorrt` already"));
    }

    /// A graph of `fp32` in another precision, in a folder beside a copy of it.
    fn quantized(around: &Path) -> Source {
        akidb_testkit::copy_folder(&akidb_testkit::bundle(), &around.join("fp32"));
        let fp32 = Source::read(&around.join("fp32")).unwrap();
        let mut source = fp32.clone();
        source.folder = around.join("int8");
        source.manifest.variant.precision = Precision::Int8;
        source.manifest.lineage.parent_digest = Some(fp32.manifest.digest());
        std::fs::create_dir(&source.folder).unwrap();
        source
    }

    #[test]
    fn tensorrt_provider_test_an_engine_is_measured_against_its_own_fp32() {
        let root = Source::read(&akidb_testkit::bundle()).unwrap();
        assert_eq!(root.fp32(None).unwrap().manifest, root.manifest);
        let folder = tempfile::tempdir().unwrap();
        let mut source = quantized(folder.path());
        assert_eq!(source.fp32(None).unwrap().folder.file_name().unwrap(), "fp32");
        let refused = |source: &Source, given: Option<&Path>| source.fp32(given).unwrap_err().to_string();
        source.manifest.model.embedding_space = "another".into();
        assert!(refused(&source, None).contains("whose vectors or tokenizer are not those of"), "{}", refused(&source, None));
        source.manifest.lineage.parent_digest = Some("a".repeat(64));
        assert!(refused(&source, None).contains("name its folder, `--fp32`"), "{}", refused(&source, None));
        source.manifest.lineage.parent_digest = None;
        assert!(refused(&source, None).contains("does not say what it was made from"), "{}", refused(&source, None));
        let manifest = std::fs::read_to_string(folder.path().join("fp32/manifest.json")).unwrap();
        let int8 = manifest.replace("\"precision\": \"fp32\"", "\"precision\": \"int8\"");
        assert_ne!(manifest, int8);
        std::fs::write(folder.path().join("fp32/manifest.json"), int8).unwrap();
        let given = refused(&source, Some(&folder.path().join("fp32")));
        assert!(given.contains("is measured against a plain fp32 graph"), "{given}");
    }

    #[test]
    fn tensorrt_provider_test_a_raw_plan_and_a_changed_file_are_refused_by_name() {
        let error = Source::read(Path::new("models/x.TRT")).unwrap_err();
        assert!(error.to_string().contains("models/x.TRT is a raw TensorRT plan"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        for name in ["manifest.json", "model.onnx", "tokenizer.json"] {
            std::fs::copy(akidb_testkit::bundle().join(name), folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("reference.json"), "{}").unwrap();
        let error = Source::read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("reference.json has sha256"), "{error}");
    }
}
