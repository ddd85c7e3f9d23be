//! Tokens, roles and the audit log.

use serde_json::json;

use crate::app::{TestApp, send};

#[test]
fn roles_are_kept_apart() {
    let app = TestApp::start();
    let (viewer, sidecar) = (app.token("viewer", "", ""), app.token("sidecar", "ns", "app"));
    app.call_as("", &[], "GET", "models", None).refused(401, "unauthenticated");
    app.call_as("akidb_00_11", &[], "GET", "models", None).refused(401, "unauthenticated");
    app.call_as(&viewer, &[], "GET", "models", None).expect(200);
    app.call_as(&viewer, &[], "POST", "models", Some(&json!({"name": "m"}))).refused(403, "forbidden");
    app.call_as(&sidecar, &[], "GET", "models", None).refused(403, "forbidden");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&app.config.admin_token_file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    for open in ["healthz", "readyz", "metrics", "api/openapi.json"] {
        assert_eq!(send(&format!("{}/{open}", app.rest), "", &[], "GET", None, "").status, 200, "{open}");
    }
}

#[test]
fn a_revoked_token_is_worth_nothing_and_the_last_admin_stays() {
    let app = TestApp::start();
    let viewer = app.token("viewer", "", "");
    let tokens = app.get("tokens");
    let id =
        |role: &str| tokens["tokens"].as_array().unwrap().iter().find(|it| it["role"] == role).unwrap()["id"].as_str().unwrap().to_owned();
    assert!(!tokens.to_string().contains(viewer.rsplit_once('_').unwrap().1), "no secret is shown twice");
    assert_eq!(app.call("DELETE", &format!("tokens/{}", id("viewer")), None).status, 204);
    app.call_as(&viewer, &[], "GET", "models", None).refused(401, "unauthenticated");
    app.call("DELETE", &format!("tokens/{}", id("admin")), None).refused(409, "conflict");
    app.call("POST", "tokens", Some(&json!({"name": "v", "role": "viewer", "namespace": "n"}))).refused(422, "invalid");
}

#[test]
fn guessing_is_slowed_down() {
    let app = TestApp::start();
    // Ten a second are answered: that many guessers at once are more on however slow a machine.
    let guess = || app.call_as("akidb_00_11", &[], "GET", "models", None).status;
    let slowed = (0..50).any(|_| {
        std::thread::scope(|scope| {
            let guesses: Vec<_> = (0..60).map(|_| scope.spawn(guess)).collect();
            guesses.into_iter().any(|it| it.join().unwrap() == 429)
        })
    });
    assert!(slowed);
    app.get("models");
}

#[test]
fn every_change_is_in_the_log_and_a_forged_row_is_found() {
    let mut app = TestApp::start();
    app.post("models", &json!({"name": "m"}));
    app.call("DELETE", "models/m", None);
    let actions: Vec<String> =
        app.get("audit")["audit"].as_array().unwrap().iter().map(|it| it["action"].as_str().unwrap().to_owned()).collect();
    assert_eq!(actions, ["token.create", "model.create", "model.delete"]);
    assert_eq!(app.get("audit/verify")["valid"], true);
    app.stop();
    app.runtime.block_on(async {
        use sqlx::Connection;
        let mut conn =
            sqlx::SqliteConnection::connect(&format!("sqlite://{}", app.config.data_dir.join("control-plane.db").display())).await.unwrap();
        let forge = "UPDATE audit_log SET subject = 'models/x' WHERE sequence = 2";
        let refused = sqlx::query(forge).execute(&mut conn).await.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{refused}");
        sqlx::query("DROP TRIGGER audit_log_is_append_only_update").execute(&mut conn).await.unwrap();
        sqlx::query(forge).execute(&mut conn).await.unwrap();
    });
    app.run();
    let verified = app.get("audit/verify");
    assert_eq!((&verified["valid"], &verified["broken_at"]), (&json!(false), &json!(2)));
}
