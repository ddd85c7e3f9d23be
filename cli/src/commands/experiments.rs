//! Experiments. Enters: wishes, steps, ids. Leaves: tables, verdicts, a stream that is followed to its end. Never: a verdict of its own.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Session;
use crate::args::{Experiments, NewExperiment};
use crate::client::encode;
use crate::failure::Failure;
use crate::table::{Rows, or_dash};

/// Between two tries to follow a stream that broke off, and how many in a row may fail.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 30;

#[derive(Deserialize)]
struct Experiment {
    id: String,
    model: String,
    baseline: Variant,
    canary: Variant,
    state: String,
    stage: String,
    phases: usize,
    share_ppm: u32,
    looks: u64,
    reason: String,
    #[serde(default)]
    plan: Value,
}

#[derive(Deserialize)]
struct Variant {
    version: String,
    variant: String,
}

#[derive(Deserialize)]
struct Plan {
    reachable: bool,
    requests_per_second: Option<f64>,
    rate: String,
    expected_minutes: Option<f64>,
    phases: Vec<PhasePlan>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct PhasePlan {
    share_ppm: u32,
    canary_requests: Option<u64>,
    probes: u64,
    expected_minutes: Option<f64>,
    duration_minutes: f64,
}

#[derive(Deserialize)]
struct Decision {
    sentence: Option<String>,
    outcome: Option<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    evidence: Vec<Evidence>,
}

#[derive(Deserialize)]
struct Evidence {
    guardrail: String,
    test: String,
    n: u64,
    canary: Option<f64>,
    baseline: Option<f64>,
    worse: Option<Strength>,
    within: Option<Strength>,
}

#[derive(Deserialize)]
struct Strength {
    log_e: f64,
    needed: Option<f64>,
}

#[derive(Deserialize)]
struct Happened {
    at: String,
    kind: String,
    actor: String,
    detail: Value,
}

pub(super) fn run(session: &Session, command: Experiments) -> Result<(), Failure> {
    match command {
        Experiments::Create(new) => session.show(&session.client.post("experiments", &body(new)?)?, |it: Experiment| created(&it)),
        Experiments::Validate(new) => validate(session, new),
        Experiments::Start { id } => step(session, &id, "start", &[]),
        Experiments::Pause { id, reason } => step(session, &id, "pause", &[("reason", reason)]),
        Experiments::Resume { id } => step(session, &id, "resume", &[]),
        Experiments::Abort { id, reason } => step(session, &id, "abort", &[("reason", reason)]),
        Experiments::Promote { id, full } => step(session, &id, "promote", &[("to", full.then(|| "full".to_owned()))]),
        Experiments::List { model, page } => {
            let query = [("model", model), ("limit", Some(page.limit.to_string())), ("after", page.after)];
            let answer = session.client.get("experiments", &query)?;
            let all = if session.json { Vec::new() } else { super::items(&answer, "experiments")? };
            session.show(&answer, |body: Map<String, Value>| {
                super::say_more(body.get("next").unwrap_or(&Value::Null));
                table(all)
            })
        }
        Experiments::Show { id } => show(session, &id),
        Experiments::History { id, page } => {
            let query = [("limit", Some(page.limit.to_string())), ("after", page.after)];
            let answer = session.client.get(&path(&id, "history"), &query)?;
            let all: Vec<Happened> = if session.json { Vec::new() } else { super::items(&answer, "history")? };
            session.show(&answer, |body: Map<String, Value>| {
                super::say_more(body.get("next").unwrap_or(&Value::Null));
                history(&all)
            })
        }
        Experiments::Watch { id } => watch(session, &id),
        Experiments::Record { id, part, output } => {
            let answer = session.client.get(&path(&id, "decision/record"), &[("part", part.map(|it| it.to_string()))])?;
            match output {
                // To the byte: its digest is of the text as it stands.
                Some(file) => std::fs::write(&file, &answer.body).map_err(|error| Failure::Input(format!("`{}`: {error}", file.display()))),
                None => crate::print(&String::from_utf8_lossy(&answer.body)),
            }
        }
        Experiments::Routes { id, host, namespace } => {
            let format = if session.json { "json" } else { "yaml" };
            let query = [("host", Some(host)), ("namespace", Some(namespace)), ("format", Some(format.to_owned()))];
            crate::print(&String::from_utf8_lossy(&session.client.get(&path(&id, "routes"), &query)?.body))
        }
    }
}

fn path(id: &str, what: &str) -> String {
    format!("experiments/{}/{what}", encode(id))
}

fn step(session: &Session, id: &str, what: &str, query: &[(&str, Option<String>)]) -> Result<(), Failure> {
    session.show(&session.client.step(&path(id, what), query)?, |it: Experiment| line(&it))
}

fn body(new: NewExperiment) -> Result<Value, Failure> {
    let config = match &new.config {
        None => json!({}),
        Some(file) => {
            let bad = |why: String| Failure::Input(format!("--config `{}`: {why}", file.display()));
            let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
            serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?
        }
    };
    Ok(json!({
        "id": new.id, "title": new.title.unwrap_or_default(), "model": new.model, "canary": new.canary, "canary_version": new.canary_version,
        "baseline": new.baseline, "baseline_version": new.baseline_version, "config": config, "apps": new.apps,
        "apps_all_traffic": new.apps_all_traffic, "apps_space_change": new.apps_space_change, "expected_requests_per_second": new.rate,
        "force": new.force,
    }))
}

fn validate(session: &Session, new: NewExperiment) -> Result<(), Failure> {
    let answer = session.client.post("experiments/validate", &body(new)?)?;
    let read: Plan = answer.read()?;
    session.show(&answer, |it: Plan| plan(&it))?;
    if read.reachable {
        return Ok(());
    }
    Err(Failure::Refused(read.warnings.into_iter().next().unwrap_or_else(|| "it cannot reach a verdict in time".to_owned())))
}

fn created(it: &Experiment) -> String {
    let said = serde_json::from_value(it.plan.clone()).map(|it: Plan| plan(&it)).unwrap_or_default();
    format!("{}\n\n{said}\n\nstart it with: akidb experiments start {}", line(it), it.id)
}

fn line(it: &Experiment) -> String {
    let reason = if it.reason.is_empty() { String::new() } else { format!(": {}", it.reason) };
    format!("{} is {}, {} of {} phases, {} %{reason}", it.id, it.state, it.stage, it.phases, percent(it.share_ppm))
}

fn percent(ppm: u32) -> f64 {
    f64::from(ppm) / 1e4
}

fn table(all: Vec<Experiment>) -> String {
    let mut rows = Rows::new(&["ID", "MODEL", "BASELINE", "CANARY", "STATE", "STAGE", ">SHARE", ">LOOKS", "REASON"]);
    for it in all {
        let share = format!("{} %", percent(it.share_ppm));
        let pair = [&it.baseline, &it.canary].map(|at| format!("{}/{}", at.version, at.variant));
        let [baseline, canary] = pair;
        rows.add([it.id, it.model, baseline, canary, it.state, it.stage, share, it.looks.to_string(), or_dash(Some(it.reason))]);
    }
    rows.text("no experiments")
}

fn plan(it: &Plan) -> String {
    let rate = it.requests_per_second.map_or_else(|| "unknown".to_owned(), |rate| format!("{rate:.2} a second ({})", it.rate));
    let mut rows = Rows::new(&[">SHARE", ">CANARY REQUESTS", ">PROBES", ">EXPECTED", ">LASTS"]);
    for phase in &it.phases {
        rows.add([
            format!("{} %", percent(phase.share_ppm)),
            phase.canary_requests.map_or_else(|| "over a week's".to_owned(), |it| it.to_string()),
            phase.probes.to_string(),
            minutes(phase.expected_minutes),
            minutes(Some(phase.duration_minutes)),
        ]);
    }
    let mut text =
        vec![format!("requests {rate}; to 100 % in {} if nothing is worse", minutes(it.expected_minutes)), rows.text("no phases")];
    text.extend(it.warnings.iter().map(|it| format!("note: {it}")));
    text.join("\n")
}

fn minutes(it: Option<f64>) -> String {
    it.map_or_else(|| "unknown".to_owned(), |it| format!("{it:.1} min"))
}

fn show(session: &Session, id: &str) -> Result<(), Failure> {
    let answer = session.client.get(&path(id, "decision"), &[])?;
    if session.json {
        return session.done(&answer, "");
    }
    let it: Experiment = session.client.get(&format!("experiments/{}", encode(id)), &[])?.read()?;
    session.show(&answer, |decision: Decision| {
        let pair =
            format!("{}: {}/{} against {}/{}", it.model, it.canary.version, it.canary.variant, it.baseline.version, it.baseline.variant);
        let mut text = vec![line(&it), pair];
        text.extend(decision.sentence);
        text.extend(decision.outcome.map(|it| format!("\n{}", evidence(&it.evidence))));
        text.join("\n")
    })
}

fn evidence(all: &[Evidence]) -> String {
    let mut rows = Rows::new(&["GUARDRAIL", "TEST", ">N", ">CANARY", ">BASELINE", ">WORSE: E", ">OF", ">WITHIN: E", ">OF"]);
    for it in all {
        let figure = |it: Option<f64>| it.map_or_else(|| "-".to_owned(), |it| format!("{it:.4}"));
        let strength = |it: &Option<Strength>| {
            let of = |log: f64| format!("{:.3e}", log.exp());
            let needed = it.as_ref().and_then(|it| it.needed).map_or_else(|| "-".to_owned(), of);
            [it.as_ref().map_or_else(|| "-".to_owned(), |it| of(it.log_e)), needed]
        };
        let [worse, worse_of] = strength(&it.worse);
        let [within, within_of] = strength(&it.within);
        let names = [it.guardrail.clone(), it.test.clone(), it.n.to_string(), figure(it.canary), figure(it.baseline)];
        rows.add(names.into_iter().chain([worse, worse_of, within, within_of]));
    }
    rows.text("no evidence yet")
}

fn history(all: &[Happened]) -> String {
    let mut rows = Rows::new(&["AT", "WHAT", "WHO", "WHY"]);
    for it in all {
        rows.add([it.at.clone(), it.kind.clone(), it.actor.clone(), or_dash(it.detail.get("reason").map(super::plain))]);
    }
    rows.text("nothing happened yet")
}

/// Prints events until the experiment is over; a stream that breaks off is taken up where it broke.
fn watch(session: &Session, id: &str) -> Result<(), Failure> {
    let (mut last, mut tries) = (None, 0);
    loop {
        let seen = last.clone();
        match follow(session, id, &mut last) {
            Ok(Some(end)) if end == "promoted" => return Ok(()),
            Ok(Some(end)) => return Err(Failure::Refused(format!("experiment `{id}` ended: {end}"))),
            // A whole stream without an end: the server stopped. It is there again soon, or it is not.
            Ok(None) | Err(Failure::Unreachable { .. }) if tries < TRIES => {}
            Ok(None) => return Err(Failure::Refused(format!("the events of `{id}` end again and again"))),
            Err(failure) => return Err(failure),
        }
        tries = if last == seen { tries + 1 } else { 0 };
        std::thread::sleep(PAUSE);
    }
}

/// One stream, to its end. Answers how the experiment ended, if it did.
fn follow(session: &Session, id: &str, last: &mut Option<String>) -> Result<Option<String>, Failure> {
    let (mut kind, mut end) = (String::new(), None);
    for line in BufReader::new(session.client.events(&path(id, "events"), last.as_deref())?).lines() {
        let Ok(line) = line else { return Ok(None) };
        if let Some(id) = line.strip_prefix("id: ") {
            *last = Some(id.to_owned());
        } else if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut kind);
        } else if let Some(data) = line.strip_prefix("data: ") {
            crate::print(&if session.json { json!({"event": kind, "data": read(data)}).to_string() } else { told(&kind, &read(data)) })?;
            if matches!(kind.as_str(), "promoted" | "rolled-back" | "aborted") {
                end = Some(kind.clone());
            }
        }
    }
    Ok(end)
}

