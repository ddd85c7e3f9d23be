//! Windows on disk. Enters: encoded windows, marks. Leaves: what is above a mark. Never: a record after a torn one; a torn tail is cut
//! off and counted.
//!
//! ```text
//! <state>/spool/<boot time, 20 digits>-<boot id>/<first sequence, 20 digits>.seg
//! record: length u32 LE, crc32 u32 LE, akidb.v1.Window
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use akidb_proto::{v1, window_from_bytes, window_to_bytes};

/// A segment is closed at this size, or at an eighth of the spool's limit.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Acknowledged windows are kept this long, for a control plane restored from an older copy.
const KEEP_NS: u64 = 3_600_000_000_000;
/// Largest window that is believed.
const MAX_RECORD: usize = akidb_proto::MAX_MESSAGE_BYTES;

/// The spool's files.
#[derive(Debug)]
pub struct Segments {
    folder: PathBuf,
    limit: u64,
    /// Ours.
    own: BootKey,
    boots: BTreeMap<BootKey, Boot>,
    open: Option<File>,
    /// Windows that no acknowledgement will ever cover: dropped for want of room, torn or unwritten.
    lost: u64,
}

/// Orders boots by age.
pub type BootKey = (u64, String);

#[derive(Debug, Default)]
struct Boot {
    segments: Vec<Segment>,
    /// Acknowledged.
    mark: u64,
    /// Given up.
    skipped: BTreeSet<u64>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    first: u64,
    last: u64,
    bytes: u64,
    newest_ns: u64,
}

/// What to report next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pending {
    /// Boot that it is of.
    pub boot_id: String,
    /// Its zero.
    pub boot_unix_ns: u64,
    /// Consecutive windows.
    pub windows: Vec<v1::Window>,
    /// Windows up to this one are gone for good.
    pub lost_through: u64,
}

impl Segments {
    /// Reads what earlier boots left, and starts this one's.
    pub fn open(folder: &Path, limit: u64, boot_id: &str, boot_unix_ns: u64) -> io::Result<Self> {
        let own = (boot_unix_ns, boot_id.to_owned());
        let mut segments = Self { folder: folder.to_owned(), limit, own, boots: BTreeMap::new(), open: None, lost: 0 };
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((at, id)) = name.split_once('-')
                && let Ok(at) = at.parse()
            {
                let boot = segments.recover(&entry.path())?;
                segments.boots.insert((at, id.to_owned()), boot);
            }
        }
        segments.boots.entry(segments.own.clone()).or_default();
        fs::create_dir_all(segments.boot_folder(&segments.own))?;
        Ok(segments)
    }

    /// Writes a window and waits for the disk.
    pub fn append(&mut self, window: &v1::Window) -> io::Result<()> {
        let written = self.write(window);
        if written.is_err() {
            self.lost += 1;
            // What was written of it is cut off when the segment is read; the next window starts a new one.
            self.open = None;
        }
        self.bound();
        written
    }

    /// The oldest boot's windows above its mark, at most `most`.
    pub fn pending(&self, most: usize) -> io::Result<Option<Pending>> {
        for (key, boot) in &self.boots {
            let pending = boot.pending(key, most)?;
            if pending.is_some() {
                return Ok(pending);
            }
        }
        Ok(None)
    }

    /// Sets a boot's mark: everything up to it is counted. It may go back.
    pub fn acknowledge(&mut self, boot_id: &str, mark: u64, now_ns: u64) {
        if let Some(boot) = self.boots.iter_mut().find(|(key, _)| key.1 == boot_id).map(|(_, it)| it) {
            boot.mark = mark;
            boot.skipped.retain(|it| *it > mark);
        }
        self.sweep(now_ns);
    }

    /// Gives a window up: nobody takes it.
    pub fn skip(&mut self, boot_id: &str, sequence: u64) {
        if let Some(boot) = self.boots.iter_mut().find(|(key, _)| key.1 == boot_id).map(|(_, it)| it) {
            self.lost += u64::from(boot.skipped.insert(sequence));
        }
    }

    /// Boots that have windows here, the oldest first.
    pub fn boots(&self) -> Vec<String> {
        self.boots.iter().filter(|(key, it)| **key == self.own || !it.segments.is_empty()).map(|(key, _)| key.1.clone()).collect()
    }

    /// Windows above their boots' marks.
    pub fn depth(&self) -> u64 {
        let above = |boot: &Boot| boot.segments.iter().map(|it| it.last.saturating_sub(boot.mark.max(it.first - 1))).sum::<u64>();
        self.boots.values().map(above).sum()
    }

    /// Windows lost since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Drops what is acknowledged and older than an hour.
    pub fn sweep(&mut self, now_ns: u64) {
        let own = self.own.clone();
        for (key, boot) in &mut self.boots {
            let mark = boot.mark;
            let open = if *key == own { boot.segments.last().map(|it| it.first) } else { None };
            boot.segments.retain(|it| it.last > mark || it.newest_ns + KEEP_NS > now_ns || Some(it.first) == open || !removed(&it.path));
        }
        let empty: Vec<BootKey> =
            self.boots.iter().filter(|(key, it)| **key != own && it.segments.is_empty()).map(|(key, _)| key.clone()).collect();
        for key in empty {
            // A folder that something else lies in stays.
            drop(fs::remove_dir(self.boot_folder(&key)));
            self.boots.remove(&key);
        }
    }

    fn write(&mut self, window: &v1::Window) -> io::Result<()> {
        let payload = window_to_bytes(window);
        let mut record = Vec::with_capacity(payload.len() + 8);
        record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        record.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        record.extend_from_slice(&payload);
        let roll = SEGMENT_BYTES.min(self.limit / 8);
        let folder = self.boot_folder(&self.own);
        let boot = self.boots.entry(self.own.clone()).or_default();
        if self.open.is_none() || boot.segments.last().is_none_or(|it| it.bytes + record.len() as u64 > roll) {
            let path = folder.join(format!("{:020}.seg", window.sequence));
            self.open = Some(File::options().create(true).write(true).truncate(true).open(&path)?);
            File::open(&folder)?.sync_all()?;
            let (first, last) = (window.sequence, window.sequence.saturating_sub(1));
            boot.segments.push(Segment { path, first, last, bytes: 0, newest_ns: window.end_ns });
        }
        let (Some(file), Some(segment)) = (&mut self.open, boot.segments.last_mut()) else { return Ok(()) };
        file.write_all(&record)?;
        file.sync_data()?;
        (segment.last, segment.newest_ns) = (window.sequence, window.end_ns);
        segment.bytes += record.len() as u64;
        Ok(())
    }

    /// Drops the oldest segments while there is too much.
    fn bound(&mut self) {
        let bytes = |boots: &BTreeMap<BootKey, Boot>| boots.values().flat_map(|it| &it.segments).map(|it| it.bytes).sum::<u64>();
        while bytes(&self.boots) > self.limit {
            let own = self.own.clone();
            let oldest = self.boots.iter_mut().find(|(key, it)| it.segments.len() > usize::from(**key == own));
            let Some((_, boot)) = oldest else { return };
            let segment = boot.segments.remove(0);
            removed(&segment.path);
            self.lost += segment.last.saturating_sub(boot.mark.max(segment.first - 1));
        }
    }

    fn recover(&mut self, folder: &Path) -> io::Result<Boot> {
        let mut boot = Boot::default();
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder)?.flatten().map(|it| it.path()).filter(|it| it.extension().is_some_and(|it| it == "seg")).collect();
        paths.sort();
        for path in paths {
            let (windows, good, torn) = read_segment(&path)?;
            if torn {
                self.lost += 1;
                File::options().write(true).open(&path)?.set_len(good)?;
                tracing::warn!(path = %path.display(), "a torn record was cut off the telemetry spool");
            }
            match (windows.first(), windows.last()) {
                (Some(first), Some(last)) => {
                    boot.segments.push(Segment { first: first.sequence, last: last.sequence, bytes: good, newest_ns: last.end_ns, path });
                }
                _ => drop(removed(&path)),
            }
        }
        Ok(boot)
    }

    fn boot_folder(&self, (at, id): &BootKey) -> PathBuf {
        self.folder.join(format!("{at:020}-{id}"))
    }
}

