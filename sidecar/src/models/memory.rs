//! How much memory there is, and how much an engine takes, by kind: the host's and the GPUs'.
//!
//! Enters: the kernel's and the driver's figures, file sizes. Leaves: bytes. Never: a decision; those are `budget`'s.
//!
//! An engine takes of the host whatever runs it: its weights, and half of them again for what the runtime packs and plans, or keeps of files that
//! it read. One on a GPU also has a copy of its weights in each context there, and what the library needs beside them. Every engine is on every GPU that serves, so one figure does for all of them: that of the GPU that takes most. Where CPU and GPU
//! share their memory (Jetson) an engine counts once, with what the device needs, against the smaller of both limits.

use std::fs;

use akidb_domain::snapshot::ServedArtifact;
use akidb_domain::vocabulary::{ExecutionProvider, FileRole};

use super::Machine;
use super::budget::{Bytes, Limits};
use crate::engine::device::{self, Gpu};

/// Without a configured limit, engines may take this part of the memory: the rest is for requests, tokenizers and the page cache.
const SHARE: (u64, u64) = (1, 2);
/// And this part of a GPU's: the rest is for buffers of shapes that are seen later, CUDA graphs and other processes.
const GPU_SHARE: (u64, u64) = (3, 4);
/// Where the kernel says nothing.
const UNKNOWN: u64 = 4 << 30;

/// What is in use at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Of the host, by this process.
    pub(crate) resident: Option<u64>,
    /// Of each GPU that serves, by whomever.
    pub(crate) gpus: Vec<Option<u64>>,
}

/// The memory that engines share here; cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Most that they may take together.
    pub limits: Limits,
    /// GPUs that serve.
    devices: Vec<u32>,
    contexts: usize,
}

impl Memory {
    /// `host` and `gpu` are the configured limits; `contexts` those of an engine on a GPU.
    pub fn new(host: Option<u64>, gpu: Option<u64>, machine: &Machine, contexts: usize) -> Self {
        let (host, gpus) = (host.unwrap_or_else(default_limit), machine.gpus());
        let devices = gpus.iter().map(|it| it.index).collect();
        Self { limits: limits(host, gpu, &gpus), devices, contexts }
    }

    /// What an engine will take, from its files.
    pub(crate) fn estimate(&self, artifact: &ServedArtifact, provider: ExecutionProvider) -> Bytes {
        let weights = weights(artifact);
        let (host, gpu) = (weights / 2 * 3, device::engine_bytes(weights, self.contexts));
        match provider {
            ExecutionProvider::Cpu => Bytes { host, gpu: 0 },
            _ if self.limits.shared => Bytes { host: host.max(gpu), gpu: 0 },
            _ => Bytes { host, gpu },
        }
    }

    /// What is in use now. Asks the driver where the engine is one for GPUs, which the first time takes long.
    pub(crate) fn read(&self, provider: ExecutionProvider) -> Reading {
        let gpus: &[u32] = if provider == ExecutionProvider::Cpu { &[] } else { &self.devices };
        Reading { resident: resident(), gpus: gpus.iter().map(|it| device::used_bytes(*it)).collect() }
    }

    /// What it took: the growth that was measured, between the estimate and twice that. Less was measured where memory of an engine that left
    /// was used again; more where other work grew meanwhile.
    pub(crate) fn footprint(&self, estimate: Bytes, provider: ExecutionProvider, before: &Reading, after: &Reading) -> Bytes {
        let grown = |before: Option<u64>, after: Option<u64>| before.zip(after).map(|(before, after)| after.saturating_sub(before));
        let on_gpus = before.gpus.iter().zip(&after.gpus).filter_map(|(before, after)| grown(*before, *after)).max();
        let resident = grown(before.resident, after.resident);
        let within = |growth: Option<u64>, estimate: u64| growth.unwrap_or(estimate).clamp(estimate, estimate * 2);
        let host = if self.limits.shared && provider != ExecutionProvider::Cpu { on_gpus } else { resident };
        Bytes { host: within(host, estimate.host), gpu: within(on_gpus, estimate.gpu) }
    }
}

/// One limit a kind. A GPU's is no more than the smallest one has.
fn limits(host: u64, gpu: Option<u64>, gpus: &[&Gpu]) -> Limits {
    let Some(smallest) = gpus.iter().map(|it| it.memory_bytes).min() else { return Limits { host, gpu: None, shared: false } };
    let limit = gpu.unwrap_or(smallest / GPU_SHARE.1 * GPU_SHARE.0);
    if limit > smallest {
        tracing::warn!(limit, memory_bytes = smallest, "`embedding.models.gpu_memory_limit_bytes` is more than the smallest GPU has");
    }
    let limit = limit.min(smallest);
    let shared = gpus.iter().any(|it| it.integrated);
    if shared { Limits { host: host.min(limit), gpu: None, shared } } else { Limits { host, gpu: Some(limit), shared } }
}

/// The budget of a process that was given none: half of what its container may use, or of the machine.
fn default_limit() -> u64 {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].into_iter().find_map(number);
    let machine = meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal");
    // Without a limit, a cgroup says `max` or more than there is.
    let available = [cgroup, machine].into_iter().flatten().min().unwrap_or(UNKNOWN);
    available / SHARE.1 * SHARE.0
}

