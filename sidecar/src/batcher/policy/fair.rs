//! Turns by credit (deficit round robin): who has had least is next.
//!
//! Enters: members, what they used. Leaves: whose turn it is. Never: a member that waits for ever; all gain credit when the best has none
//! left, and nobody saves up more than one quantum.

use super::QUANTUM;

#[derive(Debug)]
pub(super) struct Fair<K, T> {
    members: Vec<Member<K, T>>,
}

#[derive(Debug)]
struct Member<K, T> {
    key: K,
    credit: i64,
    value: T,
}

impl<K, T> Default for Fair<K, T> {
    fn default() -> Self {
        Self { members: Vec::new() }
    }
}

impl<K: PartialEq + Clone, T: Default> Fair<K, T> {
    /// A member, made if it is not there.
    pub(super) fn entry(&mut self, key: &K) -> &mut T {
        let at = self.members.iter().position(|it| it.key == *key).unwrap_or_else(|| {
            self.members.push(Member { key: key.clone(), credit: 0, value: T::default() });
            self.members.len() - 1
        });
        &mut self.members[at].value
    }

    /// The member with most credit among those that fit; the first of equals.
    pub(super) fn best(&self, fits: impl Fn(&T) -> bool) -> Option<&T> {
        let fitting = self.members.iter().filter(|it| fits(&it.value));
        fitting.reduce(|best, it| if it.credit > best.credit { it } else { best }).map(|it| &it.value)
    }

    /// A member used so much. If its credit is used up, everybody gets more first.
    pub(super) fn charge(&mut self, key: &K, cost: i64) {
        let Some(at) = self.members.iter().position(|it| it.key == *key) else { return };
        let credit = self.members[at].credit;
        if credit <= 0 {
            let rounds = -credit / QUANTUM + 1;
            for member in &mut self.members {
                member.credit = (member.credit + rounds * QUANTUM).min(QUANTUM);
            }
        }
        self.members[at].credit -= cost;
    }

    pub(super) fn drop_where(&mut self, gone: impl Fn(&T) -> bool) {
        self.members.retain(|it| !gone(&it.value));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
