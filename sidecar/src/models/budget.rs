//! Who may take memory, and who must leave for it; pure. There is a budget for each kind of memory, the host's and the GPUs': who is short of
//! one makes only those leave that take of it.
//!
//! Enters: engines in memory, one that wants in. Leaves: a [`Verdict`]. Never: an eviction of an engine that is kept or in use, a refusal that
//! does not name the kind that is short.

use std::iter::Sum;
use std::ops::Add;

/// Bytes by kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Of the host; of both where they share their memory.
    pub host: u64,
    /// Of each GPU that serves.
    pub gpu: u64,
}

impl Bytes {
    /// Less `other`, none below zero.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { host: self.host.saturating_sub(other.host), gpu: self.gpu.saturating_sub(other.gpu) }
    }

    /// Neither kind.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { host: self.host.saturating_add(other.host), gpu: self.gpu.saturating_add(other.gpu) }
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::add)
    }
}

/// Most that engines may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the host.
    pub host: u64,
    /// Bytes of each GPU; none where no GPU serves, or none with a memory of its own.
    pub gpu: Option<u64>,
    /// CPU and GPU share their memory: the host's limit is the smaller of both.
    pub shared: bool,
}

impl Limits {
    /// How far `taken` is over, in the kinds that `asked` needs.
    pub fn missing(&self, asked: Bytes, taken: Bytes) -> Bytes {
        let over = |asked: u64, taken: u64, limit: u64| if asked == 0 { 0 } else { taken.saturating_sub(limit) };
        Bytes { host: over(asked.host, taken.host, self.host), gpu: over(asked.gpu, taken.gpu, self.gpu.unwrap_or(u64::MAX)) }
    }

    /// The budgets of the kinds that are short, each with a value of that kind.
    fn named(&self, short: Bytes, values: Bytes) -> Vec<(String, u64)> {
        let keys = if self.shared {
            "the smaller of `embedding.models.memory_limit_bytes` and `gpu_memory_limit_bytes`: CPU and GPU share it"
        } else {
            "`embedding.models.memory_limit_bytes`"
        };
        let host = (short.host > 0).then(|| (format!("the memory budget of {} bytes ({keys})", self.host), values.host));
        let gpu = self.gpu.filter(|_| short.gpu > 0);
        let gpu = gpu.map(|it| (format!("the GPU memory budget of {it} bytes (`embedding.models.gpu_memory_limit_bytes`)"), values.gpu));
        host.into_iter().chain(gpu).collect()
    }

    /// Why an engine that waited for others to be done goes without.
    pub fn in_use(&self, short: Bytes) -> String {
        let names: Vec<String> = self.named(short, short).into_iter().map(|it| it.0).collect();
        format!("every engine within {} is in use", names.join(" and "))
    }
}

/// An engine that has memory, or was promised some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its artifact.
    pub digest: String,
    /// Its model.
    pub model: String,
    /// What it takes.
    pub bytes: Bytes,
    /// When a request last used it.
    pub last_used_ns: u64,
    /// A request uses it now, or it is being loaded.
    pub busy: bool,
    /// Never evicted: the default, a pinned entry, an arm of a split.
    pub kept: bool,
    /// An alias or the configuration wants it loaded.
    pub held: bool,
}

/// How much an engine is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// An alias or an entry names it: loaded while there is room, evicting only what nothing names.
    Held,
    /// A request waits for it, it is pinned, or it takes over from an engine that serves: may evict.
    Asked,
    /// The default: loaded even over the budget.
    Must,
}

/// What an engine that is not loaded needs.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Bytes.
    pub bytes: Bytes,
    /// How much it is wanted.
    pub urgency: Urgency,
    /// The model whose engines must stay, because this one takes over from them.
    pub spare: Option<&'a str>,
    /// Bytes that engines of a higher priority will ask for soon.
    pub ahead: Bytes,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has its memory.
    Grant,
    /// These leave first, the least recently used before others.
    Evict(Vec<String>),
    /// Memory will be free when what leaves is gone, or when requests end.
    Wait,
    /// Nothing may be evicted for it.
    Refuse(String),
}

/// Decides. `leaving`: bytes of engines that are drained at this moment.
pub fn judge(limits: &Limits, tenants: &[Tenant], leaving: Bytes, ask: &Ask<'_>) -> Verdict {
    let used: Bytes = tenants.iter().map(|it| it.bytes).sum();
    let wanted = used + ask.bytes;
    if limits.missing(ask.bytes, wanted + leaving + ask.ahead).is_nothing() {
        return Verdict::Grant;
    }
    let missing = limits.missing(ask.bytes, wanted);
    if missing.is_nothing() {
        return Verdict::Wait;
    }
    let mut candidates: Vec<&Tenant> = tenants.iter().filter(|it| may_leave(it, ask)).collect();
    candidates.sort_by_key(|it| it.last_used_ns);
    match (take(candidates.iter().copied().filter(|it| !it.busy), missing), ask.urgency) {
        (Ok(victims), _) => Verdict::Evict(victims),
        (Err(_), Urgency::Asked) if take(candidates.iter().copied(), missing).is_ok() => Verdict::Wait,
        (Err(_), Urgency::Must) => Verdict::Grant,
        (Err(short), Urgency::Asked | Urgency::Held) => Verdict::Refuse(refusal(limits, used, ask, short)),
    }
}