/// What this process has in memory.
fn resident() -> Option<u64> {
    meminfo(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS")
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
    use akidb_domain::bundle::{BundleFile, Graph};
    use akidb_domain::snapshot::ServedFile;
    use akidb_domain::vocabulary::Target;

    use super::*;
    use crate::models::plan::tests::h100;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn the_kernel_is_read() {
        let text = "Name:\tx\nVmRSS:\t  2048 kB\nVmRSSx: 1 kB\n";
        assert_eq!((meminfo(text, "VmRSS"), meminfo(text, "VmSwap")), (Some(2 << 20), None));
        assert!(resident().is_some_and(|it| it > 1 << 20) && default_limit() >= resident().unwrap() / 8);
    }

    /// The recorded H100, and one of these sizes beside it for each further entry.
    fn machine(integrated: bool, others: &[u64]) -> Machine {
        let mut machine = h100();
        machine.facts.gpus[0].integrated = integrated;
        for (bytes, index) in others.iter().zip(1..) {
            let gpu = Gpu { index, memory_bytes: *bytes, ..machine.facts.gpus[0].clone() };
            machine.facts.gpus.push(gpu);
            machine.devices.push(index);
        }
        machine
    }

    #[test]
    fn a_limit_is_that_of_the_smallest_gpu_that_serves() {
        let check = |machine: &Machine, gpu: Option<u64>, expected: Limits| {
            assert_eq!(Memory::new(Some(8 * GIB), gpu, machine, 2).limits, expected);
        };
        let own = |gpu| Limits { host: 8 * GIB, gpu: Some(gpu), shared: false };
        let whole = 85_520_809_984;
        check(&h100(), None, own(whole / 4 * 3));
        check(&h100(), Some(6 * GIB), own(6 * GIB));
        check(&h100(), Some(2 * whole), own(whole));
        check(&machine(false, &[24 * GIB]), None, own(18 * GIB));
        // One that does not serve does not count.
        check(&Machine { devices: vec![0], ..machine(false, &[24 * GIB]) }, None, own(whole / 4 * 3));
        check(&machine(true, &[]), None, Limits { host: 8 * GIB, gpu: None, shared: true });
        check(&machine(true, &[]), Some(4 * GIB), Limits { host: 4 * GIB, gpu: None, shared: true });
        let none = Limits { host: 8 * GIB, gpu: None, shared: false };
        check(&Machine::cpu(), Some(4 * GIB), none);
        check(&Machine { demanded: Some(ExecutionProvider::Cpu), ..h100() }, Some(4 * GIB), none);
    }

    fn artifact(bytes: u64) -> ServedArtifact {
        let file =
            |role, bytes| ServedFile { file: BundleFile { path: "f".into(), role, bytes, sha256: "0".repeat(64) }, uri: String::new() };
        ServedArtifact {
            digest: "a".repeat(64),
            target: Target::portable(),
            graph: Graph { inputs: Vec::new(), output: String::new() },
            files: vec![file(FileRole::Engine, bytes), file(FileRole::Reference, 7 * GIB)],
        }
    }

    #[test]
    fn an_engine_on_a_gpu_takes_a_copy_a_context_and_one_on_the_cpu_none_of_it() {
        let (own, shared) = (Memory::new(None, None, &h100(), 2), Memory::new(None, None, &machine(true, &[]), 2));
        let check = |memory: &Memory, provider, host, gpu| {
            assert_eq!(memory.estimate(&artifact(100 * MIB), provider), Bytes { host: host * MIB, gpu: gpu * MIB });
        };
        check(&own, ExecutionProvider::Cpu, 150, 0);
        check(&own, ExecutionProvider::Cuda, 150, 456);
        check(&own, ExecutionProvider::TensorRt, 150, 456);
        check(&shared, ExecutionProvider::Cpu, 150, 0);
        check(&shared, ExecutionProvider::TensorRt, 456, 0);
    }

    #[test]
    fn growth_counts_by_kind_between_the_estimate_and_twice_that() {
        let memory = Memory::new(None, None, &machine(false, &[24 * GIB]), 2);
        let check = |memory: &Memory, provider, resident: Option<u64>, gpus: &[Option<u64>], expected: (u64, u64)| {
            let estimate = memory.estimate(&artifact(100 * MIB), provider);
            let before = Reading { resident: Some(GIB), gpus: vec![Some(3 * GIB); gpus.len()] };
            let after = Reading {
                resident: resident.map(|it| GIB + it * MIB),
                gpus: gpus.iter().map(|it| it.map(|it| 3 * GIB + it * MIB)).collect(),
            };
            let got = memory.footprint(estimate, provider, &before, &after);
            assert_eq!((got.host / MIB, got.gpu / MIB), expected, "{provider} {gpus:?}");
        };
        let (cpu, tensorrt) = (ExecutionProvider::Cpu, ExecutionProvider::TensorRt);
        check(&memory, cpu, Some(200), &[], (200, 0));
        check(&memory, cpu, Some(900), &[], (300, 0));
        check(&memory, cpu, None, &[], (150, 0));
        // The GPU that took most.
        check(&memory, tensorrt, Some(200), &[Some(500), Some(700)], (200, 700));
        check(&memory, tensorrt, Some(120), &[Some(10), Some(20)], (150, 456));
        check(&memory, tensorrt, Some(900), &[Some(5_000), None], (300, 912));
        check(&memory, tensorrt, None, &[None, None], (150, 456));
        let shared = Memory::new(None, None, &machine(true, &[]), 2);
        check(&shared, tensorrt, Some(120), &[Some(500)], (500, 0));
        check(&shared, cpu, Some(200), &[], (200, 0));
    }
}
