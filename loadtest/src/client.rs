//! One connection that sends one request at a time.
//!
//! Enters: a body. Leaves: what became of it. Never: a second attempt; a retry would hide a failure from the account.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::plan::{Plan, Target};

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, of any status.
    Answered(Answer),
    /// No answer, and why.
    Failed(Failure),
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `retry-after`, seconds.
    pub retry_after_seconds: Option<u64>,
    /// `x-akidb-variant`.
    pub variant: Option<String>,
    /// Bytes of the body.
    pub bytes: u64,
}

/// Why there is no usable answer; the word is its key in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The server could not be connected to.
    Connect,
    /// The connection broke before the answer's end.
    Broken,
    /// No answer within the plan's timeout.
    Timeout,
    /// A success with another number of vectors than texts were sent.
    BadAnswer,
    /// Due, but the run ended before a client was free.
    Unsent,
}

impl Failure {
    /// Its key in the report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::BadAnswer => "bad_answer",
            Self::Unsent => "unsent",
        }
    }
}

/// A client of a run.
#[derive(Debug)]
pub struct Client {
    target: Target,
    /// Instead of the target's address.
    socket: Option<PathBuf>,
    timeout: Duration,
    app: Option<String>,
    /// Vectors expected of each answer, when they are counted.
    vectors: Option<usize>,
    sender: Option<SendRequest<Full<Bytes>>>,
    /// Connections made so far.
    pub connections: u64,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(plan: &Plan) -> Self {
        let vectors = plan.check.then_some(plan.batch as usize);
        Self {
            target: plan.target.clone(),
            socket: plan.socket.clone(),
            timeout: plan.timeout,
            app: plan.app.clone(),
            vectors,
            sender: None,
            connections: 0,
        }
    }

    /// Sends one body and reads the answer to its end, connecting first when there is no connection.
    pub async fn send(&mut self, body: Bytes) -> Outcome {
        match timeout(self.timeout, self.exchange(body)).await {
            Ok(Ok(answer)) => Outcome::Answered(answer),
            Ok(Err(failure)) => Outcome::Failed(failure),
            Err(_) => {
                // The late answer must not be taken for that of the next request.
                self.sender = None;
                Outcome::Failed(Failure::Timeout)
            }
        }
    }

    async fn exchange(&mut self, body: Bytes) -> Result<Answer, Failure> {
        let mut request = Request::post(&self.target.path).header(HOST, &self.target.authority).header(CONTENT_TYPE, "application/json");
        if let Some(app) = &self.app {
            request = request.header("x-akidb-app", app);
        }
        let request = request.body(Full::new(body)).map_err(|_| Failure::Broken)?;
        let mut sender = self.connected().await?;
        let response = sender.send_request(request).await.map_err(|_| Failure::Broken)?;
        let answer = self.read(response).await;
        // After a broken answer the connection is not trusted.
        self.sender = answer.is_ok().then_some(sender);
        answer
    }

    async fn connected(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let sender = if let Some(socket) = &self.socket {
            speak(UnixStream::connect(socket).await.map_err(|_| Failure::Connect)?).await?
        } else {
            let stream = TcpStream::connect(&self.target.address).await.map_err(|_| Failure::Connect)?;
            stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
            speak(stream).await?
        };
        self.connections += 1;
        Ok(sender)
    }

    async fn read<B>(&self, response: Response<B>) -> Result<Answer, Failure>
    where
        B: hyper::body::Body,
    {
        let header = |name| response.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
        let (status, variant) = (response.status(), header("x-akidb-variant"));
        let retry_after_seconds = header(RETRY_AFTER.as_str()).and_then(|it| it.parse().ok());
        let body = response.into_body().collect().await.map_err(|_| Failure::Broken)?.to_bytes();
        if status == StatusCode::OK && self.vectors.is_some_and(|expected| count_vectors(&body) != expected) {
            return Err(Failure::BadAnswer);
        }
        Ok(Answer { status: status.as_u16(), retry_after_seconds, variant, bytes: body.len() as u64 })
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Connect)?;
    // Ends with its sender; what breaks it reaches the sender too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

#[derive(Deserialize)]
struct Vectors {
    embedding: Option<IgnoredAny>,
    #[serde(default)]
    embeddings: Vec<IgnoredAny>,
}

fn count_vectors(body: &[u8]) -> usize {
    serde_json::from_slice::<Vectors>(body).map_or(0, |it| it.embeddings.len() + usize::from(it.embedding.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_counted_in_both_forms() {
        for (body, expected) in [(r#"{"embedding": [0.5]}"#, 1), (r#"{"embeddings": [[1], "AAA="]}"#, 2), ("{}", 0), ("not JSON", 0)] {
            assert_eq!(count_vectors(body.as_bytes()), expected, "{body}");
        }
    }
}
