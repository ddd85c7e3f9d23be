//! A finer clock than the runtime's, which ticks once a millisecond: at 30,000 requests a second it would send thirty at once, and make
//! bursts that nobody asked for.
//!
//! Enters: an instant and the number of its request. Leaves: at that instant, or some 60 us later. Never: a wake before it is due.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

/// Wakes from a thread of its own, which ends with it.
#[derive(Debug)]
pub(super) struct Alarm(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    by_due: BTreeMap<(Instant, u64), oneshot::Sender<()>>,
    over: bool,
}

impl Alarm {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let own = shared.clone();
        thread::Builder::new().name("alarm".to_owned()).spawn(move || own.ring())?;
        Ok(Self(shared))
    }

    /// Returns when it is due; `number` tells apart what is due at the same instant.
    pub(super) async fn at(&self, due: Instant, number: u64) {
        if due <= Instant::now() {
            return;
        }
        let (ring, wait) = oneshot::channel();
        if self.0.set((due, number), ring) {
            self.0.changed.notify_one();
        }
        // An error would be an alarm that is gone, which outlives whoever waits for it.
        let _ = wait.await;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the thread sleeps too long for it.
    fn set(&self, key: (Instant, u64), ring: oneshot::Sender<()>) -> bool {
        let mut waiting = self.lock();
        waiting.by_due.insert(key, ring);
        waiting.by_due.first_key_value().is_some_and(|(first, _)| *first == key)
    }

    fn ring(&self) {
        let mut waiting = self.lock();
        while !waiting.over {
            let now = Instant::now();
            let mut due = Vec::new();
            while let Some(first) = waiting.by_due.first_entry().filter(|it| it.key().0 <= now) {
                due.push(first.remove());
            }
            if !due.is_empty() {
                drop(waiting);
                // Who asked may have left.
                for ring in due {
                    let _ = ring.send(());
                }
                waiting = self.lock();
                continue;
            }
            waiting = match waiting.by_due.first_key_value() {
                Some(((at, _), _)) => {
                    let rest = *at - now;
                    self.changed.wait_timeout(waiting, rest).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn all_that_is_due_is_woken_and_nothing_before() {
        let alarm = Arc::new(Alarm::start().unwrap());
        let start = Instant::now();
        // Out of order, several at one instant, one in the past.
        let times = [30_u64, 5, 5, 0, 17, 30];
        let tasks: Vec<_> = (0..)
            .zip(times)
            .map(|(number, ms)| {
                let (alarm, due) = (alarm.clone(), start + Duration::from_millis(ms));
                tokio::spawn(async move {
                    alarm.at(due, number).await;
                    Instant::now() >= due
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap(), "woken before it was due");
        }
    }
}