/// `short`: what no eviction would free.
fn refusal(limits: &Limits, used: Bytes, ask: &Ask<'_>, short: Bytes) -> String {
    let asked = limits.named(short, ask.bytes);
    let taken = limits.named(short, used);
    let one = |((budget, bytes), (_, used)): ((String, u64), (String, u64))| {
        format!("{budget} has no room for {bytes} more: {used} are taken and nothing may be evicted")
    };
    asked.into_iter().zip(taken).map(one).collect::<Vec<_>>().join("; ")
}

fn may_leave(tenant: &Tenant, ask: &Ask<'_>) -> bool {
    !tenant.kept && ask.spare != Some(tenant.model.as_str()) && (ask.urgency > Urgency::Held || !tenant.held)
}

/// The first of `tenants` that free what is missing together, none that takes of another kind only; or what is still missing without them all.
fn take<'a>(tenants: impl Iterator<Item = &'a Tenant>, mut missing: Bytes) -> Result<Vec<String>, Bytes> {
    let mut victims = Vec::new();
    for tenant in tenants {
        let rest = missing.less(tenant.bytes);
        if rest != missing {
            victims.push(tenant.digest.clone());
        }
        missing = rest;
        if missing.is_nothing() {
            return Ok(victims);
        }
    }
    Err(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So much of the host alone.
    fn host(bytes: u64) -> Bytes {
        Bytes { host: bytes, gpu: 0 }
    }

    const HOST: Limits = Limits { host: 300, gpu: None, shared: false };

    /// Three engines of 100 bytes, used at 30, 10 and 20.
    fn tenants() -> Vec<Tenant> {
        let tenant = |digest: &str, last_used_ns| Tenant {
            digest: digest.into(),
            model: format!("model-{digest}"),
            bytes: host(100),
            last_used_ns,
            busy: false,
            kept: false,
            held: true,
        };
        vec![tenant("a", 30), tenant("b", 10), tenant("c", 20)]
    }

    fn check_within(limits: Limits, change: impl FnOnce(&mut Vec<Tenant>, &mut Ask<'_>), expected: &Verdict) {
        let (mut tenants, mut ask) = (tenants(), Ask { bytes: host(100), urgency: Urgency::Asked, spare: None, ahead: host(0) });
        change(&mut tenants, &mut ask);
        let verdict = judge(&limits, &tenants, host(0), &ask);
        match expected {
            Verdict::Refuse(part) => assert!(matches!(&verdict, Verdict::Refuse(why) if why.contains(part)), "{verdict:?}"),
            expected => assert_eq!(&verdict, expected),
        }
    }

    fn check(change: impl FnOnce(&mut Vec<Tenant>, &mut Ask<'_>), expected: &Verdict) {
        check_within(HOST, change, expected);
    }

    fn evict(digests: &[&str]) -> Verdict {
        Verdict::Evict(digests.iter().map(|it| (*it).to_owned()).collect())
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        check(|_, _| {}, &evict(&["b"]));
        check(|_, ask| ask.bytes = host(150), &evict(&["b", "c"]));
        check(|all, _| all[1].kept = true, &evict(&["c"]));
        check(|all, _| all[1].busy = true, &evict(&["c"]));
        check(|_, ask| ask.spare = Some("model-b"), &evict(&["c"]));
        check(|all, _| drop(all.pop()), &Verdict::Grant);
    }

    #[test]
    fn what_is_in_use_is_waited_for_and_what_is_kept_is_not() {
        check(|all, _| all.iter_mut().for_each(|it| it.busy = true), &Verdict::Wait);
        check(|all, _| all.iter_mut().for_each(|it| it.kept = true), &Verdict::Refuse("300 bytes".into()));
        check(|_, ask| ask.bytes = host(301), &Verdict::Refuse("has no room for 301 more".into()));
    }

    #[test]
    fn a_held_one_evicts_only_what_nothing_names_and_the_default_always_comes_in() {
        check(|_, ask| ask.urgency = Urgency::Held, &Verdict::Refuse("nothing may be evicted".into()));
        check(|all, ask| (all[0].held, ask.urgency) = (false, Urgency::Held), &evict(&["a"]));
        check(|all, ask| (ask.urgency, ask.ahead) = (Urgency::Held, all.remove(0).bytes), &Verdict::Wait);
        check(|_, ask| (ask.urgency, ask.bytes) = (Urgency::Must, host(1_000)), &Verdict::Grant);
        check(|_, ask| ask.urgency = Urgency::Must, &evict(&["b"]));
    }

    #[test]
    fn what_leaves_is_counted_until_it_is_gone() {
        let mut tenants = tenants();
        tenants.pop();
        let ask = Ask { bytes: host(100), urgency: Urgency::Asked, spare: None, ahead: host(0) };
        assert_eq!(judge(&HOST, &tenants, host(100), &ask), Verdict::Wait);
        assert_eq!(judge(&HOST, &tenants, host(0), &ask), Verdict::Grant);
    }

    const BOTH: Limits = Limits { host: 300, gpu: Some(1_000), shared: false };

    /// `a` and `c` are on the GPU, `a` used last; `b`, on the CPU, was used least recently of all.
    fn on_gpu(all: &mut [Tenant]) {
        all[0].bytes = Bytes { host: 20, gpu: 600 };
        all[2].bytes = Bytes { host: 20, gpu: 400 };
    }

    #[test]
    fn a_full_gpu_makes_only_engines_on_it_leave() {
        let ask = Bytes { host: 20, gpu: 300 };
        check_within(BOTH, |all, it| (it.bytes, ()) = (ask, on_gpu(all)), &evict(&["c"]));
        check_within(BOTH, |all, it| (it.bytes, ()) = (Bytes { host: 20, gpu: 500 }, on_gpu(all)), &evict(&["c", "a"]));
        let kept = |all: &mut Vec<Tenant>, it: &mut Ask<'_>| {
            on_gpu(all);
            it.bytes = ask;
            (all[0].kept, all[2].kept) = (true, true);
        };
        let why = "the GPU memory budget of 1000 bytes (`embedding.models.gpu_memory_limit_bytes`) has no room for 300 more: 1000 are taken \
                   and nothing may be evicted";
        check_within(BOTH, kept, &Verdict::Refuse(why.into()));
        let busy = |all: &mut Vec<Tenant>, it: &mut Ask<'_>| {
            on_gpu(all);
            it.bytes = ask;
            (all[0].busy, all[2].busy) = (true, true);
        };
        check_within(BOTH, busy, &Verdict::Wait);
    }

    #[test]
    fn an_engine_on_the_cpu_does_not_care_for_a_full_gpu() {
        // Over its budget, as after a default that was loaded all the same.
        let full = |all: &mut Vec<Tenant>| {
            on_gpu(all);
            all[0].bytes.gpu = 5_000;
        };
        check_within(BOTH, |all, _| full(all), &Verdict::Grant);
        // The host is full: who leaves is the least recently used of all, on whatever it runs.
        check_within(BOTH, |all, it| (it.bytes, ()) = (host(200), full(all)), &evict(&["b"]));
        let after_b = |all: &mut Vec<Tenant>, it: &mut Ask<'_>| {
            full(all);
            (all[1].kept, it.bytes) = (true, host(170));
        };
        check_within(BOTH, after_b, &evict(&["c"]));
    }

    #[test]
    fn who_is_short_of_both_kinds_names_those_that_nothing_frees() {
        let all_kept = |bytes| {
            move |all: &mut Vec<Tenant>, it: &mut Ask<'_>| {
                on_gpu(all);
                all[1].bytes.host = 260;
                for it in all.iter_mut() {
                    it.kept = true;
                }
                it.bytes = bytes;
            }
        };
        let both = Bytes { host: 20, gpu: 300 };
        check_within(BOTH, all_kept(both), &Verdict::Refuse("nothing may be evicted; the GPU memory budget".into()));
        // The CPU's engine may leave: only the GPU's memory is to blame.
        let one_may = move |all: &mut Vec<Tenant>, it: &mut Ask<'_>| {
            all_kept(both)(all, it);
            all[1].kept = false;
        };
        let mut all = tenants();
        let mut ask = Ask { bytes: host(0), urgency: Urgency::Asked, spare: None, ahead: host(0) };
        one_may(&mut all, &mut ask);
        let Verdict::Refuse(why) = judge(&BOTH, &all, host(0), &ask) else { panic!("it was let in") };
        assert!(why.starts_with("the GPU memory budget") && !why.contains("`embedding.models.memory_limit_bytes`"), "{why}");
    }

    #[test]
    fn a_shared_memory_has_one_budget_and_names_both_keys() {
        let shared = Limits { host: 300, gpu: None, shared: true };
        let why = "the smaller of `embedding.models.memory_limit_bytes` and `gpu_memory_limit_bytes`: CPU and GPU share it";
        check_within(shared, |all, _| all.iter_mut().for_each(|it| it.kept = true), &Verdict::Refuse(why.into()));
        check_within(shared, |_, _| {}, &evict(&["b"]));
        assert!(BOTH.in_use(Bytes { host: 0, gpu: 1 }).starts_with("every engine within the GPU memory budget of 1000 bytes"));
    }
}
