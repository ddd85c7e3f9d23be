//! What the log says of requests: nothing of their texts, unless that was asked for.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::{get, post, until};

/// What a sidecar with these settings logs while it answers some requests, as JSON lines.
fn log_of(settings: &str, level: &str, texts: &[String]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let port = akidb_testkit::free_port();
    let log = folder.path().join("log");
    let mut child = start(folder.path(), &format!("format = \"json\"\nlevel = \"{level}\"\n{settings}"), port, &log);
    let url = format!("http://127.0.0.1:{port}");
    until("a ready sidecar", || ureq::get(format!("{url}/readyz")).call().is_ok());
    assert_eq!(get(&format!("{url}/v1/models")).status, 200);
    for text in texts {
        assert_eq!(post(&format!("{url}/embed"), &json!({ "inputs": text })).status, 200);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::read_to_string(log).unwrap().lines().map(|it| serde_json::from_str(it).unwrap_or_else(|_| panic!("not JSON: {it}"))).collect()
}

fn start(folder: &Path, logs: &str, port: u16, log: &Path) -> Child {
    let (state, bundle) = (folder.join("state"), akidb_testkit::bundle());
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:{port}\"\nops_listen = \"127.0.0.1:0\"\n[storage]\nstate_folder = \"{}\"\n[logs]\n{logs}\n\
         [[embedding.models.available]]\nname = \"all-MiniLM-L6-v2\"\npath = \"{}\"\n",
        state.display(),
        bundle.display(),
    );
    let path = folder.join("config.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_akidb-sidecar"));
    command.arg("--config").arg(path).env("AKIDB_ONNXRUNTIME", akidb_testkit::onnxruntime());
    command.stdin(Stdio::null()).stderr(std::fs::File::create(log).unwrap()).spawn().unwrap()
}

/// What `grep "embed_request" | jq -r '.text'` prints.
fn grepped(lines: &[Value]) -> Vec<String> {
    let found = lines.iter().filter(|it| it.to_string().contains("embed_request"));
    found.map(|it| it["text"].as_str().unwrap_or_else(|| panic!("no text: {it}")).to_owned()).collect()
}

#[test]
fn texts_are_logged_only_on_request_and_within_bounds() {
    let texts: Vec<String> = (0..5).map(|it| format!("secret text number {it}")).collect();
    let quiet = log_of("", "info", &texts);
    assert!(!quiet.iter().any(|it| it.to_string().contains("secret") || it.to_string().contains("was answered")), "{quiet:?}");

    let all = log_of("embed_request_sample = 1.0\nembed_request_per_second = 3\nembed_request_max_bytes = 20", "info", &texts);
    let found = grepped(&all);
    // Three at once; time for a fourth or more may pass.
    assert!(
        (3..=5).contains(&found.len()) && found[..3] == texts[..3].iter().map(|it| it[..20].to_owned()).collect::<Vec<_>>(),
        "{found:?}"
    );
}

#[test]
fn one_line_a_request_at_debug() {
    let texts: Vec<String> = (0..3).map(|it| format!("secret text number {it}")).collect();
    let lines = log_of("", "info,akidb_sidecar=debug", &texts);
    let answered: Vec<&Value> = lines.iter().filter(|it| it["message"] == "a request was answered").collect();
    assert_eq!(answered.len(), 3, "{lines:?}");
    assert_eq!((&answered[0]["variant"], &answered[0]["texts"], &answered[0]["tokens"]), (&json!("fp32"), &json!(1), &json!(6)));
    assert!(!lines.iter().any(|it| it.to_string().contains("secret")));
}
