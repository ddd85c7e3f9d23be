//! Sockets and connections.
//!
//! Enters: a bound listener and a router. Leaves: answers; it returns when told to stop and every request in flight is answered, or the
//! grace is over. Never: Nagle's delay.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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

/// How long a client may say nothing, before its first request and between two. Longer than clients keep idle connections, so that none
/// finds its connection closed just as it sends.
const PATIENCE: Duration = Duration::from_secs(300);
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
    serve_patiently(listener, router, stop, grace, PATIENCE).await;
}

async fn serve_patiently(listener: Listener, router: Router, stop: CancellationToken, grace: Duration, patience: Duration) {
    let graceful = GracefulShutdown::new();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            done = accept(&listener, &builder, &router, graceful.watcher(), patience) => {
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

async fn accept(
    listener: &Listener,
    builder: &Builder<TokioExecutor>,
    router: &Router,
    watcher: Watcher,
    patience: Duration,
) -> std::io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            connect(stream, builder, router, watcher, patience);
        }
        Listener::Unix(listener) => connect(listener.accept().await?.0, builder, router, watcher, patience),
    }
    Ok(())
}

fn connect<S>(stream: S, builder: &Builder<TokioExecutor>, router: &Router, watcher: Watcher, patience: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = Arc::new(AtomicBool::new(false));
    let (builder, router, noted) = (builder.clone(), router.clone(), asked.clone());
    let service = router.map_request(move |it: Request<Incoming>| {
        noted.store(true, Relaxed);
        it.map(axum::body::Body::new)
    });
    tokio::spawn(async move {
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = pin!(watcher.watch(connection));
        // Which version a client speaks is seen by its first bytes, for which the builder alone would wait for ever.
        let ended = match tokio::time::timeout(patience, connection.as_mut()).await {
            Ok(ended) => ended,
            Err(_) if asked.load(Relaxed) => connection.await,
            Err(_) => return,
        };
        // A client that breaks off is no fault of ours.
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    });
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// The end of what is answered to these bytes before the connection is closed, which must be soon.
    async fn check(sent: &str, expected: &str) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let slow = async || {
            tokio::time::sleep(Duration::from_millis(400)).await;
            "slow"
        };
        let router = Router::new().route("/", get(slow));
        let server = serve_patiently(Listener::Tcp(listener), router, stop.clone(), Duration::from_millis(50), Duration::from_millis(200));
        let server = tokio::spawn(server);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await;
        assert!(closed.is_ok_and(|it| it.is_ok()) && answer.ends_with(expected), "`{sent}`: {answer}");
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_client_does_not_keep_its_connection_and_a_slow_answer_comes() {
        check("", "").await;
        check("P", "").await;
        check("GET / HTTP/1.1\r\nhost:", "").await;
        check("GET / HTTP/1.1\r\nhost: h\r\n\r\n", "slow").await;
    }
}
