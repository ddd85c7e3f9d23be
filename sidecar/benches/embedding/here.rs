//! This machine, this tree, this command.
//!
//! Enters: what Linux, git and the arguments say. Leaves: what a results file says of them. Never: a guess; what is not known is null.

use std::path::{Path, PathBuf};
use std::process::Command;

use akidb_domain::benchmark::{Invocation, Machine};
use akidb_sidecar::engine::onnx::Runtime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Flags of `/proc/cpuinfo` that decide the speed of matrix products.
const FLAGS: [&str; 14] = [
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    // aarch64
    "asimddp",
    "i8mm",
];

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// This machine, with engines on `threads` threads; `library` is ONNX Runtime's.
pub(crate) fn machine(threads: usize, library: &Path) -> Machine {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kb = line(&meminfo, "MemTotal").and_then(|it| it.trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0);
    let flags: Vec<&str> = line(&cpuinfo, "flags").or_else(|| line(&cpuinfo, "Features")).unwrap_or_default().split(' ').collect();
    let mut machine = Machine {
        id: String::new(),
        cpu: line(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
        cores: cores() as u32,
        threads: threads as u32,
        cpu_flags: FLAGS.into_iter().filter(|it| flags.contains(it)).map(str::to_owned).collect(),
        memory_bytes: memory_kb * 1024,
        onnxruntime: onnxruntime(library),
        // This build has only the `cpu` provider: a GPU that may be there takes no part.
        gpu: None,
        compute_capability: None,
        driver: None,
        tensorrt: None,
    };
    machine.id = machine.identity();
    machine
}

/// The value of `key : value`.
fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|it| Some(it.strip_prefix(key)?.trim_start().strip_prefix(':')?.trim()))
}

/// The library's file carries its version behind `.so.`; its build information names a commit.
fn onnxruntime(library: &Path) -> String {
    let file = std::fs::canonicalize(library).unwrap_or_else(|_| PathBuf::from(library));
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let version = name.split_once(".so.").map(|it| it.1.to_owned());
    version.unwrap_or_else(|| Runtime::version().split_whitespace().take(4).collect::<Vec<_>>().join(" "))
}

/// Now, RFC 3339 in whole seconds.
pub(crate) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// This start of a benchmark.
pub(crate) fn invocation(bench: &str, machine: &Machine, root: &Path, seconds_per_cell: f64) -> Invocation {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let (command, machine) = (command(bench, &arguments), machine.id.clone());
    Invocation { command, started_at: now(), revision: revision(root), machine, seconds_per_cell }
}

/// As it is typed in the repository's root.
pub(crate) fn command(bench: &str, arguments: &[String]) -> String {
    let plain = |it: &String| !it.is_empty() && it.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./,=@:+".contains(&b));
    let quoted = arguments.iter().map(|it| if plain(it) { it.clone() } else { format!("'{}'", it.replace('\'', r"'\''")) });
    let mut words = vec![format!("cargo bench --bench {bench}")];
    if !arguments.is_empty() {
        words.push("--".into());
    }
    words.extend(quoted);
    words.join(" ")
}

fn revision(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok().filter(|it| it.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|it| !it.is_empty());
    Some(if changed { format!("{commit}-dirty") } else { commit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_and_known_again() {
        let library = akidb_testkit::onnxruntime();
        let (one, again) = (machine(2, &library), machine(2, &library));
        assert_eq!(one.id, again.id);
        assert_ne!(one.id, machine(1, &library).id);
        assert!(one.memory_bytes > 1 << 28 && one.cores > 0, "{one:?}");
        assert!(one.onnxruntime.starts_with(|it: char| it.is_ascii_digit()), "{one:?}");
        assert_eq!(line("model name\t: A B\nmodel\t: 2\n", "model"), Some("2"));
    }

    #[test]
    fn a_command_can_be_typed_again() {
        let words = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        assert_eq!(command("x", &[]), "cargo bench --bench x");
        assert_eq!(command("x", &words(&["--output", "a b's", ""])), r"cargo bench --bench x -- --output 'a b'\''s' ''");
    }
}
