//! The spool on a real disk.

use super::*;

const BOOT: u64 = 1_700_000_000_000_000_000;

fn window(sequence: u64) -> v1::Window {
    v1::Window { sequence, end_ns: BOOT + sequence, ..v1::Window::default() }
}

fn fill(segments: &mut Segments, sequences: std::ops::RangeInclusive<u64>) {
    sequences.for_each(|it| segments.append(&window(it)).unwrap());
}

fn sequences(pending: &Pending) -> Vec<u64> {
    pending.windows.iter().map(|it| it.sequence).collect()
}

fn only_segment(folder: &Path) -> PathBuf {
    let boot = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    fs::read_dir(boot).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn a_torn_tail_is_cut_off_and_counted_and_the_rest_survives() {
    let folder = tempfile::tempdir().unwrap();
    fill(&mut Segments::open(folder.path(), 1 << 20, "one", BOOT).unwrap(), 1..=5);
    let path = only_segment(folder.path());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let mut segments = Segments::open(folder.path(), 1 << 20, "two", BOOT + 9).unwrap();
    let pending = segments.pending(64).unwrap().unwrap();
    assert_eq!((pending.boot_id.as_str(), sequences(&pending), segments.take_lost()), ("one", vec![1, 2, 3, 4], 1));
}

#[test]
fn older_boots_drain_first_and_marks_may_go_back() {
    let folder = tempfile::tempdir().unwrap();
    fill(&mut Segments::open(folder.path(), 1 << 20, "one", BOOT).unwrap(), 1..=3);
    let mut segments = Segments::open(folder.path(), 1 << 20, "two", BOOT + 9).unwrap();
    fill(&mut segments, 1..=100);
    assert_eq!((segments.boots(), segments.depth()), (vec!["one".to_owned(), "two".to_owned()], 103));
    assert_eq!(sequences(&segments.pending(2).unwrap().unwrap()), [1, 2]);
    segments.acknowledge("one", 3, BOOT);
    let pending = segments.pending(64).unwrap().unwrap();
    assert_eq!((pending.boot_id.as_str(), pending.windows.len()), ("two", 64));
    segments.acknowledge("two", 100, BOOT);
    assert_eq!(segments.pending(64).unwrap(), None);
    segments.acknowledge("two", 98, BOOT);
    assert_eq!(sequences(&segments.pending(64).unwrap().unwrap()), [99, 100]);
}

#[test]
fn acknowledged_windows_go_after_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    fill(&mut Segments::open(folder.path(), 1 << 20, "one", BOOT).unwrap(), 1..=3);
    let mut segments = Segments::open(folder.path(), 1 << 20, "two", BOOT + 9).unwrap();
    segments.acknowledge("one", 3, BOOT + KEEP_NS);
    assert_eq!(segments.boots(), ["one", "two"]);
    segments.sweep(BOOT + KEEP_NS + 4);
    assert_eq!(segments.boots(), ["two"]);
}

#[test]
fn a_full_spool_drops_the_oldest_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut segments = Segments::open(folder.path(), 2_000, "one", BOOT).unwrap();
    fill(&mut segments, 1..=500);
    let (lost, pending) = (segments.take_lost(), segments.pending(64).unwrap().unwrap());
    assert!(lost > 100 && pending.lost_through == lost && pending.windows[0].sequence == lost + 1, "{lost} {pending:?}");
}

#[test]
fn a_window_nobody_takes_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let mut segments = Segments::open(folder.path(), 1 << 20, "one", BOOT).unwrap();
    fill(&mut segments, 1..=3);
    segments.skip("one", 2);
    assert_eq!(sequences(&segments.pending(64).unwrap().unwrap()), [1]);
    segments.acknowledge("one", 1, BOOT);
    let pending = segments.pending(64).unwrap().unwrap();
    assert_eq!((sequences(&pending), pending.lost_through), (vec![3], 2));
    segments.skip("one", 3);
    let pending = segments.pending(64).unwrap().unwrap();
    assert_eq!((sequences(&pending), pending.lost_through), (vec![], 3));
}
