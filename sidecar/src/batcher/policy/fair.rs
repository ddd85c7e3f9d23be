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
    /// Where a member is, made if it is not there; it stays there until members are dropped.
    pub(super) fn place(&mut self, key: &K) -> usize {
        self.members.iter().position(|it| it.key == *key).unwrap_or_else(|| {
            self.members.push(Member { key: key.clone(), credit: 0, value: T::default() });
            self.members.len() - 1
        })
    }

    /// The member at a place that [`Fair::place`] or [`Fair::best`] gave.
    pub(super) fn at(&mut self, place: usize) -> &mut T {
        &mut self.members[place].value
    }

    /// The member with most credit among those of which something fits, by its place, and what that is; the first of equals.
    pub(super) fn best<R>(&self, fitting: impl Fn(&T) -> Option<R>) -> Option<(usize, R)> {
        let mut best: Option<(i64, usize, R)> = None;
        for (place, member) in self.members.iter().enumerate() {
            if best.as_ref().is_none_or(|it| member.credit > it.0)
                && let Some(found) = fitting(&member.value)
            {
                best = Some((member.credit, place, found));
            }
        }
        best.map(|(_, place, found)| (place, found))
    }

    /// A member used so much. If its credit is used up, everybody gets more first.
    pub(super) fn charge(&mut self, place: usize, cost: i64) {
        let credit = self.members[place].credit;
        if credit <= 0 {
            let rounds = -credit / QUANTUM + 1;
            for member in &mut self.members {
                member.credit = (member.credit + rounds * QUANTUM).min(QUANTUM);
            }
        }
        self.members[place].credit -= cost;
    }

    pub(super) fn each(&mut self, what: impl Fn(&mut T)) {
        self.members.iter_mut().for_each(|it| what(&mut it.value));
    }

    pub(super) fn drop_where(&mut self, gone: impl Fn(&T) -> bool) {
        self.members.retain(|it| !gone(&it.value));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
