//! Numbers as people read them. Enters: bytes, picodollars, digests. Leaves: short strings. Never: a float for money.

/// `90.3 MB`: decimal units, three significant digits.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1_000 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1e3, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1e3, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `$2.50`, `$0.000008`: exact, without the zeros at the end, with cents at least.
pub(crate) fn dollars(picodollars: i128) -> String {
    let exact = akidb_domain::cost::dollars(picodollars);
    let (sign, exact) = exact.strip_prefix('-').map_or(("", exact.as_str()), |it| ("-", it));
    let cents = exact.find('.').map_or(exact.len(), |it| it + 3);
    let end = exact.trim_end_matches('0').len().max(cents).min(exact.len());
    format!("{sign}${}", &exact[..end])
}

/// What a million requests cost when one costs this many picodollars: `$8.00`, to the hundredth of a cent.
pub(crate) fn per_million(picodollars: i128) -> String {
    const GRAIN: i128 = 100_000_000;
    dollars((picodollars * 1_000_000 + GRAIN / 2).div_euclid(GRAIN) * GRAIN)
}

/// Picodollars of the server's decimal string; `None` for what is not one.
pub(crate) fn picodollars(text: &str) -> Option<i128> {
    akidb_domain::cost::parse_dollars(text).ok().map(i128::from)
}

/// `31.8 mJ`, `12.5 J`, `1.5 Wh`: of so many joules, three significant digits; of one request, of a window, of a day.
pub(crate) fn joules(joules: f64) -> String {
    const UNITS: [(f64, &str); 5] = [(3.6e9, "MWh"), (3.6e6, "kWh"), (3.6e3, "Wh"), (1.0, "J"), (1e-3, "mJ")];
    let (size, unit) = UNITS.into_iter().find(|it| joules >= it.0).unwrap_or((1e-3, "mJ"));
    let value = joules / size;
    let digits = (2.0 - value.log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.digits$}");
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{short} {unit}")
}

/// The same of millijoules.
pub(crate) fn energy(millijoules: i128) -> String {
    joules(millijoules as f64 / 1e3)
}

/// The first 12 digits of a digest: enough to tell artifacts apart, and accepted where a digest is asked for.
pub(crate) fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |n, expected| assert_eq!(bytes(n), expected, "{n}");
        check(0, "0 B");
        check(999, "999 B");
        check(1_000, "1.0 kB");
        check(90_290_960, "90.3 MB");
        check(999_960, "1.0 MB");
        check(1_500_000_000, "1.5 GB");
        check(u64::MAX, "18446.7 PB");
    }

    #[test]
    fn energies() {
        let check = |n, expected| assert_eq!(joules(n), expected, "{n}");
        check(0.0, "0 mJ");
        check(0.000_45, "0.45 mJ");
        check(0.031_75, "31.8 mJ");
        check(0.7, "700 mJ");
        check(12.5, "12.5 J");
        check(5_400.0, "1.5 Wh");
        check(7.2e6, "2 kWh");
        check(3.6e13, "10000 MWh");
    }

    #[test]
    fn amounts_are_exact_and_short() {
        let check = |n, expected| assert_eq!(dollars(n), expected, "{n}");
        check(0, "$0.00");
        check(2_500_000_000_000, "$2.50");
        check(8_000_000, "$0.000008");
        check(1, "$0.000000000001");
        check(-1_500_000_000_000, "-$1.50");
        check(10_000_000_000_000, "$10.00");
    }

    #[test]
    fn a_million_requests() {
        let check = |n, expected| assert_eq!(per_million(n), expected, "{n}");
        check(8_000_000, "$8.00");
        check(139, "$0.0001");
        check(138_888, "$0.1389");
        check(0, "$0.00");
    }

    #[test]
    fn decimal_strings_read_back() {
        assert_eq!(picodollars("0.000008000000"), Some(8_000_000));
        assert_eq!(picodollars("free"), None);
    }
}
