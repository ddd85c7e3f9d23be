//! A sidecar as the control plane meets it: a gRPC client with a stream and windows.

use std::time::Duration;

use akidb_proto::v1::fleet_client::FleetClient;
use akidb_proto::v1::{self, watch_request, watch_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::app::TestApp;

/// 2026-01-01T00:00:00Z.
pub(crate) const BOOT_NS: u64 = 1_767_225_600_000_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;
/// How long to wait for what must come, on however busy a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Sidecar<'a> {
    pub(crate) app: &'a TestApp,
    pub(crate) id: String,
    pub(crate) boot: String,
    pub(crate) token: String,
}

/// An open Watch stream.
pub(crate) struct Stream<'a> {
    app: &'a TestApp,
    pub(crate) out: mpsc::Sender<v1::WatchRequest>,
    pub(crate) answers: Streaming<v1::WatchResponse>,
}

impl<'a> Sidecar<'a> {
    pub(crate) fn new(app: &'a TestApp, id: &str, boot: &str) -> Self {
        Self { app, id: id.to_owned(), boot: boot.to_owned(), token: app.admin.clone() }
    }

    async fn client(&self) -> FleetClient<Channel> {
        FleetClient::connect(self.app.grpc.clone()).await.unwrap()
    }

    fn authorised<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        request
    }

    pub(crate) fn identity(&self) -> v1::Identity {
        let device = v1::Device {
            uuid: "cpu-n".into(),
            sku: "cpu".into(),
            region: "local".into(),
            share_ppm: 1_000_000,
            compute_capability: String::new(),
            memory_bytes: 0,
        };
        v1::Identity {
            sidecar_id: self.id.clone(),
            boot_id: self.boot.clone(),
            boot_unix_ns: BOOT_NS,
            pod: "p".into(),
            namespace: "ns".into(),
            app: "app".into(),
            node: "n".into(),
            devices: vec![device],
            ..v1::Identity::default()
        }
    }

    pub(crate) fn watch(&self) -> Result<Stream<'a>, Status> {
        self.watch_as(self.identity())
    }

    pub(crate) fn watch_as(&self, identity: v1::Identity) -> Result<Stream<'a>, Status> {
        self.app.runtime.block_on(async {
            let (out, requests) = mpsc::channel(8);
            out.send(v1::WatchRequest { message: Some(watch_request::Message::Identity(identity)) }).await.unwrap();
            let answers = self.client().await.watch(self.authorised(ReceiverStream::new(requests))).await?.into_inner();
            Ok(Stream { app: self.app, out, answers })
        })
    }

    pub(crate) fn report(&self, windows: Vec<v1::Window>, lost_through: u64) -> Result<u64, Status> {
        self.app.runtime.block_on(self.report_later(windows, lost_through))
    }

    pub(crate) async fn report_later(&self, windows: Vec<v1::Window>, lost_through: u64) -> Result<u64, Status> {
        let message =
            v1::ReportRequest { sidecar_id: self.id.clone(), boot_id: self.boot.clone(), boot_unix_ns: BOOT_NS, windows, lost_through };
        Ok(self.client().await.report(self.authorised(message)).await?.into_inner().high_water_mark)
    }
}

impl Stream<'_> {
    /// The next message, which must come.
    pub(crate) fn next(&mut self) -> watch_response::Message {
        self.try_next(PATIENCE).expect("a message within a minute").unwrap()
    }

    /// The next message, if it comes in time; an error when the stream ends.
    pub(crate) fn try_next(&mut self, within: Duration) -> Option<Result<watch_response::Message, Status>> {
        let next = async { tokio::time::timeout(within, self.answers.message()).await };
        let got = self.app.runtime.block_on(next).ok()?;
        Some(got.and_then(|it| it.and_then(|it| it.message).ok_or_else(|| Status::cancelled("end"))))
    }

    pub(crate) fn welcome(&mut self) -> v1::Welcome {
        match self.next() {
            watch_response::Message::Welcome(it) => it,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn snapshot(&mut self) -> v1::Snapshot {
        match self.next() {
            watch_response::Message::Snapshot(it) => it,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn send(&self, message: watch_request::Message) {
        self.app.runtime.block_on(self.out.send(v1::WatchRequest { message: Some(message) })).unwrap();
    }
}

/// A window of one second with one lane that was busy for half of it.
pub(crate) fn window(sequence: u64, requests: u64) -> v1::Window {
    let start_ns = BOOT_NS + (sequence - 1) * SECOND;
    v1::Window {
        sequence,
        snapshot: Some(v1::SnapshotVersion { epoch: 1, n: 1 }),
        start_ns,
        end_ns: start_ns + SECOND,
        device: Some(v1::DeviceUsage {
            uuid: "cpu-n".into(),
            sku: "cpu".into(),
            region: "local".into(),
            share_ppm: 1_000_000,
            busy_ns: SECOND / 2,
            ..v1::DeviceUsage::default()
        }),
        lanes: vec![lane(requests, requests * 10, SECOND / 2)],
        ..v1::Window::default()
    }
}

pub(crate) fn lane(requests: u64, tokens: u64, engine_ns: u64) -> v1::LaneUsage {
    v1::LaneUsage {
        lane: Some(v1::Lane {
            model: "m".into(),
            version: "1".into(),
            variant: "fp32".into(),
            precision: "fp32".into(),
            arm: "baseline".into(),
            provider: "cpu".into(),
            ..v1::Lane::default()
        }),
        requests,
        texts: requests,
        tokens,
        padded_tokens: tokens,
        engine_ns,
        batches: 1,
        ..v1::LaneUsage::default()
    }
}
