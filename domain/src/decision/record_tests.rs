//! Records: sealed, read back, replayed, spoilt. Enters: nothing. Leaves: failures. Never: a digest written by hand.

use proptest::prelude::*;

use super::*;
use crate::decision::testing::Coin;
use crate::decision::tests::{EQUAL, look};

fn record(looks: u64) -> (Record, State) {
    let (config, mut coin) = (Config { salt: "exp-1".to_owned(), ..Config::default() }, Coin::new(5));
    let looks = (1..=looks).map(|number| look(&mut coin, number, EQUAL, [0.05, 0.05, 0.9])).collect();
    let mut state = State::new(&config);
    (Record::write("exp-1", &config, &mut state, looks).unwrap(), state)
}

#[test]
fn a_replay_comes_to_the_same_state() {
    let (record, state) = record(8);
    let back = Record::open(&record.seal().unwrap()).unwrap();
    assert_eq!(back, record);
    assert_eq!(replay(&back), Ok(state));
}

#[test]
fn records_continue_where_the_last_one_ended() {
    let (whole, end) = record(8);
    let mut state = whole.before.clone();
    let (first, second) = whole.looks.split_at(3);
    let first = Record::write("exp-1", &whole.config, &mut state, first.to_vec()).unwrap();
    let second = Record::write("exp-1", &whole.config, &mut state, second.to_vec()).unwrap();
    assert_eq!(state, end);
    assert_eq!([first.outcomes.clone(), second.outcomes.clone()].concat(), whole.outcomes);
    assert_eq!(replay(&first), Ok(second.before));
}

#[test]
fn the_first_difference_is_named() {
    let (mut record, _) = record(8);
    let worse = record.outcomes[4].evidence[2].worse.as_mut().unwrap();
    worse.log_e = f64::from_bits(worse.log_e.to_bits() + 1);
    let error = replay(&record).unwrap_err().to_string();
    assert!(error.starts_with("outcomes[4].evidence[2].worse.log_e: recorded "), "{error}");
}

#[test]
fn another_input_or_plan_or_method_is_noticed() {
    let check = |change: fn(&mut Record), expected: &str| {
        let (mut record, _) = record(6);
        change(&mut record);
        let error = replay(&record).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(|it| it.looks[2].probes[0].canary_ns *= 3, "outcomes[2].");
    check(|it| it.config.margins.errors = 0.006, "outcomes[");
    check(|it| it.config.alpha = 0.04, "outcomes[0].");
    check(|it| it.before.looks = 1, "look 1 was given where look 2 is next");
    check(|it| it.method = "0".to_owned(), "decided by method 0");
    check(|it| it.config.alpha = -1.0, "alpha -1");
}

proptest! {
    /// Each byte of the text matters: the frame, the digest and the body.
    #[test]
    fn one_changed_byte_is_noticed(at in any::<prop::sample::Index>(), by in 1..=255u8) {
        static SEALED: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| record(3).0.seal().unwrap());
        let mut bytes = SEALED.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = bytes[at].wrapping_add(by);
        // A reader of files refuses what is not UTF-8; here that counts as noticed.
        if let Ok(text) = String::from_utf8(bytes) {
            prop_assert!(Record::open(&text).is_err(), "byte {}", at);
        }
    }
}
