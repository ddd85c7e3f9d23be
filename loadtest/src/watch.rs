//! Memory and open files of a process while a run lasts.
//!
//! Enters: a process id. Leaves: samples over time and their slopes. Never: a write to that process.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// At most this many samples; over longer runs they are thinned by half and taken half as often.
const MOST_SAMPLES: usize = 7_200;

/// What to watch, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// Process.
    pub pid: u32,
    /// Between samples.
    pub every: Duration,
    /// Slopes are fitted from here on.
    pub slope_after: Duration,
    /// Sampling goes on this long after the load.
    pub settle: Duration,
}

/// One look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// Since the load began.
    pub seconds: f64,
    /// `VmRSS`.
    pub rss_bytes: u64,
    /// Entries of `/proc/PID/fd`.
    pub open_files: u64,
}

/// What was seen of a process.
#[derive(Debug, Clone, Serialize)]
pub struct Resources {
    /// Process.
    pub pid: u32,
    /// When the load ended; later samples show the settling.
    pub load_seconds: f64,
    /// Bytes at the start, at most, and at the end (after `--settle`).
    pub rss_first: u64,
    /// See `rss_first`.
    pub rss_peak: u64,
    /// See `rss_first`.
    pub rss_last: u64,
    /// The same of open files.
    pub files_first: u64,
    /// See `files_first`.
    pub files_peak: u64,
    /// See `files_first`.
    pub files_last: u64,
    /// Slopes are of samples from here to the end of the load.
    pub slope_after_seconds: f64,
    /// Least squares, MB (10^6 bytes) a minute; null with fewer than 3 samples.
    pub rss_slope_mb_per_minute: Option<f64>,
    /// Least squares, files a minute.
    pub files_slope_per_minute: Option<f64>,
    /// Whether the process ended while it was watched.
    pub ended: bool,
    /// In order of time.
    pub samples: Vec<Sample>,
}

/// Whether the process can be watched, and why not.
pub fn check(pid: u32) -> Result<(), String> {
    look(pid, 0.0).map(drop).map_err(|it| format!("--pid {pid}: it cannot be watched: {it}"))
}

/// Samples until told to stop.
pub async fn samples(watch: Watch, start: Instant, mut stop: oneshot::Receiver<()>) -> (Vec<Sample>, bool) {
    let (mut out, mut every) = (Vec::new(), watch.every);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = &mut stop => {
                let last = look(watch.pid, start.elapsed().as_secs_f64());
                let ended = last.is_err();
                out.extend(last);
                return (out, ended);
            }
            _ = ticks.tick() => match look(watch.pid, start.elapsed().as_secs_f64()) {
                Ok(sample) => out.push(sample),
                Err(_) => return (out, true),
            },
        }
        if out.len() >= MOST_SAMPLES {
            let mut odd = false;
            out.retain(|_| {
                odd = !odd;
                odd
            });
            every *= 2;
            ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        }
    }
}

