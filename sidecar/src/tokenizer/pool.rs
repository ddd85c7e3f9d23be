//! Threads that tokenize, so that a long text never holds up the threads that answer.
//!
//! Enters: closures. Leaves: what they return. Never: an unbounded queue; a caller waits for its place.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; a caller with one more waits for a place.
const QUEUE: usize = 1_024;

type Job = Box<dyn FnOnce() + Send>;

/// The handle; cheap to clone. The threads end with the last one.
#[derive(Debug, Clone)]
pub struct TokenizerPool {
    jobs: mpsc::Sender<Job>,
}

impl TokenizerPool {
    /// Starts `threads` threads, at least one.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for i in 0..threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("tokenizer-{i}")).spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Runs `job` on a thread. A panic comes back as its message.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let (done, answer) = oneshot::channel();
        let job = Box::new(move || {
            let result = caught(job);
            // The caller may have left; then nobody needs the result.
            drop(done.send(result));
        });
        self.jobs.send(job).await.map_err(|_| "its threads have ended".to_owned())?;
        answer.await.map_err(|_| "its threads have ended".to_owned())?
    }
}

/// Runs `job` here; a panic comes back as its message.
pub fn caught<T>(job: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(job)).map_err(|panic| panic_message(panic.as_ref()))
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|it| (*it).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // One thread waits with the lock held; the others wait for the lock, and each job goes to one of them.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        match job {
            Some(job) => job(),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_lives() {
        let pool = TokenizerPool::start(1).unwrap();
        assert_eq!(pool.run(|| panic!("no such text")).await, Err::<(), _>("no such text".to_owned()));
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }
}
