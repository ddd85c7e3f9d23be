//! OpenTelemetry spans, sent to a collector over OTLP (gRPC).
//!
//! Enters: a request's `traceparent`, and when its stages and batches began and ended. Leaves: spans. Never: a cost while no collector is
//! configured, a wait for the collector, a text, the caller's baggage.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceId, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample};

use crate::clock::Clock;
use crate::config;

/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The handle; cheap to clone. The default traces nothing.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    on: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    clock: Clock,
}

/// The collector's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`traces.otlp_endpoint` (`AKIDB_OTLP_ENDPOINT`) `{endpoint}` cannot be used: {cause}")]
pub struct TracesError {
    endpoint: String,
    cause: String,
}

/// A sampled request's span; it ends when this is dropped.
#[derive(Debug)]
pub struct RequestTrace {
    inner: Arc<Inner>,
    context: Context,
}

/// What a batch needs to point at one of its requests.
#[derive(Debug, Clone)]
pub struct TraceLink {
    inner: Arc<Inner>,
    context: SpanContext,
}

/// A batch that ran.
#[derive(Debug)]
pub struct BatchFacts<'a> {
    /// Model.
    pub model: &'a str,
    /// Variant.
    pub variant: &'a str,
    /// Texts.
    pub texts: usize,
    /// Tokens computed.
    pub padded_tokens: u64,
    /// When it began.
    pub from: Instant,
    /// When it ended.
    pub to: Instant,
}

impl Traces {
    /// Begins to send if an endpoint is configured. Needs a tokio runtime; the collector need not be there yet.
    pub fn start(config: &config::Traces, clock: Clock) -> Result<Self, TracesError> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(Self::default()) };
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT).build();
        let exporter = exporter.map_err(|it| TracesError { endpoint: endpoint.clone(), cause: it.to_string() })?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampled(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)))))
            .with_resource(Resource::builder().with_service_name("akidb-sidecar").build())
            .build();
        let tracer = provider.tracer("akidb-sidecar");
        Ok(Self { on: Some(Arc::new(Inner { provider, tracer, clock })) })
    }

    /// Begins a request's span under the caller's; `None` if it is not to be traced.
    pub fn request(&self, headers: &HeaderMap) -> Option<RequestTrace> {
        let inner = self.on.as_ref()?;
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let span = SpanBuilder::from_name("embed").with_kind(SpanKind::Server).with_start_time(inner.time(Instant::now()));
        let span = inner.tracer.build_with_context(span, &parent);
        span.is_recording().then(|| RequestTrace { inner: inner.clone(), context: Context::new().with_span(span) })
    }

    /// Sends what waits; blocks for as long as an export may take.
    pub fn flush(&self) {
        if let Some(Err(error)) = self.on.as_ref().map(|it| it.provider.force_flush()) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

impl RequestTrace {
    /// A stage that is over.
    pub fn stage(&self, name: &'static str, from: Instant, took: Duration) {
        let span = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(self.inner.time(from));
        self.inner.tracer.build_with_context(span, &self.context).end_with_timestamp(self.inner.time(from + took));
    }

    /// For the batches that carry the request.
    pub fn link(&self) -> TraceLink {
        TraceLink { inner: self.inner.clone(), context: self.context.span().span_context().clone() }
    }

    /// What served the request, and how it went.
    pub fn outcome(&self, texts: u64, served: Result<(&str, &str), &'static str>) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("akidb.texts", texts as i64));
        match served {
            Ok((model, variant)) => {
                span.set_attribute(KeyValue::new("akidb.model", model.to_owned()));
                span.set_attribute(KeyValue::new("akidb.variant", variant.to_owned()));
            }
            Err(code) => {
                span.set_attribute(KeyValue::new("error.type", code));
                span.set_status(Status::error(code));
            }
        }
    }
}

/// A batch's span, linked to the spans of its requests that are traced; a batch without such has none.
pub fn batch(links: &[TraceLink], facts: &BatchFacts<'_>) {
    let Some(TraceLink { inner, .. }) = links.first() else { return };
    let links = links.iter().map(|it| Link::with_context(it.context.clone())).collect();
    let span = SpanBuilder::from_name("batch").with_kind(SpanKind::Internal).with_start_time(inner.time(facts.from)).with_links(links);
    let span = span.with_attributes([
        KeyValue::new("akidb.model", facts.model.to_owned()),
        KeyValue::new("akidb.variant", facts.variant.to_owned()),
        KeyValue::new("akidb.texts", facts.texts as i64),
        KeyValue::new("akidb.padded_tokens", facts.padded_tokens as i64),
    ]);
    inner.tracer.build_with_context(span, &Context::new()).end_with_timestamp(inner.time(facts.to));
}

impl Inner {
    fn time(&self, at: Instant) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.clock.unix_ns(at))
    }
}

/// The usual decision; but what is linked to a sampled span is always kept.
#[derive(Debug, Clone)]
struct Sampled(Sampler);

impl ShouldSample for Sampled {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let rule = if links.is_empty() { &self.0 } else { &Sampler::AlwaysOn };
        rule.should_sample(parent, trace, name, kind, attributes, links)
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
