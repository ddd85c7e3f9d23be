//! Metrics of a server, as it says them and as they grew between two looks.
//!
//! Enters: Prometheus text. Leaves: samples, increases, histograms. Never: a line that is passed over without an error.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::http::{Unreachable, get_ok};
use crate::plan::Target;
use crate::quantile::{Bucket, histogram_quantile};

/// Label names and values.
pub type Labels = BTreeMap<String, String>;

/// Every sample of one look.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    samples: BTreeMap<String, BTreeMap<Labels, f64>>,
}

/// Text that is not Prometheus text; the message has the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not a Prometheus sample: `{text}`")]
pub struct BadMetrics {
    line: usize,
    text: String,
}

impl Scrape {
    /// Looks now.
    pub async fn fetch(target: &Target) -> Result<Self, Unreachable> {
        let body = get_ok(target).await?;
        Self::parse(&String::from_utf8_lossy(&body)).map_err(|it| Unreachable::new(target, &it.to_string()))
    }

    /// Reads the text format, version 0.0.4.
    pub fn parse(text: &str) -> Result<Self, BadMetrics> {
        let mut out = Self::default();
        for (line, n) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, labels, value) = sample(line).ok_or_else(|| BadMetrics { line: n, text: line.to_owned() })?;
            out.samples.entry(name.to_owned()).or_default().insert(labels, value);
        }
        Ok(out)
    }

    /// Current values of a metric.
    pub fn values(&self, name: &str) -> impl Iterator<Item = f64> {
        self.samples.get(name).into_iter().flat_map(|it| it.values().copied())
    }

    /// How much each series of a counter grew since `before`. A counter that fell was reset, and grew from 0; a series that was not there
    /// grew from 0 as well.
    pub fn increases(&self, before: &Self, name: &str) -> Vec<(Labels, f64)> {
        let old = before.samples.get(name);
        let grown = |(labels, now): (&Labels, &f64)| {
            let then = old.and_then(|it| it.get(labels)).copied().unwrap_or(0.0);
            (labels.clone(), if *now < then { *now } else { now - then })
        };
        self.samples.get(name).into_iter().flatten().map(grown).collect()
    }

    /// What each series of a histogram observed since `before`.
    pub fn histograms(&self, before: &Self, name: &str) -> Vec<(Labels, Vec<Bucket>)> {
        let mut out: BTreeMap<Labels, Vec<Bucket>> = BTreeMap::new();
        for (mut labels, count) in self.increases(before, &format!("{name}_bucket")) {
            if let Some(le) = labels.remove("le").and_then(|it| it.parse().ok()) {
                out.entry(labels).or_default().push(Bucket { le, count });
            }
        }
        out.into_iter().collect()
    }
}

/// Batches that a server ran between two looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BatchSizes {
    /// How many.
    pub batches: f64,
    /// Texts a batch.
    pub mean: f64,
    /// Median, interpolated in its bucket as Prometheus does.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// Batches above the bound before and up to this one; only where there are any.
    pub counts: Vec<SizeCount>,
}

/// Batches of a range of sizes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SizeCount {
    /// `1`, `3-4`, `>512`.
    pub texts: String,
    /// How many.
    pub batches: f64,
}

impl BatchSizes {
    /// From `akidb_batch_size`, over all models and variants; `None` when no batch ran or there is no such metric.
    pub fn between(before: &Scrape, after: &Scrape) -> Option<Self> {
        let all = after.histograms(before, "akidb_batch_size").into_iter().flat_map(|(_, it)| it);
        let mut sums: Vec<Bucket> = Vec::new();
        for bucket in all {
            match sums.iter_mut().find(|it| it.le.total_cmp(&bucket.le).is_eq()) {
                Some(sum) => sum.count += bucket.count,
                None => sums.push(bucket),
            }
        }
        sums.sort_by(|a, b| a.le.total_cmp(&b.le));
        let batches = sums.last().map_or(0.0, |it| it.count);
        if batches <= 0.0 {
            return None;
        }
        let texts: f64 = after.increases(before, "akidb_batch_size_sum").iter().map(|(_, it)| it).sum();
        let (p50, p95) = (histogram_quantile(0.5, &sums), histogram_quantile(0.95, &sums));
        Some(Self { batches, mean: texts / batches, p50, p95, counts: ranges(&sums) })
    }

    /// `1: 40, 2: 3, 3-4: 1`.
    pub fn text(&self) -> String {
        let counts: Vec<_> = self.counts.iter().map(|it| format!("{}: {}", it.texts, it.batches)).collect();
        format!("{} of {:.1} texts on average; by texts {}", self.batches, self.mean, counts.join(", "))
    }
}

fn ranges(sums: &[Bucket]) -> Vec<SizeCount> {
    let (mut out, mut below, mut count) = (Vec::new(), 0.0, 0.0);
    for bucket in sums {
        let texts = match bucket.le {
            le if le == f64::INFINITY => format!(">{below}"),
            le if le - below <= 1.0 => le.to_string(),
            le => format!("{}-{le}", below + 1.0),
        };
        if bucket.count > count {
            out.push(SizeCount { texts, batches: bucket.count - count });
        }
        (below, count) = (bucket.le, bucket.count);
    }
    out
}

fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = read_labels(inside, &mut labels)?;
    }
    // A timestamp may follow.
    let value = rest.split_whitespace().next()?;
    (!name.is_empty()).then_some((name, labels, value.parse().ok()?))
}

fn read_labels<'a>(mut rest: &'a str, labels: &mut Labels) -> Option<&'a str> {
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(name.trim().to_owned(), value);
        rest = after;
    }
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut out, mut characters) = (String::new(), text.char_indices());
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => out.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            _ => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_with_labels_and_escapes() {
        let text = "# HELP a b\na 1\nb{x=\"q\\\"}\\n\",y=\"\"} 2.5e-3 1700000000\nc{} +Inf\n";
        let scrape = Scrape::parse(text).unwrap();
        assert_eq!(scrape.samples["b"].first_key_value().unwrap().0["x"], "q\"}\n");
        assert_eq!(scrape.values("c").next(), Some(f64::INFINITY));
        for bad in ["a", "a b", "a{x=1} 2", "a{x=\"1} 2", "{x=\"1\"} 2"] {
            assert!(Scrape::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_counter_that_fell_was_reset() {
        let (before, after) =
            (Scrape::parse("a{x=\"1\"} 10\na{x=\"2\"} 4").unwrap(), Scrape::parse("a{x=\"1\"} 3\na{x=\"2\"} 9\na 2").unwrap());
        let increases: Vec<f64> = after.increases(&before, "a").into_iter().map(|(_, it)| it).collect();
        assert_eq!(increases, [2.0, 3.0, 5.0]);
    }

    #[test]
    fn batch_sizes_are_of_the_time_between() {
        let text = |one: u32, four: u32, sum: u32| {
            format!(
                "akidb_batch_size_bucket{{le=\"1\"}} {one}\nakidb_batch_size_bucket{{le=\"2\"}} {one}\nakidb_batch_size_bucket{{le=\"4\"}} {four}\n\
                 akidb_batch_size_bucket{{le=\"+Inf\"}} {four}\nakidb_batch_size_sum {sum}\n"
            )
        };
        let (before, after) = (Scrape::parse(&text(5, 5, 5)).unwrap(), Scrape::parse(&text(8, 10, 13)).unwrap());
        let sizes = BatchSizes::between(&before, &after).unwrap();
        assert_eq!(sizes.text(), "5 of 1.6 texts on average; by texts 1: 3, 3-4: 2");
        assert_eq!(BatchSizes::between(&after, &after), None);
    }
}
