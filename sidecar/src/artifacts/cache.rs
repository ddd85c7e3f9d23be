//! What is on disk. Enters: verified files. Leaves: folders of hard links. Never: an eviction of a pinned artifact.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use akidb_domain::bundle::BundleFile;
use sha2::{Digest, Sha256};

/// The files of a cache folder.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    /// The last process that used the folder ended in good order.
    clean: bool,
    blobs: BTreeMap<String, Blob>,
}

#[derive(Debug, Clone, Copy)]
struct Blob {
    bytes: u64,
    verified: bool,
}

/// What is known of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Trust {
    /// Hashed by this process, or by the last one, which ended well, and untouched since.
    Verified,
    /// Here, but to be hashed.
    Unsure(PathBuf),
    /// Not here.
    Absent,
}

/// Where a verified file lies.
pub fn blob(folder: &Path, sha256: &str) -> PathBuf {
    folder.join("sha256").join(sha256.get(..2).unwrap_or("xx")).join(sha256)
}

/// Where an artifact's files lie under their real names.
pub fn view(folder: &Path, digest: &str) -> PathBuf {
    folder.join("artifacts").join(digest)
}

/// A file's SHA-256, lower-case hex.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

impl Cache {
    /// Reads what is there.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        for name in ["partial", "sha256", "artifacts"] {
            fs::create_dir_all(folder.join(name))?;
        }
        // Gone until the process ends in good order.
        let clean = fs::remove_file(folder.join("clean")).is_ok();
        let mut blobs = BTreeMap::new();
        for prefix in fs::read_dir(folder.join("sha256"))? {
            for entry in fs::read_dir(prefix?.path())? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.len() == 64 {
                    blobs.insert(name, Blob { bytes: entry.metadata()?.len(), verified: false });
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), limit, clean, blobs })
    }

    /// Bytes of verified files.
    pub fn bytes(&self) -> u64 {
        self.blobs.values().map(|it| it.bytes).sum()
    }

    /// Most bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is known of a file.
    pub fn trusts(&mut self, file: &BundleFile) -> Trust {
        let path = blob(&self.folder, &file.sha256);
        let Some(known) = self.blobs.get_mut(&file.sha256) else { return Trust::Absent };
        match fs::metadata(&path) {
            Ok(meta) if meta.len() == file.bytes => {
                known.verified |= self.clean && fs::read_to_string(record(&path)).is_ok_and(|it| it == stamp(&meta));
                if known.verified { Trust::Verified } else { Trust::Unsure(path) }
            }
            _ => {
                self.forget(&file.sha256);
                Trust::Absent
            }
        }
    }

    /// Takes in a file that was just verified and lies where [`blob`] says.
    pub fn add(&mut self, file: &BundleFile) -> io::Result<()> {
        let path = blob(&self.folder, &file.sha256);
        fs::write(record(&path), stamp(&fs::metadata(&path)?))?;
        self.blobs.insert(file.sha256.clone(), Blob { bytes: file.bytes, verified: true });
        Ok(())
    }

    /// Drops a file.
    pub fn forget(&mut self, sha256: &str) {
        let path = blob(&self.folder, sha256);
        // What is gone already need not be removed.
        drop(fs::remove_file(record(&path)));
        drop(fs::remove_file(path));
        self.blobs.remove(sha256);
    }

    /// Makes the folder of an artifact, all files being here. Its time is when it was last used.
    pub fn link(&self, digest: &str, files: &[BundleFile]) -> io::Result<()> {
        let folder = view(&self.folder, digest);
        for file in files {
            let (from, to) = (blob(&self.folder, &file.sha256), folder.join(&file.path));
            if same_file(&from, &to) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            // An older link of that name may point at a file that was replaced.
            drop(fs::remove_file(&to));
            fs::hard_link(&from, &to)?;
        }
        let list: Vec<&str> = files.iter().map(|it| it.sha256.as_str()).collect();
        fs::write(folder.join(FILES), list.join("\n"))
    }

    /// Evicts artifacts, least recently used first, until `wanted` more bytes fit. What cannot be: the bytes in use.
    pub fn make_room(&mut self, wanted: u64, pinned: &[String]) -> Option<u64> {
        let mut views = self.views();
        views.sort_by_key(|it| it.used);
        let mut idle: std::collections::VecDeque<View> = views.iter().filter(|it| !pinned.contains(&it.digest)).cloned().collect();
        while self.bytes() + wanted > self.limit {
            let Some(victim) = idle.pop_front() else {
                self.drop_unlinked(&views, wanted);
                return (self.bytes() + wanted > self.limit).then(|| self.bytes());
            };
            tracing::info!(artifact = victim.digest, "evicted from the cache");
            // Left-overs are taken again by the next eviction.
            drop(fs::remove_dir_all(view(&self.folder, &victim.digest)));
            views.retain(|it| it.digest != victim.digest);
            let unused = victim.files.iter().filter(|file| !views.iter().any(|it| it.files.contains(file)));
            for sha256 in unused.cloned().collect::<Vec<_>>() {
                self.forget(&sha256);
            }
        }
        None
    }

    /// Notes that the process ends in good order.
    pub fn close(&mut self) -> io::Result<()> {
        fs::write(self.folder.join("clean"), "")
    }

    /// Files of downloads that never became an artifact; never those of the last few minutes, whose artifact may be on its way.
    fn drop_unlinked(&mut self, views: &[View], wanted: u64) {
        let recent = |sha256: &str| {
            let changed = fs::metadata(blob(&self.folder, sha256)).and_then(|it| it.modified());
            changed.is_ok_and(|it| it.elapsed().is_ok_and(|age| age.as_secs() < 3_600))
        };
        let loose = |it: &&String| !views.iter().any(|view| view.files.contains(*it)) && !recent(it);
        for sha256 in self.blobs.keys().filter(loose).cloned().collect::<Vec<_>>() {
            if self.bytes() + wanted > self.limit {
                self.forget(&sha256);
            }
        }
    }

    fn views(&self) -> Vec<View> {
        let Ok(entries) = fs::read_dir(self.folder.join("artifacts")) else { return Vec::new() };
        let view = |entry: fs::DirEntry| {
            let list = entry.path().join(FILES);
            let files = fs::read_to_string(&list).unwrap_or_default().lines().map(str::to_owned).collect();
            let used = fs::metadata(&list).and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            View { digest: entry.file_name().to_string_lossy().into_owned(), files, used }
        };
        entries.flatten().map(view).collect()
    }
}

/// Which verified files an artifact's folder links to.
const FILES: &str = ".files";

#[derive(Debug, Clone)]
struct View {
    digest: String,
    files: Vec<String>,
    used: SystemTime,
}

fn record(blob: &Path) -> PathBuf {
    blob.with_extension("ok")
}

fn stamp(meta: &fs::Metadata) -> String {
    let modified = meta.modified().ok().and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{} {}", meta.len(), modified.as_nanos())
}

fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((fs::metadata(a), fs::metadata(b)), (Ok(a), Ok(b)) if a.ino() == b.ino() && a.dev() == b.dev())
}
