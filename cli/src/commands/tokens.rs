//! Tokens. Enters: names and roles. Leaves: a token, printed once. Never: a secret on stderr or in a list.

use serde::Deserialize;
use serde_json::json;

use crate::Session;
use crate::args::Tokens;
use crate::client::encode;
use crate::failure::Failure;
use crate::table::{Rows, or_dash};

#[derive(Deserialize)]
struct Token {
    id: String,
    name: String,
    role: String,
    namespace: Option<String>,
    app: Option<String>,
    #[serde(default)]
    created_at: String,
    revoked_at: Option<String>,
}

#[derive(Deserialize)]
struct Created {
    id: String,
    token: String,
}

pub(super) fn run(session: &Session, command: Tokens) -> Result<(), Failure> {
    match command {
        Tokens::List(page) => super::list(session, "tokens", &page, |tokens: Vec<Token>| {
            let mut rows = Rows::new(&["ID", "NAME", "ROLE", "NAMESPACE", "APP", "CREATED", "REVOKED"]);
            for it in tokens {
                rows.add([it.id, it.name, it.role, or_dash(it.namespace), or_dash(it.app), it.created_at, or_dash(it.revoked_at)]);
            }
            rows.text("no tokens")
        }),
        Tokens::Create { name, role, namespace, app } => {
            let mut body = json!({"name": name, "role": role});
            for (key, value) in [("namespace", namespace), ("app", app)] {
                if let Some(value) = value {
                    body[key] = value.into();
                }
            }
            // The token alone on stdout, so that `$(akidb tokens create ...)` is one.
            session.show(&session.client.post("tokens", &body)?, |it: Created| {
                eprintln!("token {} is shown this once; `akidb tokens revoke {}` ends it", it.id, it.id);
                it.token
            })
        }
        Tokens::Revoke { id } => session.done(&session.client.delete(&format!("tokens/{}", encode(&id)))?, &format!("revoked token {id}")),
    }
}
