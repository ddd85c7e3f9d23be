//! How much memory there is, and how much an engine takes. Enters: the kernel's figures, file sizes. Leaves: bytes. Never: a wait.

use std::fs;

use akidb_domain::snapshot::ServedArtifact;
use akidb_domain::vocabulary::FileRole;

/// Without a configured limit, engines may take this part of the memory: the rest is for requests, tokenizers and the page cache.
const SHARE: (u64, u64) = (1, 2);
/// Where the kernel says nothing.
const UNKNOWN: u64 = 4 << 30;

/// The budget of a process that was given none: half of what its container may use, or of the machine.
pub fn default_limit() -> u64 {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].into_iter().find_map(number);
    let machine = meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal");
    // Without a limit, a cgroup says `max` or more than there is.
    let available = [cgroup, machine].into_iter().flatten().min().unwrap_or(UNKNOWN);
    available / SHARE.1 * SHARE.0
}

/// What this process has in memory.
pub(crate) fn resident() -> Option<u64> {
    meminfo(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS")
}

/// What an engine will take, from its files: the weights, and half of them again for what the runtime packs and plans.
pub(crate) fn estimate(artifact: &ServedArtifact) -> u64 {
    weights(artifact) / 2 * 3
}

/// What it took: the growth that was measured, between the estimate and twice that. Less was measured where memory of an engine that left
/// was used again; more where other work grew meanwhile.
pub(crate) fn footprint(artifact: &ServedArtifact, before: Option<u64>, after: Option<u64>) -> u64 {
    let growth = before.zip(after).map_or_else(|| estimate(artifact), |(before, after)| after.saturating_sub(before));
    growth.clamp(estimate(artifact), estimate(artifact) * 2)
}

/// The tokenizer and the reference vectors do not stay as files; their size is small beside the engine's.
fn weights(artifact: &ServedArtifact) -> u64 {
    artifact.files.iter().filter(|it| it.file.role != FileRole::Reference).map(|it| it.file.bytes).sum()
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line such as `MemTotal:  24105984 kB`, in bytes.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|it| it.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_read() {
        let text = "Name:\tx\nVmRSS:\t  2048 kB\nVmRSSx: 1 kB\n";
        assert_eq!((meminfo(text, "VmRSS"), meminfo(text, "VmSwap")), (Some(2 << 20), None));
        assert!(resident().is_some_and(|it| it > 1 << 20) && default_limit() >= resident().unwrap() / 8);
    }
}
