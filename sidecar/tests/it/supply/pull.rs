//! Artifacts from a real S3 server, broken off, refused, forged, without room.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use akidb_domain::bundle::Manifest;
use akidb_domain::snapshot::{ServedArtifact, ServedFile};
use akidb_sidecar::artifacts::Artifacts;
use akidb_sidecar::metrics::Metrics;
use akidb_store::{ObjectUri, S3Options, Store};
use akidb_testkit::S3Server;

use super::{Bundle, Sidecar, config, entry};

/// The server of this file's tests, with the bundle in it.
async fn server() -> (&'static S3Server, Store) {
    static SERVER: OnceLock<S3Server> = OnceLock::new();
    static FILLED: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(S3Server::start)).await.unwrap();
    let store = client(server, &server.secret_key);
    FILLED
        .get_or_init(|| async {
            store.create_bucket("models").await.unwrap();
            for file in ["manifest.json", "model.onnx", "reference.json", "tokenizer.json"] {
                let to: ObjectUri = format!("s3://models/minilm/{file}").parse().unwrap();
                store.put_file(&akidb_testkit::bundle().join(file), &to).await.unwrap();
            }
        })
        .await;
    (server, store)
}

fn client(server: &S3Server, secret: &str) -> Store {
    let options = S3Options { endpoint: Some(server.endpoint.clone()), region: Some("us-east-1".into()), ..S3Options::default() };
    Store::with_keys(options, &server.access_key, secret)
}

fn artifact(at: &str) -> ServedArtifact {
    let manifest = Manifest::parse(&std::fs::read(akidb_testkit::bundle().join("manifest.json")).unwrap()).unwrap();
    let files = manifest.files.iter().map(|it| ServedFile { uri: format!("{at}/{}", it.path), file: it.clone() }).collect();
    ServedArtifact { digest: manifest.digest(), target: manifest.target.clone(), graph: manifest.graph.clone(), files }
}

fn artifacts(cache: &Path, limit: u64, store: Store) -> Artifacts {
    Artifacts::open(cache, limit, store, Metrics::new().unwrap()).unwrap()
}

