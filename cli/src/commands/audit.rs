//! The audit log. Enters: nothing. Leaves: rows, and whether the chain holds. Never: a judgement of its own; the server recomputes the chain.

use serde::Deserialize;
use serde_json::Value;

use crate::Session;
use crate::args::Audit;
use crate::failure::Failure;
use crate::table::Rows;

#[derive(Deserialize)]
struct Row {
    sequence: u64,
    at: String,
    actor: String,
    action: String,
    subject: String,
    #[serde(default)]
    detail: Value,
}

#[derive(Deserialize)]
struct Verdict {
    valid: bool,
    #[serde(default)]
    rows: u64,
    #[serde(default)]
    broken_at: Option<u64>,
}

/// Longest detail in a table; `--json` shows all of it.
const DETAIL: usize = 100;

pub(super) fn run(session: &Session, command: &Audit) -> Result<(), Failure> {
    match command {
        Audit::List(page) => super::list(session, "audit", page, |log: Vec<Row>| {
            let mut rows = Rows::new(&[">#", "AT", "ACTOR", "ACTION", "SUBJECT", "DETAIL"]);
            for it in log {
                rows.add([it.sequence.to_string(), it.at, it.actor, it.action, it.subject, short(&super::plain(&it.detail))]);
            }
            rows.text("the audit log is empty")
        }),
        Audit::Verify => {
            let answer = session.client.get("audit/verify", &[])?;
            let verdict: Verdict = answer.read()?;
            session.done(&answer, &format!("{} rows, the chain is {}", verdict.rows, if verdict.valid { "intact" } else { "broken" }))?;
            if verdict.valid {
                return Ok(());
            }
            let at = verdict.broken_at.map(|it| format!(" at row {it}")).unwrap_or_default();
            Err(Failure::Refused(format!("the audit log's hash chain is broken{at}: rows were changed outside the control plane")))
        }
    }
}

fn short(detail: &str) -> String {
    let cut: String = detail.chars().take(DETAIL).collect();
    if cut.len() < detail.len() { cut + "..." } else { cut }
}
