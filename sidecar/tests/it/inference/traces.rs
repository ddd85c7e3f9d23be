//! Spans as a collector gets them over OTLP.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use akidb_sidecar::config::{Config, Traces};
use akidb_sidecar::http::Limits;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::json;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::rig::Rig;
use super::{agent, patient, send, until, waiting};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A collector that hands over what it gets.
struct Collector(Sender<Span>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let name = resource.resource.iter().flat_map(|it| &it.attributes).find(|it| it.key == "service.name");
            assert!(format!("{name:?}").contains("akidb-sidecar"));
            resource.scope_spans.into_iter().flat_map(|it| it.spans).for_each(|it| self.0.send(it).unwrap());
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A rig that traces what its callers trace, and a `ratio` of the rest.
fn traced(ratio: f64) -> (Rig, Receiver<Span>) {
    let (sender, spans) = channel();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let traces = Traces { otlp_endpoint: Some(format!("http://{}", listener.local_addr().unwrap())), sample_ratio: ratio };
    let rig = Rig::start_traced(patient(), Limits::default(), &traces);
    rig.runtime.spawn(async {
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
        let collector = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
        collector.serve_with_incoming(incoming).await.unwrap();
    });
    (rig, spans)
}

fn ask(rig: &Rig, traceparent: Option<&str>, text: &str) -> u16 {
    let mut request = agent().post(rig.url("/v1/embeddings")).content_type("application/json").header("baggage", "secret=1");
    if let Some(it) = traceparent {
        request = request.header("traceparent", it);
    }
    send(request.send(json!({ "model": "all-MiniLM-L6-v2", "input": text }).to_string())).status
}

/// What was sent, once it is so many spans or more: a flush gives up after some seconds.
fn sent(rig: &Rig, spans: &Receiver<Span>, least: usize) -> Vec<Span> {
    let mut all = Vec::new();
    until("as many spans", || {
        rig.state.traces.flush();
        all.extend(spans.try_iter());
        all.len() >= least
    });
    all
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|it| it.name == name).collect()
}

#[test]
fn the_callers_trace_goes_on_through_stages_and_batch() {
    let (rig, spans) = traced(0.0);
    assert_eq!(ask(&rig, Some(&format!("00-{TRACE}-{CALLER}-01")), "hello"), 200);
    let spans = sent(&rig, &spans, 5);
    let request = named(&spans, "embed")[0];
    assert_eq!((hex::encode(&request.trace_id), hex::encode(&request.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    let mut end = request.start_time_unix_nano;
    for stage in ["tokenize", "queue", "infer"] {
        let [span] = named(&spans, stage)[..] else { panic!("one {stage}: {spans:?}") };
        assert_eq!((&span.trace_id, &span.parent_span_id), (&request.trace_id, &request.span_id), "{stage}");
        assert!(span.start_time_unix_nano >= end && span.end_time_unix_nano >= span.start_time_unix_nano, "{stage}");
        end = span.end_time_unix_nano;
    }
    assert!(end <= request.end_time_unix_nano);
    let [batch] = named(&spans, "batch")[..] else { panic!("one batch: {spans:?}") };
    assert_eq!(batch.links.iter().map(|it| (&it.trace_id, &it.span_id)).collect::<Vec<_>>(), [(&request.trace_id, &request.span_id)]);
    assert_ne!(batch.trace_id, request.trace_id);
    assert_eq!(spans.len(), 5);
    let said = format!("{spans:?}");
    assert!(!said.contains("secret") && !said.contains("hello") && said.contains("fp32"));
}

#[test]
fn the_sampled_flag_and_the_ratio_decide() {
    let (rig, spans) = traced(0.0);
    assert_eq!(ask(&rig, None, "a"), 200);
    assert_eq!(ask(&rig, Some(&format!("00-{TRACE}-{CALLER}-00")), "a"), 200);
    assert_eq!(sent(&rig, &spans, 0), []);
    assert_eq!(ask(&rig, Some(&format!("00-{TRACE}-{CALLER}-01")), ""), 422);
    let failed = sent(&rig, &spans, 1);
    assert_eq!(failed.len(), 1);
    assert!(format!("{failed:?}").contains("error.type") && failed[0].status.as_ref().is_some_and(|it| it.code == 2), "{failed:?}");

    let (rig, spans) = traced(1.0);
    assert_eq!(ask(&rig, None, "a"), 200);
    assert_eq!(ask(&rig, Some(&format!("00-{TRACE}-{CALLER}-00")), "a"), 200);
    assert_eq!(named(&sent(&rig, &spans, 5), "embed").len(), 1);
}

#[test]
fn a_batch_points_at_all_its_requests() {
    let (rig, spans) = traced(1.0);
    let (busy, held) = rig.held("busy");
    rig.publish(vec![rig.real(), busy], None);
    std::thread::scope(|scope| {
        // The device is busy until all wait. The request that keeps it busy is not traced.
        let untraced = agent().post(rig.url("/v1/embeddings")).header("traceparent", format!("00-{TRACE}-{CALLER}-00"));
        let body = json!({ "model": "all-MiniLM-L6-v2@busy", "input": "a" }).to_string();
        scope.spawn(|| send(untraced.content_type("application/json").send(body)));
        held.inside();
        for i in 0..16 {
            let rig = &rig;
            scope.spawn(move || assert_eq!(ask(rig, None, &format!("text {i}")), 200));
        }
        until("16 texts that wait", || waiting(&rig, "fp32") == 16);
        drop(held);
    });
    let spans = sent(&rig, &spans, 16 * 4 + 1);
    let mut linked: Vec<_> = named(&spans, "batch").iter().flat_map(|it| &it.links).map(|it| it.span_id.clone()).collect();
    let mut asked: Vec<_> = named(&spans, "embed").iter().map(|it| it.span_id.clone()).collect();
    linked.sort();
    asked.sort();
    assert_eq!((linked.len(), linked), (16, asked));
    assert!(named(&spans, "batch").len() < 16);
}

#[test]
fn settings_of_traces_and_of_logged_texts() {
    let read = |more: &str, env: &[(&str, &str)]| {
        let env: BTreeMap<String, String> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let text = format!("[control_plane]\naddress = \"http://localhost:7071\"\n{more}");
        Config::parse(&text, Path::new("/"), &env).map_err(|it| it.to_string())
    };
    let usual = read("", &[]).unwrap();
    assert_eq!((usual.traces.otlp_endpoint, usual.logs.texts.share), (None, 0.0));
    let standard = read("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317")]).unwrap();
    assert_eq!(standard.traces, Traces { otlp_endpoint: Some("http://a:4317".into()), sample_ratio: 1.0 });
    let ours = read(
        "[traces]\notlp_endpoint = \"http://b:4317\"\nsample_ratio = 0.25\n[logs]\nembed_request_sample = 1",
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"), ("AKIDB_EMBED_REQUEST_SAMPLE", "0.5")],
    )
    .unwrap();
    assert_eq!(ours.traces, Traces { otlp_endpoint: Some("http://b:4317".into()), sample_ratio: 0.25 });
    assert!((ours.logs.texts.share - 0.5).abs() < 1e-9);
    let wrong =
        "[traces]\notlp_endpoint = \"https://c\"\nsample_ratio = 2\n[logs]\nembed_request_sample = -1\nembed_request_per_second = 0";
    let errors = read(wrong, &[]).unwrap_err();
    for key in ["traces.otlp_endpoint", "traces.sample_ratio", "logs.embed_request_sample", "logs.embed_request_per_second"] {
        assert!(errors.contains(key), "{errors}");
    }
}
