//! Sticky users meet the same variant on every sidecar and after a restart, and growth never takes one from the canary.

use super::*;

/// Long enough that no wait of a busy machine puts everybody on the baseline.
const LONG_LEASE: Duration = Duration::from_secs(60);
const KEYS: u64 = 120;

type Arms = BTreeMap<String, String>;

/// The variant of every user.
fn arms(client: &Client) -> Arms {
    (0..KEYS).map(|n| (format!("user-{n}"), client.variant_of(&format!("user-{n}"), &json!({"text": text(0, n)})))).collect()
}

fn users_of<'a>(arms: &'a Arms, variant: &str) -> Vec<&'a str> {
    arms.iter().filter(|it| it.1 == variant).map(|it| it.0.as_str()).collect()
}

/// Waits until a sidecar serves the canary to more users than `before`, and has taken the split for all of them: two rounds that agree. None
/// who met the canary may meet the baseline meanwhile.
fn until_more(client: &Client, before: &Arms, canary: &str) -> Arms {
    let (deadline, mut last) = (Instant::now() + STAGE, Arms::new());
    loop {
        let seen = arms(client);
        let moved = users_of(before, canary).into_iter().find(|it| seen[*it] != canary);
        assert_eq!(moved, None, "this user was taken from the canary");
        if users_of(&seen, canary).len() > users_of(before, canary).len() && seen == last {
            return seen;
        }
        assert!(Instant::now() < deadline, "{canary} serves {} of {KEYS} users", users_of(&seen, canary).len());
        last = seen;
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn until_split(client: &Client, canary: &str) -> Arms {
    until_more(client, &Arms::new(), canary)
}

fn same(seen: &Arms, expected: &Arms, when: &str) {
    let moved: Vec<_> = expected.iter().filter(|(user, variant)| seen.get(*user) != Some(variant)).collect();
    assert!(moved.is_empty(), "{when}: not the variant they had: {moved:?}");
}

#[test]
fn a_user_keeps_the_variant_across_sidecars_restarts_and_growth() {
    let (mut system, canary, _turn) = system_with(LONG_LEASE);
    let other = system.another_sidecar("other");
    let (one, two) = (system.client(), other.client());
    start(&system, "sticky", canary, |body| {
        let config = &mut body["config"];
        // Grown by hand; the split of these users under this salt is always the same one.
        (config["unit"], config["salt"], config["min_probes"]) = (json!("sticky"), json!("s"), json!(1_000_000));
        // Each sidecar counts these few users once, and again after a restart: no fair draw by the rules of one.
        (config["margins"]["latency"], config["alpha_sample_ratio"]) = (json!(9.0), json!(1e-9));
    });

    let first = until_split(&one, canary);
    same(&until_split(&two, canary), &first, "two sidecars");
    let share = users_of(&first, canary).len();
    // 25 % of 120, within four standard deviations.
    assert!((11..=49).contains(&share), "{share} of {KEYS} users");
    assert_eq!(users_of(&first, canary).len() + users_of(&first, "fp32").len(), first.len());

    // A crash and a new start; meanwhile the other one goes on as before.
    system.sidecar.take().expect("it runs").kill();
    same(&arms(&two), &first, "while the first one is down");
    system.start_sidecar();
    let one = system.client();
    same(&until_split(&one, canary), &first, "after a restart");

    let mut before = first;
    for _ in 0..2 {
        system.akidb(&["experiments", "promote", "sticky"]);
        let grown = until_more(&one, &before, canary);
        same(&until_more(&two, &before, canary), &grown, "two sidecars, grown");
        println!("{} -> {} of {KEYS} users meet the canary", users_of(&before, canary).len(), users_of(&grown, canary).len());
        before = grown;
    }
    // A restart under a larger share, of an orderly kind.
    let ended = system.sidecar.take().expect("it runs").terminate();
    assert!(ended.success(), "{ended}");
    system.start_sidecar();
    same(&until_split(&system.client(), canary), &before, "after a restart, grown");
}
