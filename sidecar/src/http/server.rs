//! Sockets and connections.
//!
//! Enters: a bound listener and a router. Leaves: answers; it returns when told to stop and every request in flight is answered, or the
//! grace is over. Never: Nagle's delay.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one HTTP/2 connection at a time.
const STREAMS: u32 = 1_024;
/// Wait after `accept` fails, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where clients come in.
#[derive(Debug)]
pub enum Listener {
    /// `127.0.0.1:8080`, say.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
}

/// Serves until `stop`, then finishes what is in flight, for at most `grace`.
pub async fn serve(listener: Listener, router: Router, stop: CancellationToken, grace: Duration) {
    let graceful = GracefulShutdown::new();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            done = accept(&listener, &builder, &router, graceful.watcher()) => {
                if let Err(error) = done {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(grace_s = grace.as_secs(), "requests were still in flight when the grace ended");
    }
}

async fn accept(listener: &Listener, builder: &Builder<TokioExecutor>, router: &Router, watcher: Watcher) -> std::io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            connect(stream, builder, router, watcher);
        }
        Listener::Unix(listener) => connect(listener.accept().await?.0, builder, router, watcher),
    }
    Ok(())
}

fn connect<S>(stream: S, builder: &Builder<TokioExecutor>, router: &Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (builder, service) = (builder.clone(), router.clone().map_request(|it: Request<Incoming>| it.map(axum::body::Body::new)));
    tokio::spawn(async move {
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        // A client that breaks off is no fault of ours.
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
}
