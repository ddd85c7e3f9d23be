//! Time, injected. Enters: nothing. Leaves: Unix nanoseconds, and their RFC 3339 form both ways. Never: a clock read anywhere else.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Unix nanoseconds.
    fn now_ns(&self) -> u64;

    /// Unix milliseconds.
    fn now_ms(&self) -> i64 {
        (self.now_ns() / 1_000_000) as i64
    }
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_nanos() as u64)
    }
}

/// Unix nanoseconds as RFC 3339 UTC.
pub(crate) fn rfc3339_ns(ns: i128) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(ns).ok().and_then(|it| it.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Unix milliseconds as RFC 3339 UTC.
pub(crate) fn rfc3339_ms(ms: i64) -> String {
    rfc3339_ns(i128::from(ms) * 1_000_000)
}

/// Reads RFC 3339; `None` for anything else and for times before 1970 or past an `i64` of nanoseconds.
pub(crate) fn parse_rfc3339(text: &str) -> Option<u64> {
    let ns = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    i64::try_from(ns).ok().and_then(|it| u64::try_from(it).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back() {
        assert_eq!(
            parse_rfc3339("2026-01-02T03:04:05.000000006Z").map(|it| rfc3339_ns(i128::from(it))).as_deref(),
            Some("2026-01-02T03:04:05.000000006Z")
        );
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59Z"), None);
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