impl Boot {
    fn pending(&self, (boot_unix_ns, boot_id): &BootKey, most: usize) -> io::Result<Option<Pending>> {
        let mut pending = Pending { boot_id: boot_id.clone(), boot_unix_ns: *boot_unix_ns, ..Pending::default() };
        let mut next = self.mark + 1;
        'segments: for segment in self.segments.iter().filter(|it| it.last > self.mark) {
            for window in read_segment(&segment.path)?.0 {
                if window.sequence <= self.mark || self.skipped.contains(&window.sequence) {
                    continue;
                }
                if pending.windows.is_empty() {
                    pending.lost_through = if window.sequence > next { window.sequence - 1 } else { 0 };
                } else if window.sequence != next || pending.windows.len() >= most {
                    break 'segments;
                }
                next = window.sequence + 1;
                pending.windows.push(window);
            }
        }
        if pending.windows.is_empty() {
            pending.lost_through = self.skipped.last().copied().unwrap_or(0);
        }
        let something = !pending.windows.is_empty() || pending.lost_through > self.mark;
        Ok(something.then_some(pending))
    }
}

/// Whole records of a segment, the bytes they take, and whether something torn follows.
fn read_segment(path: &Path) -> io::Result<(Vec<v1::Window>, u64, bool)> {
    let bytes = fs::read(path)?;
    let (mut windows, mut at) = (Vec::new(), 0);
    while let Some((window, end)) = read_record(&bytes, at) {
        windows.push(window);
        at = end;
    }
    Ok((windows, at as u64, at < bytes.len()))
}

fn read_record(bytes: &[u8], at: usize) -> Option<(v1::Window, usize)> {
    let number = |at: usize| bytes.get(at..at + 4).and_then(|it| it.try_into().ok()).map(u32::from_le_bytes);
    let (length, crc) = (number(at)? as usize, number(at + 4)?);
    let payload = bytes.get(at + 8..(at + 8).checked_add(length.min(MAX_RECORD))?)?;
    if payload.len() != length || crc32fast::hash(payload) != crc {
        return None;
    }
    Some((window_from_bytes(payload)?, at + 8 + length))
}

fn removed(path: &Path) -> bool {
    let gone = fs::remove_file(path);
    if let Err(error) = &gone {
        tracing::warn!(path = %path.display(), %error, "a spool segment cannot be removed");
    }
    gone.is_ok()
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
