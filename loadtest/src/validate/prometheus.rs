//! The seed's queries to a Prometheus server.
//!
//! Enters: its address. Leaves: what its metrics say. Never: a first result taken for all of them.

use serde::Deserialize;

use super::facts::{Metrics, Reading, json};
use crate::http::Unreachable;
use crate::plan::Target;
use crate::scrape::Labels;

const P95: &str = "histogram_quantile(0.95,rate(akidb_embed_latency_seconds_bucket[5m]))";
const P99: &str = "histogram_quantile(0.99,rate(akidb_embed_latency_seconds_bucket[5m]))";
const QPS: &str = "rate(akidb_embed_requests_total[5m])";
const GPU: &str = "avg(nvidia_gpu_duty_cycle)";

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    metric: Labels,
    value: (f64, String),
}

pub(super) async fn read(base: &Target) -> Result<Metrics, Unreachable> {
    let quantile = |series: Vec<(Labels, f64)>| {
        if series.is_empty() { Reading::none("the query gives no series") } else { Reading::highest(series) }
    };
    let (p95, p99) = (quantile(query(base, P95).await?), quantile(query(base, P99).await?));
    let rates: Vec<f64> = query(base, QPS).await?.into_iter().map(|it| it.1).filter(|it| it.is_finite()).collect();
    let qps = if rates.is_empty() { Reading::none("the query gives no series") } else { Reading::of(rates.iter().sum()) };
    let duty_cycle = query(base, GPU).await?.into_iter().map(|it| it.1).find(|it| it.is_finite());
    Ok(Metrics { p95, p99, qps, duty_cycle })
}

async fn query(base: &Target, query: &str) -> Result<Vec<(Labels, f64)>, Unreachable> {
    let prefix = base.path.trim_end_matches('/');
    let target = base.at(&format!("{prefix}/api/v1/query?query={}", encoded(query)));
    let answer: Answer = json(&target).await?;
    let number = |it: Series| match it.value.1.parse::<f64>() {
        Ok(value) => Ok((it.metric, value)),
        Err(_) => Err(Unreachable::new(&target, &format!("`{}` is not a number", it.value.1))),
    };
    answer.data.result.into_iter().map(number).collect()
}

/// Percent-encodes everything but letters, digits and `-._~`.
fn encoded(text: &str) -> String {
    let byte = |it: u8| match it {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(it).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_a_url() {
        assert_eq!(encoded("rate(a_b[5m]) é"), "rate%28a_b%5B5m%5D%29%20%C3%A9");
    }
}