fn read(data: &str) -> Value {
    serde_json::from_str(data).unwrap_or(Value::Null)
}

/// `2026-01-01T00:00:10Z look 3: WAIT: canary P95 ...: the share stays at 5 % for now; ...`
fn told(kind: &str, data: &Value) -> String {
    let of = |key: &str| data["detail"].get(key).map(super::plain).filter(|it| !it.is_empty());
    let words = [of("sentence"), of("reason")].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let number = of("look").map_or_else(String::new, |it| format!(" {it}"));
    let colon = if words.is_empty() { "" } else { ": " };
    format!("{} {kind}{number}{colon}{words}", super::plain(&data["at"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let look = json!({"at": "T", "detail": {"look": 3, "sentence": "WAIT: x", "reason": "the share stays"}});
        assert_eq!(told("look", &look), "T look 3: WAIT: x; the share stays");
        assert_eq!(told("resumed", &json!({"at": "T", "detail": {}})), "T resumed");
    }

    #[test]
    fn a_plan_says_what_it_needs() {
        let said = json!({"reachable": false, "requests_per_second": 0.5, "rate": "given", "expected_minutes": null, "warnings": ["too quiet"],
                          "phases": [{"share_ppm": 50_000, "canary_requests": 1000, "probes": 200, "expected_minutes": 666.7, "duration_minutes": 60.0}]});
        let text = plan(&serde_json::from_value(said).unwrap());
        for part in ["requests 0.50 a second (given); to 100 % in unknown", "5 %", "1000", "666.7 min", "60.0 min", "note: too quiet"] {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
    }

    #[test]
    fn evidence_has_what_each_test_must_reach() {
        let all = json!([{"guardrail": "speed", "test": "engine time", "n": 200, "canary": 0.5, "baseline": 1.0,
                          "worse": {"log_e": -1.0, "needed": 6.9}, "within": {"log_e": 5.0, "needed": 3.0}, "note": null}]);
        let text = evidence(&serde_json::from_value::<Vec<Evidence>>(all).unwrap());
        assert!(text.contains("0.5000") && text.contains("3.679e-1") && text.contains("1.484e2"), "{text}");
    }
}
