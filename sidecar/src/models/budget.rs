//! Who may take memory, and who must leave for it; pure. Enters: engines in memory, one that wants in. Leaves: a [`Verdict`]. Never: an
//! eviction of an engine that is kept or in use.

/// An engine that has memory, or was promised some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its artifact.
    pub digest: String,
    /// Its model.
    pub model: String,
    /// What it takes.
    pub bytes: u64,
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
    pub bytes: u64,
    /// How much it is wanted.
    pub urgency: Urgency,
    /// The model whose engines must stay, because this one takes over from them.
    pub spare: Option<&'a str>,
    /// Bytes that engines of a higher priority will ask for soon.
    pub ahead: u64,
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
pub fn judge(limit: u64, tenants: &[Tenant], leaving: u64, ask: &Ask<'_>) -> Verdict {
    let used: u64 = tenants.iter().map(|it| it.bytes).sum();
    let wanted = used.saturating_add(ask.bytes);
    if wanted.saturating_add(leaving).saturating_add(ask.ahead) <= limit {
        return Verdict::Grant;
    }
    if wanted <= limit {
        return Verdict::Wait;
    }
    let mut candidates: Vec<&Tenant> = tenants.iter().filter(|it| may_leave(it, ask)).collect();
    candidates.sort_by_key(|it| it.last_used_ns);
    let missing = wanted - limit;
    if let Some(victims) = take(candidates.iter().copied().filter(|it| !it.busy), missing) {
        return Verdict::Evict(victims);
    }
    match ask.urgency {
        Urgency::Asked if take(candidates.into_iter(), missing).is_some() => Verdict::Wait,
        Urgency::Must => Verdict::Grant,
        Urgency::Asked | Urgency::Held => Verdict::Refuse(format!(
            "the memory budget of {limit} bytes (`embedding.models.memory_limit_bytes`) has no room for {} more: {used} are taken and nothing \
             may be evicted",
            ask.bytes
        )),
    }
}

fn may_leave(tenant: &Tenant, ask: &Ask<'_>) -> bool {
    !tenant.kept && ask.spare != Some(tenant.model.as_str()) && (ask.urgency > Urgency::Held || !tenant.held)
}

/// The first of `tenants` that free `missing` bytes together.
fn take<'a>(tenants: impl Iterator<Item = &'a Tenant>, missing: u64) -> Option<Vec<String>> {
    let (mut victims, mut freed) = (Vec::new(), 0);
    for tenant in tenants {
        victims.push(tenant.digest.clone());
        freed += tenant.bytes;
        if freed >= missing {
            return Some(victims);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three engines of 100 bytes, used at 30, 10 and 20.
    fn tenants() -> Vec<Tenant> {
        let tenant = |digest: &str, last_used_ns| Tenant {
            digest: digest.into(),
            model: format!("model-{digest}"),
            bytes: 100,
            last_used_ns,
            busy: false,
            kept: false,
            held: true,
        };
        vec![tenant("a", 30), tenant("b", 10), tenant("c", 20)]
    }

    fn check(change: impl FnOnce(&mut Vec<Tenant>, &mut Ask<'_>), expected: &Verdict) {
        let (mut tenants, mut ask) = (tenants(), Ask { bytes: 100, urgency: Urgency::Asked, spare: None, ahead: 0 });
        change(&mut tenants, &mut ask);
        let verdict = judge(300, &tenants, 0, &ask);
        match expected {
            Verdict::Refuse(part) => assert!(matches!(&verdict, Verdict::Refuse(why) if why.contains(part)), "{verdict:?}"),
            expected => assert_eq!(&verdict, expected),
        }
    }

    fn evict(digests: &[&str]) -> Verdict {
        Verdict::Evict(digests.iter().map(|it| (*it).to_owned()).collect())
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        check(|_, _| {}, &evict(&["b"]));
        check(|_, ask| ask.bytes = 150, &evict(&["b", "c"]));
        check(|all, _| all[1].kept = true, &evict(&["c"]));
        check(|all, _| all[1].busy = true, &evict(&["c"]));
        check(|_, ask| ask.spare = Some("model-b"), &evict(&["c"]));
        check(|all, _| drop(all.pop()), &Verdict::Grant);
    }

    #[test]
    fn what_is_in_use_is_waited_for_and_what_is_kept_is_not() {
        check(|all, _| all.iter_mut().for_each(|it| it.busy = true), &Verdict::Wait);
        check(|all, _| all.iter_mut().for_each(|it| it.kept = true), &Verdict::Refuse("300 bytes".into()));
        check(|_, ask| ask.bytes = 301, &Verdict::Refuse("has no room for 301 more".into()));
    }

    #[test]
    fn a_held_one_evicts_only_what_nothing_names_and_the_default_always_comes_in() {
        check(|_, ask| ask.urgency = Urgency::Held, &Verdict::Refuse("nothing may be evicted".into()));
        check(|all, ask| (all[0].held, ask.urgency) = (false, Urgency::Held), &evict(&["a"]));
        check(|all, ask| (ask.urgency, ask.ahead) = (Urgency::Held, all.remove(0).bytes), &Verdict::Wait);
        check(|_, ask| (ask.urgency, ask.bytes) = (Urgency::Must, 1_000), &Verdict::Grant);
        check(|_, ask| ask.urgency = Urgency::Must, &evict(&["b"]));
    }

    #[test]
    fn what_leaves_is_counted_until_it_is_gone() {
        let mut tenants = tenants();
        tenants.pop();
        let ask = Ask { bytes: 100, urgency: Urgency::Asked, spare: None, ahead: 0 };
        assert_eq!(judge(300, &tenants, 100, &ask), Verdict::Wait);
        assert_eq!(judge(300, &tenants, 0, &ask), Verdict::Grant);
    }
}
