//! The OpenAPI document is the router: every documented call is answered, every call of the written contract is documented.

use serde_json::Value;

use crate::app::{TestApp, send};

#[test]
fn every_documented_call_is_answered() {
    let app = TestApp::start();
    let document = send(&format!("{}/api/openapi.json", app.rest), "", &[], "GET", None, "").expect(200);
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 25, "{}", paths.len());
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys().filter(|it| *it != "parameters") {
            let url = format!("{}{}", app.rest, path.replace(['{', '}'], ""));
            let method = method.to_uppercase();
            let body = matches!(method.as_str(), "POST" | "PUT").then(|| b"{".to_vec());
            let answer = send(&url, &app.admin, &[], &method, body, "application/json");
            let missing = answer.status == 404 && answer.text.contains("no such route");
            assert!(answer.status != 405 && !missing && answer.status != 500, "{method} {path}: {} {}", answer.status, answer.text);
        }
    }
}

/// The routes of `docs/API/control-plane.md`, as `METHOD /path`.
#[test]
fn the_written_contract_is_documented() {
    let app = TestApp::start();
    let document = send(&format!("{}/api/openapi.json", app.rest), "", &[], "GET", None, "").expect(200);
    let text = std::fs::read_to_string(akidb_testkit::root().join("docs/API/control-plane.md")).unwrap();
    let mut checked = 0;
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        for call in
            row.split(" | ").next().unwrap().split('`').filter(|it| it.contains(' ') && it.chars().next().is_some_and(char::is_uppercase))
        {
            let (methods, path) = call.split_once(' ').unwrap();
            for method in methods.split('/') {
                assert!(documented(&document, method, path), "{method} {path}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 30, "{checked}");
}

fn documented(document: &Value, method: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap().trim_start_matches("...");
    let paths = document["paths"].as_object().unwrap();
    paths.iter().any(|(there, methods)| {
        there.ends_with(&format!("/{}", path.trim_start_matches('/'))) && methods.get(method.to_lowercase()).is_some()
    })
}
