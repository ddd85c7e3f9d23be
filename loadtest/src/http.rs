//! One GET, for metrics and facts.
//!
//! Enters: a target. Leaves: the body of a 200, or why there is none. Never: a request that is part of a measurement.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::plan::Target;

const LIMIT: Duration = Duration::from_secs(10);

/// A service that did not answer as it should; the message has its address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {why}")]
pub struct Unreachable {
    url: String,
    why: String,
}

impl Unreachable {
    /// Says what is wrong with a target's answer.
    pub fn new(target: &Target, why: &str) -> Self {
        Self { url: target.url.clone(), why: why.to_owned() }
    }
}

/// The body of a 200, within 10 s.
pub async fn get_ok(target: &Target) -> Result<Bytes, Unreachable> {
    match timeout(LIMIT, get(target)).await {
        Ok(Ok((StatusCode::OK, body))) => Ok(body),
        Ok(Ok((status, body))) => {
            let said: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            Err(Unreachable::new(target, &format!("answered {status} {said}")))
        }
        Ok(Err(error)) => Err(Unreachable::new(target, &format!("{error:#}"))),
        Err(_) => Err(Unreachable::new(target, &format!("no answer within {} s", LIMIT.as_secs()))),
    }
}

async fn get(target: &Target) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(&target.address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with its sender; what breaks it reaches the sender too.
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::get(&target.path).header(HOST, &target.authority).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
