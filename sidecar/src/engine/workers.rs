//! The threads inside an engine's operators. They are started before the engine is loaded, so that they have the priority of who asked for
//! it, and they are parked until it is proven: meanwhile the engine runs on its caller's thread alone.
//!
//! Enters: how many, then what each is to do. Leaves: their handles. Never: a thread that nobody joins.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// What a thread is to do until its engine is dropped.
pub(super) type Work = Box<dyn FnOnce() + Send>;

/// Threads that wait for their work.
pub(super) struct Workers {
    hands: Mutex<Vec<Hand>>,
    gate: Gate,
}

struct Hand {
    work: SyncSender<Work>,
    thread: JoinHandle<()>,
}

/// A thread at work, or parked before it.
pub(super) struct Busy {
    thread: JoinHandle<()>,
    gate: Gate,
}

/// Closed until it is opened, once for all.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Workers {
    /// Starts `count` threads. Those that get no work end when this is dropped.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let gate = Gate::default();
        let hands = (0..count).map(|_| Hand::start(&gate)).collect::<io::Result<_>>()?;
        Ok(Self { hands: Mutex::new(hands), gate })
    }

    /// What parks them.
    pub(super) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Gives a thread its work, which it begins when the gate is opened.
    pub(super) fn take(&self, work: Work) -> io::Result<Busy> {
        let free = self.hands.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // An engine that wants more threads than it was to have gets them, at the priority of who loads it.
        let hand = free.map_or_else(|| Hand::start(&self.gate), Ok)?;
        hand.work.send(work).map_err(|_| io::Error::other("the thread has ended"))?;
        Ok(Busy { thread: hand.thread, gate: self.gate.clone() })
    }
}

impl Hand {
    fn start(gate: &Gate) -> io::Result<Self> {
        let (work, given) = sync_channel::<Work>(1);
        let gate = gate.clone();
        let thread = Builder::new().name("engine".into()).spawn(move || {
            if let Ok(work) = given.recv() {
                gate.wait();
                work();
            }
        })?;
        Ok(Self { work, thread })
    }
}

impl Busy {
    /// Waits for the end of its work; it is not left parked.
    pub(super) fn join(self) -> io::Result<()> {
        self.gate.open();
        self.thread.join().map_err(|_| io::Error::other("an engine's thread panicked"))
    }
}

impl Gate {
    pub(super) fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let closed = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(closed, |open| !*open).unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn work_waits_for_the_gate_and_is_never_left_behind_it() {
        let done = Arc::new(AtomicUsize::new(0));
        let work = || -> Work {
            let done = done.clone();
            Box::new(move || {
                done.fetch_add(1, Ordering::SeqCst);
            })
        };
        let workers = Workers::start(2).unwrap();
        // One more than was asked for.
        let busy: Vec<Busy> = (0..3).map(|_| workers.take(work()).unwrap()).collect();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(done.load(Ordering::SeqCst), 0);
        for it in busy {
            it.join().unwrap();
        }
        assert_eq!(done.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn threads_without_work_end() {
        let workers = Workers::start(1).unwrap();
        let thread = workers.hands.lock().unwrap().pop().unwrap();
        drop(thread.work);
        thread.thread.join().unwrap();
    }
}
