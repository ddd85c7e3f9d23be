//! A report for people. Enters: a [`Report`]. Leaves: lines. Never: a p99 of few requests without a word about it.

use super::{Quantiles, Report};

impl Report {
    /// Each class apart, then everything together.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for class in &self.classes {
            lines.push(format!("class {}", class.class.as_deref().unwrap_or_default()));
            class.lines(&mut lines);
            lines.push(String::new());
        }
        if !self.classes.is_empty() {
            lines.push("all classes".to_owned());
        }
        self.lines(&mut lines);
        lines.join("\n") + "\n"
    }

    fn lines(&self, lines: &mut Vec<String>) {
        let loop_ = match (self.mode, self.rate) {
            ("open", Some(rate)) => format!("open loop at {rate} requests/s"),
            (mode, _) => format!("{mode} loop"),
        };
        let app = self.app.as_ref().map_or_else(String::new, |it| format!(", app {it}"));
        let batch = self.batch.map_or_else(|| "several".to_owned(), |it| it.to_string());
        lines.push(format!("{}: {loop_}, {} clients, {} words a text, {batch} texts a request{app}", self.url, self.clients, self.words));
        if self.warmup_requests > 0 {
            lines.push(format!("warm-up    {} requests, {} failed (in no other figure)", self.warmup_requests, self.warmup_failed));
        }
        let early = if self.interrupted { ", interrupted" } else { "" };
        lines.push(format!(
            "requests   {} in {:.1} s{early}: {} succeeded, {} failed",
            self.requests, self.elapsed_seconds, self.succeeded, self.failed
        ));
        lines.push(format!("throughput {:.1} requests/s, {:.1} texts/s", self.requests_per_second, self.texts_per_second));
        self.latencies(lines);
        self.refusals(lines);
        if let Some(batches) = &self.batches {
            lines.push(format!("batches    {}", batches.text()));
        }
        lines.extend(self.resources.as_ref().map(crate::watch::Resources::text));
        if self.started_late > 0 {
            lines.push(format!(
                "{} requests were due before a client was free: the wait is in their latency; if the server is not the limit, add --clients",
                self.started_late
            ));
        }
    }

    fn latencies(&self, lines: &mut Vec<String>) {
        let since = match self.mode {
            "open" => "since due",
            "closed" => "since sent",
            _ => "since due or sent, by class",
        };
        let few = if self.p99_of_few { format!("; p99 and above of FEW: {} requests", self.succeeded) } else { String::new() };
        let rows: [(&str, &str, &str, Option<Quantiles>); 3] = [
            ("latency", since, &few, self.latency_ms),
            ("service", "since sent", "", self.service_ms.filter(|_| self.mode != "closed")),
            ("failures", since, "", self.failed_latency_ms),
        ];
        for (name, since, few, quantiles) in rows {
            let Some(q) = quantiles else { continue };
            lines.push(format!(
                "{name:<10} p50 {:.2}  p90 {:.2}  p95 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms {since}{few}",
                q.p50, q.p90, q.p95, q.p99, q.p99_9, q.max
            ));
        }
    }

    fn refusals(&self, lines: &mut Vec<String>) {
        for (what, counts) in [("errors", &self.errors), ("variants", &self.variants)].into_iter().filter(|(_, it)| !it.is_empty()) {
            let counts: Vec<_> = counts.iter().map(|(key, n)| format!("{key}: {n}")).collect();
            lines.push(format!("{what:<10} {}", counts.join(", ")));
        }
        let retry = self.retry_after;
        if retry.answers + retry.missing > 0 {
            lines.push(format!(
                "retry-after in {} answers, at most {} s; {} of 429 and 503 without it",
                retry.answers, retry.max_seconds, retry.missing
            ));
        }
        if self.errors.contains_key("429") || self.errors.contains_key("504") {
            lines.push(format!("admitted   {} (all but 429), {:.3} % of them ended in 504", self.admitted, 100.0 * self.deadline_share));
        }
    }
}
