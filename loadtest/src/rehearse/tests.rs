//! Small rehearsals. Enters: a plan of one load. Leaves: failures. Never: the whole grid; that is `loadtest/plans/rehearse`.

use super::*;

const PLAN: &str = r#"
runs = 24
looks = 40
seed = 7
hold = true
[experiment]
[device]
base_ms = 8.0
token_us = 40.0
max_batch = 32
noise = 0.15
stragglers = 0.02
straggler_factor = 4.0
drift = 0.1
second_run = 0.97
deadline_ms = 5000.0
probe_budget = 0.01
probe_queue = 8
probe_budget_idle = 0.01
[loads.medium]
rate = 60.0
look_s = 20.0
ar1 = 0.98
spread = 0.3
burst_every_s = 120.0
burst_factor = 3.0
burst_s = 4.0
tokens_median = 24.0
tokens_spread = 0.6
[[arms]]
name = "equal"
time_ratio = 1.0
errors = [0.0, 0.0]
[[arms]]
name = "slower"
time_ratio = 1.3
errors = [0.0, 0.0]
"#;

fn rehearsal(text: &str, only: &str, threads: u64) -> Rehearsal {
    Rehearsal { name: "test".to_owned(), plan: toml::from_str(text).unwrap(), only: only.to_owned(), threads, judged: true }
}

fn report(text: &str, only: &str, threads: u64) -> Report {
    rehearse(&rehearsal(text, only, threads), &ProgressBar::hidden())
}

#[test]
fn an_equal_canary_is_promoted_and_a_slow_one_is_rolled_back_whatever_the_usual_tests_say() {
    let report = report(PLAN, "", 2);
    let [equal, slower] = report.cells.as_slice() else { panic!("{report:?}") };
    assert!(equal.promoted >= 22 && equal.rolled_back <= 1, "{equal:?}");
    assert!(slower.promoted == 0 && slower.rolled_back == 24, "{slower:?}");
    assert!(slower.rolled_back_by.iter().all(|it| it.0 == "speed" || it.0 == "cost"), "{slower:?}");
    // What this is for: the smaller lane has smaller batches, so its requests are faster even on a slower engine.
    assert!(slower.binomial[0] >= 6, "{slower:?}");
    assert!(equal.probe_share < 0.02 && equal.utilisation > 0.3, "{equal:?}");
}

#[test]
fn threads_change_nothing_and_seeds_do() {
    let json = |text: &str, threads| serde_json::to_string(&report(text, "medium / slower", threads)).unwrap();
    let one = json(PLAN, 1);
    assert_eq!(one, json(PLAN, 3));
    assert_ne!(one, json(&PLAN.replace("seed = 7", "seed = 8"), 1));
}

#[test]
fn sticky_users_go_through_a_burn_in() {
    let users = "users = { count = 2000, exponent = 1.0, sticky = true, burn_in_looks = 5 }\n[[arms]]\nname = \"equal\"";
    let report = report(&PLAN.replacen("[[arms]]\nname = \"equal\"", users, 1), "equal", 2);
    let cell = &report.cells[0];
    assert!(cell.promoted >= 20 && cell.rolled_back <= 1, "{cell:?}");
    assert!(cell.to_promotion.is_some_and(|it| it.looks > 5), "{cell:?}");
}

#[test]
fn an_expectation_that_is_missed_is_said() {
    let expecting = PLAN.replace("name = \"slower\"", "name = \"slower\"\nexpect = { least_promoted = 3, most_rolled_back = 2 }");
    let report = report(&expecting.replace("runs = 24", "runs = 4"), "slower", 2);
    assert_eq!(report.missed, ["medium / slower: rolled back 4, at most 2 expected", "medium / slower: promoted 0, at least 3 expected"]);
    assert!(report.text().contains("MISSED medium / slower: promoted 0"), "{}", report.text());
}

#[test]
fn each_bad_value_of_a_plan_is_named() {
    let check = |from: &str, to: &str, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.toml");
        std::fs::write(&file, PLAN.replacen(from, to, 1)).unwrap();
        let error = Plan::load(&file).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("plan.toml"), "{error}");
    };
    check("runs = 24", "runs = 0", "runs, looks, arms and loads");
    check("rate = 60.0", "rate = 0.0", "loads: rate 0 is not above 0");
    check("time_ratio = 1.3", "time_ratio = -1.0", "arms: time_ratio -1");
    check("errors = [0.0, 0.0]", "errors = [1.5, 0.0]", "arms: errors 1.5 is not in 0..1");
    check("[experiment]", "[experiment]\nalpha = 0.9", "experiment: alpha 0.9");
    check("name = \"equal\"", "name = \"equal\"\nloads = [\"big\"]", "loads `big` is not one of medium");
    check("base_ms", "bass_ms", "unknown field `bass_ms`");
}

#[test]
fn committed_plans_can_be_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/rehearse");
    let plans: Vec<_> = std::fs::read_dir(folder).unwrap().map(|it| Plan::load(&it.unwrap().path()).unwrap()).collect();
    assert!(plans.len() >= 2 && plans.iter().all(|it| it.runs == 1_000 && it.looks >= 100));
}
