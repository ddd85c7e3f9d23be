//! The store against a real S3 server and a real disk.

use std::sync::OnceLock;

use akidb_store::{ObjectUri, S3Options, Store, StoreError};
use akidb_testkit::S3Server;

/// One server for this file's tests; it holds the only credentials the process has.
fn server() -> &'static S3Server {
    static SERVER: OnceLock<S3Server> = OnceLock::new();
    SERVER.get_or_init(S3Server::start)
}

fn uri(text: &str) -> ObjectUri {
    text.parse().unwrap()
}

fn options(server: &S3Server) -> S3Options {
    S3Options { endpoint: Some(server.endpoint.clone()), region: Some("us-east-1".to_owned()), ..S3Options::default() }
}

fn client(server: &S3Server, secret: &str) -> Store {
    Store::with_keys(options(server), &server.access_key, secret)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_written_and_read_in_ranges() {
    let server = server();
    let store = client(server, &server.secret_key);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data");
    // Larger than one part, so that the multipart path runs.
    let bytes: Vec<u8> = (0..70_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    store.create_bucket("ranges").await.unwrap();
    for at in ["s3://ranges/a/data".to_owned(), format!("file://{}/copy/data", folder.path().display())] {
        let at = uri(&at);
        store.put_file(&file, &at).await.unwrap();
        assert_eq!(store.size(&at).await.unwrap(), 70_000_000, "{at}");
        let got = store.read_range(&at, 66_999_990..67_500_010).await.unwrap();
        assert!(got == bytes[66_999_990..67_500_010], "{at}");
        assert!(matches!(store.read_range(&at, 69_999_990..70_000_010).await, Err(StoreError::Short { got: 70_000_000, .. })), "{at}");
        assert!(matches!(store.read(&at, 1_000).await, Err(StoreError::TooLarge { size: 70_000_000, .. })), "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_says_what_and_why() {
    let server = server();
    let store = client(server, &server.secret_key);
    store.create_bucket("errors").await.unwrap();
    let missing = uri("s3://errors/none");
    assert!(matches!(store.size(&missing).await, Err(StoreError::NotFound { uri }) if uri == "s3://errors/none"));
    assert!(matches!(store.read_range(&missing, 0..4).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.size(&uri("s3://no-such-bucket/x")).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.size(&uri("file:///no/such/file")).await, Err(StoreError::NotFound { .. })));

    let intruder = client(server, "wrong");
    let refused = intruder.read_range(&missing, 0..4).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Denied { cause, .. } if cause == "SignatureDoesNotMatch"), "{refused}");
    assert!(!refused.to_string().contains("wrong"), "the secret is in `{refused}`");
    assert!(matches!(intruder.size(&missing).await, Err(StoreError::Denied { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_transient() {
    let port = akidb_testkit::free_port();
    let options = S3Options { endpoint: Some(format!("http://127.0.0.1:{port}")), ..S3Options::default() };
    let error = Store::with_keys(options, "k", "s").size(&uri("s3://b/k")).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_object_do_not_tread_on_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (file, at) = (folder.path().join("data"), uri(&format!("file://{}/kept/object", folder.path().display())));
    std::fs::write(&file, vec![7; 20_000_000]).unwrap();
    let store = Store::new(S3Options::default());
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (store, file, at) = (store.clone(), file.clone(), at.clone());
            tokio::spawn(async move { store.put_file(&file, &at).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
        assert_eq!(store.size(&at).await.unwrap(), 20_000_000, "never a half-written object under its final name");
    }
    assert_eq!(std::fs::read_dir(folder.path().join("kept")).unwrap().count(), 1, "nothing is left over");
}