impl Resources {
    /// Sums samples up; `None` without any.
    pub fn new(watch: Watch, load: Duration, samples: Vec<Sample>, ended: bool) -> Option<Self> {
        let (first, last) = (*samples.first()?, *samples.last()?);
        let (from, to) = (watch.slope_after.as_secs_f64(), load.as_secs_f64());
        let fitted: Vec<_> = samples.iter().filter(|it| (from..=to).contains(&it.seconds)).collect();
        let slope_of = |y: fn(&Sample) -> f64| slope(&fitted.iter().map(|it| (it.seconds / 60.0, y(it))).collect::<Vec<_>>());
        Some(Self {
            pid: watch.pid,
            load_seconds: to,
            rss_first: first.rss_bytes,
            rss_peak: samples.iter().map(|it| it.rss_bytes).max()?,
            rss_last: last.rss_bytes,
            files_first: first.open_files,
            files_peak: samples.iter().map(|it| it.open_files).max()?,
            files_last: last.open_files,
            slope_after_seconds: from,
            rss_slope_mb_per_minute: slope_of(|it| it.rss_bytes as f64 / 1e6),
            files_slope_per_minute: slope_of(|it| it.open_files as f64),
            ended,
            samples,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let slopes = match (self.rss_slope_mb_per_minute, self.files_slope_per_minute) {
            (Some(rss), Some(files)) => format!("slope after {:.0} s: {rss:+.3} MB/min, {files:+.2} files/min", self.slope_after_seconds),
            _ => format!("no slope: fewer than 3 samples after {:.0} s (--slope-after)", self.slope_after_seconds),
        };
        format!(
            "pid {}    RSS {:.1} MB first, {:.1} peak, {:.1} last; open files {} first, {} peak, {} last; {slopes}{}",
            self.pid,
            mb(self.rss_first),
            mb(self.rss_peak),
            mb(self.rss_last),
            self.files_first,
            self.files_peak,
            self.files_last,
            if self.ended { "; the process ENDED during the run" } else { "" }
        )
    }
}

fn look(pid: u32, seconds: f64) -> std::io::Result<Sample> {
    let folder = Path::new("/proc").join(pid.to_string());
    let status = std::fs::read_to_string(folder.join("status"))?;
    // A process that ended but was not waited for has no memory.
    let kib = status.lines().find_map(|it| it.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let kib = kib.ok_or_else(|| std::io::Error::other("it has no VmRSS: it ended, or is the kernel's"))?;
    let open_files = std::fs::read_dir(folder.join("fd"))?.count() as u64;
    Ok(Sample { seconds, rss_bytes: kib * 1024, open_files })
}

/// Slope of the least-squares line; `None` with fewer than 3 points or all at one time.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), it| (x + it.0 / n, y + it.1 / n));
    let (xy, xx) = points.iter().fold((0.0, 0.0), |(xy, xx), it| (xy + (it.0 - x) * (it.1 - y), xx + (it.0 - x).powi(2)));
    (points.len() >= 3 && xx > 0.0).then(|| xy / xx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_least_squares() {
        // By hand: means 1.5 and 2.75; 5.5 / 5.
        assert!((slope(&[(0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (3.0, 4.0)]).unwrap() - 1.1).abs() < 1e-12);
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    }

    #[test]
    fn slopes_leave_out_the_beginning_and_the_settling() {
        let watch = Watch { pid: 1, every: Duration::from_secs(30), slope_after: Duration::from_secs(60), settle: Duration::from_secs(60) };
        let sample = |seconds: f64, mb: u64| Sample { seconds, rss_bytes: mb * 1_000_000, open_files: 9 };
        let samples = vec![sample(0.0, 10), sample(60.0, 100), sample(120.0, 102), sample(180.0, 104), sample(240.0, 50)];
        let seen = Resources::new(watch, Duration::from_secs(180), samples, false).unwrap();
        assert!((seen.rss_slope_mb_per_minute.unwrap() - 2.0).abs() < 1e-9, "{}", seen.text());
        assert_eq!((seen.rss_first, seen.rss_peak, seen.rss_last), (10_000_000, 104_000_000, 50_000_000));
        assert!(seen.text().contains("slope after 60 s: +2.000 MB/min, +0.00 files/min"), "{}", seen.text());
    }

    #[tokio::test]
    async fn a_living_process_has_memory_and_files() {
        let me = std::process::id();
        let watch = Watch { pid: me, every: Duration::from_millis(5), slope_after: Duration::ZERO, settle: Duration::ZERO };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(samples(watch, Instant::now(), stopped));
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.send(()).unwrap();
        let (seen, ended) = task.await.unwrap();
        assert!(seen.len() >= 3 && !ended && seen.iter().all(|it| it.rss_bytes > 100_000 && it.open_files > 2), "{seen:?}");
        assert!(check(me).is_ok());
        assert!(check(u32::MAX).unwrap_err().contains("--pid 4294967295"));
    }
}
