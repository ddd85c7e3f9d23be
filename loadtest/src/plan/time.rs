//! Times on a command line. Enters: `30s`. Leaves: a duration. Never: a number without bounds.

use std::str::FromStr;
use std::time::Duration;

use super::BadPlan;

/// A stretch of time with its unit: `500ms`, `30s`, `2m`, `1h`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<Self, BadPlan> {
        let bad = || BadPlan(format!("`{text}` is not a time of 1ms to 1000h: write e.g. `500ms`, `30s`, `2m` or `1h`"));
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let seconds = match &text[digits.len()..] {
            "ms" => 0.001,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(bad()),
        };
        let seconds = seconds * digits.parse::<f64>().map_err(|_| bad())?;
        if (0.001..=3_600_000.0).contains(&seconds) { Ok(Self(Duration::from_secs_f64(seconds))) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let check = |text: &str, ms: u64| assert_eq!(text.parse(), Ok(Time(Duration::from_millis(ms))), "{text}");
        check("500ms", 500);
        check("30s", 30_000);
        check("1.5m", 90_000);
        check("1h", 3_600_000);
        check("7", 7_000);
        for text in ["", "s", "-1s", "0", "1d", "nan", "inf"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