/// Publishes the bundle as `make models PUBLISH=` does; answers where it then is.
fn publish(server: &S3Server) -> String {
    const PUBLISH: &str = "import sys, pathlib; from akidb_tools.publish import Publisher
print(Publisher(sys.argv[1], print).publish(pathlib.Path(sys.argv[2])).uri)";
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    let mut python = Command::new(akidb_testkit::venv_program("python"));
    python.args(["-c", PUBLISH, "s3://models/published"]).arg(akidb_testkit::bundle());
    let output = python.envs(server.env()).env("PYTHONPATH", scripts).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_serves_what_was_published_to_s3_and_then_without_it() {
    let (server, store) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let uri = tokio::task::spawn_blocking(|| publish(server)).await.unwrap();
    assert!(uri.starts_with("s3://models/published/all-MiniLM-L6-v2/fp32/"), "{uri}");
    let entry = entry(&uri, "");
    let sidecar = Sidecar::start(config(folder.path(), &entry), Some(store)).await.unwrap();
    sidecar.ready("fp32").await;
    sidecar.embed_ok().await;
    sidecar.stop().await;

    let nowhere = S3Options { endpoint: Some(format!("http://127.0.0.1:{}", akidb_testkit::free_port())), ..S3Options::default() };
    let away = Store::with_keys(nowhere, &server.access_key, &server.secret_key);
    let sidecar = Sidecar::start(config(folder.path(), &entry), Some(away)).await.unwrap();
    sidecar.ready("fp32").await;
    sidecar.embed_ok().await;
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_broke_off_goes_on_where_it_was() {
    let (_, store) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let artifact = artifact("s3://models/minilm");
    let (first, work) = (artifacts(folder.path(), 1 << 30, store.clone()), artifact.clone());
    let ((half, got), (aborted, go_on)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let (half, go_on) = (Mutex::new(half), Mutex::new(go_on));
    let pull = tokio::spawn(async move {
        // It stays in its middle until it has been aborted.
        let progress = move |done: u64, _| {
            if done >= 16 << 20 {
                half.lock().unwrap().send(()).ok();
                go_on.lock().unwrap().recv().ok();
            }
        };
        first.pull(&work, "m", &progress).await.map(|it| it.folder.clone())
    });
    tokio::task::spawn_blocking(move || got.recv_timeout(Duration::from_secs(120)).expect("a part of the file")).await.unwrap();
    pull.abort();
    drop(aborted);
    assert!(pull.await.unwrap_err().is_cancelled());

    let second = artifacts(folder.path(), 1 << 30, store);
    let steps = Mutex::new(Vec::new());
    let view = second.pull(&artifact, "m", &|done, total| steps.lock().unwrap().push((done, total))).await.unwrap();
    let steps = steps.into_inner().unwrap();
    let total: u64 = artifact.files.iter().map(|it| it.file.bytes).sum();
    assert!(steps[0] == (0, total) && steps[1].0 >= 16 << 20 && steps[1].0 < total, "{steps:?}");
    assert_eq!(steps.last(), Some(&(total, total)));
    assert_eq!(std::fs::metadata(view.folder.join("model.onnx")).unwrap().len(), 90_290_960);
    assert_eq!(std::fs::read_dir(folder.path().join("partial")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_callers_cause_one_download() {
    let (_, store) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let (artifacts, artifact) = (artifacts(folder.path(), 1 << 30, store), artifact("s3://models/minilm"));
    let (steps, count) = (AtomicU64::new(0), |_, _| ());
    let counted = |_, _| {
        steps.fetch_add(1, Ordering::SeqCst);
    };
    let (a, b) = tokio::join!(artifacts.pull(&artifact, "a", &count), artifacts.pull(&artifact, "b", &counted));
    assert_eq!(a.unwrap().folder, b.unwrap().folder);
    assert!(steps.load(Ordering::SeqCst) <= 16, "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_and_a_missing_object_say_so() {
    let (server, store) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let refused =
        artifacts(folder.path(), 1 << 30, client(server, "wrong")).pull(&artifact("s3://models/minilm"), "`m@fp32`", &|_, _| ()).await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains("`m@fp32`") && refused.contains("SignatureDoesNotMatch") && refused.contains("s3://models/minilm/"),
        "{refused}"
    );
    let missing = artifacts(folder.path(), 1 << 30, store).pull(&artifact("s3://models/none"), "`m@fp32`", &|_, _| ()).await;
    let missing = missing.err().unwrap().to_string();
    assert!(missing.contains("`s3://models/none/model.onnx` does not exist"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_is_checked_again_after_an_unclean_end() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::copy(&folder.path().join("bundle"));
    let (cache, artifact) = (folder.path().join("cache"), artifact(&bundle.uri()));
    let store = Store::new(S3Options::default());
    let first = artifacts(&cache, 1 << 30, store.clone());
    let model = first.pull(&artifact, "m", &|_, _| ()).await.unwrap().folder.join("model.onnx");
    // No `close`: as after a crash. A byte turns on the disk.
    let mut bytes = std::fs::read(&model).unwrap();
    bytes[1_000] ^= 1;
    std::fs::write(&model, bytes).unwrap();
    let second = artifacts(&cache, 1 << 30, store);
    let view = second.pull(&artifact, "m", &|_, _| ()).await.unwrap();
    let good = std::fs::read(akidb_testkit::bundle().join("model.onnx")).unwrap();
    assert!(std::fs::read(view.folder.join("model.onnx")).unwrap() == good);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_evicts_what_nobody_uses_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(S3Options::default());
    let artifacts = artifacts(&folder.path().join("cache"), 1_000, store);
    let make = |name: &str, byte: u8| {
        let path = folder.path().join(name);
        std::fs::write(&path, vec![byte; 400]).unwrap();
        let sha256 = akidb_sidecar::artifacts::cache::sha256_of(&path).unwrap();
        let mut artifact = artifact("file:///x");
        artifact.files.truncate(1);
        artifact.files[0].uri = format!("file://{}", path.display());
        (artifact.files[0].file.bytes, artifact.files[0].file.sha256) = (400, sha256.clone());
        artifact.digest = sha256;
        artifact
    };
    let (a, b, c) = (make("a", 1), make("b", 2), make("c", 3));
    let pulled_a = artifacts.pull(&a, "a", &|_, _| ()).await.unwrap();
    drop(artifacts.pull(&b, "b", &|_, _| ()).await.unwrap());
    let pulled_c = artifacts.pull(&c, "c", &|_, _| ()).await.unwrap();
    assert_eq!((artifacts.is_cached(&a), artifacts.is_cached(&b), artifacts.is_cached(&c)), (true, false, true));
    let full = artifacts.pull(&b, "b", &|_, _| ()).await.err().unwrap().to_string();
    assert!(full.contains("needs 400 bytes") && full.contains("1000") && full.contains("800 are in use"), "{full}");
    drop((pulled_a, pulled_c));
    artifacts.pull(&b, "b", &|_, _| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=20m", "tmpfs"]).arg(&disk).status().is_ok_and(|it| it.success());
    if !mounted {
        eprintln!("not tried: mounting a small disk needs root");
        return;
    }
    let artifacts = artifacts(&disk, 1 << 30, Store::new(S3Options::default()));
    let at = format!("file://{}", akidb_testkit::bundle().display());
    let full = artifacts.pull(&artifact(&at), "`m@fp32`", &|_, _| ()).await.err().map(|it| it.to_string());
    assert!(Command::new("umount").arg("-l").arg(&disk).status().unwrap().success());
    let full = full.unwrap();
    assert!(full.contains("`m@fp32`") && full.contains("`model.onnx`: no space left on the disk under"), "{full}");
}
