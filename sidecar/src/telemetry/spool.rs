//! The thread that owns the spool's files. Enters: windows, marks. Leaves: what to report. Never: a caller that waits for the disk to
//! append; a full queue drops the window and counts it.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use akidb_domain::window::Window;
use tokio::sync::{oneshot, watch};

use super::segments::{Pending, Segments};
use crate::metrics::Metrics;

/// Windows and questions that may wait for the disk.
const QUEUE: usize = 1_024;

/// The handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Spool {
    orders: SyncSender<Order>,
    appended: watch::Receiver<u64>,
    metrics: Metrics,
}

#[derive(Debug)]
enum Order {
    Append(Box<Window>),
    Pending { most: usize, answer: oneshot::Sender<Option<Pending>> },
    Acknowledge { boot_id: String, mark: u64, now_ns: u64 },
    Skip { boot_id: String, sequence: u64 },
    Boots(oneshot::Sender<Vec<String>>),
}

impl Spool {
    /// Opens the folder and starts the thread; it ends with the last handle.
    pub fn start(folder: &Path, limit: u64, (boot_id, boot_unix_ns): (&str, u64), metrics: Metrics) -> std::io::Result<Self> {
        let segments = Segments::open(folder, limit, boot_id, boot_unix_ns)?;
        let (orders, receiver) = sync_channel(QUEUE);
        let (tell, appended) = watch::channel(0);
        let thread = Thread { segments, tell, metrics: metrics.clone() };
        std::thread::Builder::new().name("spool".into()).spawn(move || thread.run(&receiver))?;
        Ok(Self { orders, appended, metrics })
    }

    /// Keeps a window.
    pub fn append(&self, window: Window) {
        if self.orders.try_send(Order::Append(Box::new(window))).is_err() {
            self.metrics.add_lost_windows(1);
            tracing::error!("a telemetry window was dropped: the disk does not keep up");
        }
    }

    /// What to report next, at most `most` windows.
    pub async fn pending(&self, most: usize) -> Option<Pending> {
        let (answer, wait) = oneshot::channel();
        self.send(Order::Pending { most, answer });
        wait.await.unwrap_or_default()
    }

    /// A boot's windows up to `mark` are counted. The mark may go back.
    pub fn acknowledge(&self, boot_id: &str, mark: u64, now_ns: u64) {
        self.send(Order::Acknowledge { boot_id: boot_id.to_owned(), mark, now_ns });
    }

    /// Gives a window up.
    pub fn skip(&self, boot_id: &str, sequence: u64) {
        self.send(Order::Skip { boot_id: boot_id.to_owned(), sequence });
    }

    /// Boots that have windows here, the oldest first.
    pub async fn boots(&self) -> Vec<String> {
        let (answer, wait) = oneshot::channel();
        self.send(Order::Boots(answer));
        wait.await.unwrap_or_default()
    }

    /// Waits until everything appended so far is on disk.
    pub async fn flush(&self) {
        self.boots().await;
    }

    /// Changes with every window on disk.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.appended.clone()
    }

    /// A full queue drops the order; marks and questions come again.
    fn send(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            tracing::warn!("the telemetry spool does not keep up");
        }
    }
}

struct Thread {
    segments: Segments,
    tell: watch::Sender<u64>,
    metrics: Metrics,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            self.obey(order);
            self.metrics.set_spool_windows(self.segments.depth());
            self.metrics.add_lost_windows(self.segments.take_lost());
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Append(window) => {
                let window = akidb_proto::v1::Window::from(*window);
                if let Err(error) = self.segments.append(&window) {
                    tracing::error!(%error, sequence = window.sequence, "a telemetry window could not be written");
                }
                self.segments.sweep(window.end_ns);
                self.tell.send_replace(window.sequence);
            }
            Order::Pending { most, answer } => {
                let pending = self.segments.pending(most).unwrap_or_else(|error| {
                    tracing::error!(%error, "the telemetry spool cannot be read");
                    None
                });
                // Whoever asked may have gone.
                drop(answer.send(pending));
            }
            Order::Acknowledge { boot_id, mark, now_ns } => self.segments.acknowledge(&boot_id, mark, now_ns),
            Order::Skip { boot_id, sequence } => self.segments.skip(&boot_id, sequence),
            Order::Boots(answer) => drop(answer.send(self.segments.boots())),
        }
    }
}
