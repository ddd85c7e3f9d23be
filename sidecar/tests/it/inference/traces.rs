//! Spans as a collector gets them over OTLP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use akidb_sidecar::batcher::BatcherConfig;
use akidb_sidecar::config::{Config, Traces};
use akidb_sidecar::http::Limits;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::json;
use tonic::{Request, Response, Status};

use super::rig::Rig;
use super::{agent, send};

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
    let address = SocketAddr::from(([127, 0, 0, 1], akidb_testkit::free_port()));
    let traces = Traces { otlp_endpoint: Some(format!("http://{address}")), sample_ratio: ratio };
    let rig = Rig::start_traced(BatcherConfig::default(), Limits::default(), &traces);
    rig.runtime.spawn(tonic::transport::Server::builder().add_service(TraceServiceServer::new(Collector(sender))).serve(address));
    let until = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
    (rig, spans)
}

fn ask(rig: &Rig, traceparent: Option<&str>, text: &str) -> u16 {
    let mut request = agent().post(rig.url("/v1/embeddings")).content_type("application/json").header("baggage", "secret=1");
    if let Some(it) = traceparent {
        request = request.header("traceparent", it);
    }
    send(request.send(json!({ "model": "all-MiniLM-L6-v2", "input": text }).to_string())).status
}

fn sent(rig: &Rig, spans: &Receiver<Span>) -> Vec<Span> {
    rig.state.traces.flush();
    spans.try_iter().collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|it| it.name == name).collect()
}

#[test]
fn the_callers_trace_goes_on_through_stages_and_batch() {
    let (rig, spans) = traced(0.0);
    assert_eq!(ask(&rig, Some(&format!("00-{TRACE}-{CALLER}-01")), "hello"), 200);
    let spans = sent(&rig, &spans);
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
    assert_eq!(sent(&rig, &spans), []);
    assert_eq!(ask(&rig, Some(&format!("00-{TRACE}-{CALLER}-01")), ""), 422);
    let failed = sent(&rig, &spans);
    assert_eq!(failed.len(), 1);
    assert!(format!("{failed:?}").contains("error.type") && failed[0].status.as_ref().is_some_and(|it| it.code == 2), "{failed:?}");

    let (rig, spans) = traced(1.0);
    assert_eq!(ask(&rig, None, "a"), 200);
    assert_eq!(ask(&rig, Some(&format!("00-{TRACE}-{CALLER}-00")), "a"), 200);
    assert_eq!(named(&sent(&rig, &spans), "embed").len(), 1);
}

#[test]
fn a_batch_points_at_all_its_requests() {
    let (rig, spans) = traced(1.0);
    std::thread::scope(|scope| {
        for i in 0..16 {
            let rig = &rig;
            scope.spawn(move || assert_eq!(ask(rig, None, &format!("text {i}")), 200));
        }
    });
    let spans = sent(&rig, &spans);
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
