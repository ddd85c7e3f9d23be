//! A control plane of a few lines: it says what a test tells it to, and remembers what it is told.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use akidb_proto::v1;
use akidb_proto::v1::fleet_server::{Fleet, FleetServer};
use akidb_proto::v1::watch_request::Message as In;
use akidb_proto::v1::watch_response::Message as Out;
use futures::Stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What happened so far, and what to say next.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) identities: Vec<v1::Identity>,
    pub(super) tokens: Vec<String>,
    pub(super) acks: Vec<v1::Ack>,
    pub(super) nacks: Vec<v1::Nack>,
    pub(super) statuses: Vec<v1::ArtifactStatus>,
    pub(super) windows: BTreeMap<String, BTreeMap<u64, v1::Window>>,
    pub(super) lost_through: u64,
    /// Sent to whoever opens a stream.
    pub(super) first: Vec<v1::WatchResponse>,
    /// A window that is refused.
    pub(super) refuse: Option<u64>,
    open: Option<mpsc::Sender<Result<v1::WatchResponse, Status>>>,
    hang_up: CancellationToken,
}

#[derive(Clone, Default)]
pub(super) struct Plane {
    pub(super) seen: Arc<Mutex<Seen>>,
}

impl Plane {
    /// Listens on a port until the token is cancelled.
    pub(super) async fn listen(&self, port: u16) -> CancellationToken {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (stop, server) = (CancellationToken::new(), FleetServer::new(self.clone()));
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            let serve = tonic::transport::Server::builder().add_service(server).serve_with_incoming(TcpListenerStream::new(listener));
            tokio::select! {
                end = serve => end.unwrap(),
                () = ended => {}
            }
        });
        stop
    }

    /// Ends the open stream.
    pub(super) fn hang_up(&self) {
        let mut seen = self.seen.lock().unwrap();
        seen.open = None;
        std::mem::take(&mut seen.hang_up).cancel();
    }

    /// To the open stream, and to every later one.
    pub(super) async fn say(&self, message: Out) {
        let response = v1::WatchResponse { message: Some(message) };
        let open = {
            let mut seen = self.seen.lock().unwrap();
            seen.first.push(response.clone());
            seen.open.clone()
        };
        if let Some(open) = open {
            drop(open.send(Ok(response)).await);
        }
    }

    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap())
    }

    /// Waits for something to be seen.
    pub(super) async fn until<T>(&self, what: &str, look: impl Fn(&Seen) -> Option<T>) -> T {
        for _ in 0..9_000 {
            if let Some(found) = look(&self.seen.lock().unwrap()) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("not seen within three minutes: {what}");
    }
}

#[tonic::async_trait]
impl Fleet for Plane {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<Streaming<v1::WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let token = request.metadata().get("authorization").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        let (open, messages) = mpsc::channel(64);
        let seen = self.seen.clone();
        let mut inbox = request.into_inner();
        let hang_up = seen.lock().unwrap().hang_up.clone();
        tokio::spawn(hang_up.run_until_cancelled_owned(async move {
            while let Ok(Some(message)) = inbox.message().await {
                let replies = seen.lock().unwrap().take(message, &token, &open);
                for reply in replies {
                    drop(open.send(Ok(reply)).await);
                }
            }
        }));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let request = request.into_inner();
        let mut seen = self.seen.lock().unwrap();
        if let Some(bad) = request.windows.iter().find(|it| Some(it.sequence) == seen.refuse) {
            return Err(Status::invalid_argument(format!("window {}", bad.sequence)));
        }
        seen.lost_through = seen.lost_through.max(request.lost_through);
        // A hole waits for the window that is missing.
        let mut mark = seen.mark(&request.boot_id).max(request.lost_through);
        for window in request.windows {
            if window.sequence == mark + 1 {
                mark = window.sequence;
                seen.windows.entry(request.boot_id.clone()).or_default().insert(mark, window);
            }
        }
        Ok(Response::new(v1::ReportResponse { epoch: 1, high_water_mark: mark }))
    }
}

impl Seen {
    /// Up to which window a boot is known.
    fn mark(&self, boot: &str) -> u64 {
        self.windows.get(boot).and_then(|it| it.keys().last().copied()).unwrap_or(0)
    }

    fn take(
        &mut self,
        message: v1::WatchRequest,
        token: &str,
        open: &mpsc::Sender<Result<v1::WatchResponse, Status>>,
    ) -> Vec<v1::WatchResponse> {
        match message.message {
            Some(In::Identity(identity)) => {
                let mark = |boot: &String| v1::Mark { boot_id: boot.clone(), high_water_mark: self.mark(boot) };
                let marks = identity.spooled_boots.iter().map(mark).collect();
                self.identities.push(identity);
                self.tokens.push(token.to_owned());
                self.open = Some(open.clone());
                let welcome = v1::WatchResponse { message: Some(Out::Welcome(v1::Welcome { epoch: 1, marks })) };
                return [vec![welcome], self.first.clone()].concat();
            }
            Some(In::Ack(ack)) => self.acks.push(ack),
            Some(In::Nack(nack)) => self.nacks.push(nack),
            Some(In::Artifact(status)) => self.statuses.push(status),
            None => {}
        }
        Vec::new()
    }
}
