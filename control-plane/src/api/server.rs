//! Connections of the REST API.
//!
//! Enters: a bound listener and a router. Leaves: answers; it returns when told to stop and every request in flight is answered. Never: a
//! connection that waits for nothing for ever, or more of them than the bound; the rest wait in the system's backlog.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::RequestBodyTimeoutLayer;

/// Connections at a time.
const CONNECTIONS: usize = 1_024;
/// Wait after `accept` fails, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a client may say nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until its request's head is whole, and between requests.
    pub(crate) head: Duration,
    /// Between two pieces of a body.
    pub(crate) body: Duration,
}

/// What every start has.
pub(crate) const PATIENCE: Patience = Patience { head: Duration::from_secs(30), body: Duration::from_secs(30) };

/// Serves until `stop`, then finishes what is in flight.
pub(crate) async fn serve(listener: TcpListener, router: Router, patience: Patience, stop: CancellationToken) {
    let (graceful, free) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let router = router.layer(RequestBodyTimeoutLayer::new(patience.body));
    // One version: finding out which one a client speaks would wait for ever for one that says nothing.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.head);
    loop {
        let next = async {
            let permit = free.clone().acquire_owned().await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>((permit, listener.accept().await?.0))
        };
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = next => match accepted {
                Ok((permit, stream)) => connect(stream, permit, &builder, &router, graceful.watcher()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

fn connect(stream: TcpStream, permit: OwnedSemaphorePermit, builder: &Builder<TokioExecutor>, router: &Router, watcher: Watcher) {
    let (builder, service) = (builder.clone(), TowerToHyperService::new(router.clone()));
    tokio::spawn(async move {
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        // A client that breaks off is no fault of ours.
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
        drop(permit);
    });
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::body::to_bytes;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What a server answers to these bytes before it closes the connection, which it must do soon.
    async fn check(sent: &str, expected: &str) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let read = async |body: axum::body::Body| if to_bytes(body, 1_000).await.is_ok() { "whole" } else { "broken off" };
        let (router, stop) = (Router::new().route("/", post(read)), CancellationToken::new());
        let patience = Patience { head: Duration::from_millis(200), body: Duration::from_millis(200) };
        let server = tokio::spawn(serve(listener, router, patience, stop.clone()));
        let (mut stream, begun) = (TcpStream::connect(address).await.unwrap(), Instant::now());
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await;
        assert!(closed.is_ok_and(|it| it.is_ok()), "`{sent}` holds its connection after {:?}", begun.elapsed());
        assert!(answer.contains(expected), "`{sent}` was answered `{answer}`");
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_client_does_not_keep_its_connection() {
        check("", "").await;
        check("P", "").await;
        check("POST / HTTP/1.1\r\nhost:", "").await;
        check("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nfour", "broken off").await;
        check("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nfour", "whole").await;
    }
}
