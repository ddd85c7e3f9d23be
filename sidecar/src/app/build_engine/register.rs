//! A finished bundle goes into a catalog: by the program `akidb`, which speaks to the control plane of `AKIDB_SERVER`.
//!
//! Enters: the bundle's folder. Leaves: an artifact in the version of the one that it was made from, or the command that does it. Never: a
//! token; `akidb` reads its own.

use std::path::{Path, PathBuf};

use super::Register;

/// What `akidb` is told.
fn arguments(folder: &Path, how: Register) -> Vec<String> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).display().to_string();
    let import = ["models".to_owned(), "import".to_owned()].into_iter();
    match how {
        Register::Upload => import.chain([folder]).collect(),
        Register::InPlace => import.chain([format!("file://{folder}"), "--wait".to_owned()]).collect(),
    }
}

/// The program beside this one, else the one that the shell would find.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|it| it.with_file_name("akidb")).filter(|it| it.is_file());
    beside.unwrap_or_else(|| "akidb".into())
}

#[cfg(feature = "tensorrt")]
mod child {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use anyhow::{Context, Result, bail};

    use super::super::source::Source;
    use super::{Register, arguments, program};

    /// Refuses, before hours of work, what could not be catalogued afterwards: no program, no server, no token, or a graph that the catalog
    /// does not know, in whose version the engine belongs.
    pub(in super::super) fn check(source: &Source) -> Result<()> {
        let (name, digest) = (&source.manifest.model.name, source.manifest.digest());
        let mut show = Command::new(program());
        show.args(["--json", "models", "show", name]).stderr(Stdio::inherit());
        let done = show.output().context("`--register` needs the program `akidb` beside this one or on PATH")?;
        let folder = source.folder.display();
        if !done.status.success() {
            bail!(
                "`--register`: `akidb models show {name}` failed ({}); it says why above. A model that is not there: `akidb models import {folder}`",
                done.status
            );
        }
        if String::from_utf8_lossy(&done.stdout).contains(&digest) {
            return Ok(());
        }
        bail!("`--register`: artifact {digest}, which the engine is built from, is not catalogued: `akidb models import {folder}`")
    }

    /// Catalogues the folder, or says how.
    pub(in super::super) fn run(folder: &Path, how: Option<Register>) -> Result<()> {
        let Some(how) = how else {
            let command = arguments(folder, Register::Upload).join(" ");
            eprintln!("not catalogued. To do so, with AKIDB_SERVER and AKIDB_TOKEN_FILE of a control plane: akidb {command}");
            return Ok(());
        };
        let done =
            Command::new(program()).args(arguments(folder, how)).stdout(std::io::stderr()).status().context("`akidb` cannot be run")?;
        if done.success() {
            Ok(())
        } else {
            bail!("{} is written, and not in service: `akidb models import` failed ({done}); it says why above", folder.display())
        }
    }
}

#[cfg(feature = "tensorrt")]
pub(super) use child::{check, run};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensorrt_provider_test_a_server_gets_the_files_or_their_place() {
        let told = |how| arguments(Path::new("/b/engine"), how).join(" ");
        assert_eq!(told(Register::Upload), "models import /b/engine");
        assert_eq!(told(Register::InPlace), "models import file:///b/engine --wait");
        assert!(program().ends_with("akidb"));
    }
}
