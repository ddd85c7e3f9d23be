//! HTTP to the control plane.
//!
//! Enters: paths under `/api/v1`, bodies, the token. Leaves: an [`Answer`] with a 2xx status, or a [`Failure`]. Never: a retry, or a
//! redirect (the token would travel with it).

use std::io::{ErrorKind, Read};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Method, Request, Response, Uri};
use ureq::{Agent, AsSendBody, Body, SendBody};

use crate::failure::Failure;
use crate::units;

/// Largest answer that is read: a page of 1,000 rows is far below it.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// A connection to one control plane.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    server: String,
    authorization: String,
}

/// A success.
#[derive(Debug)]
pub struct Answer {
    /// As it came.
    pub body: Vec<u8>,
}

/// `{"error": {...}}`, as every route answers it.
#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: String,
    message: String,
}

impl Client {
    /// A client of the server at this base URL; nothing is sent yet.
    pub fn new(server: &str, token: &str) -> Result<Self, Failure> {
        let server = server.trim_end_matches('/').to_owned();
        let uri: Option<Uri> = server.parse().ok();
        if !uri.is_some_and(|it| matches!(it.scheme_str(), Some("http" | "https")) && it.host().is_some()) {
            return Err(Failure::Input(format!("--server `{server}` is not a base URL: write e.g. `http://127.0.0.1:7070`")));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("akidb/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(10)))
            // An import of uploaded blobs answers when all of them are verified.
            .timeout_recv_response(Some(Duration::from_mins(10)))
            .timeout_recv_body(Some(Duration::from_mins(2)))
            .build();
        Ok(Self { agent: Agent::new_with_config(config), server, authorization: format!("Bearer {token}") })
    }

    /// GET with query parameters; those without a value are left out.
    pub fn get(&self, path: &str, query: &[(&str, Option<String>)]) -> Result<Answer, Failure> {
        self.checked(self.run(self.request(Method::GET, &with_query(path, query)), ())?)
    }

    /// POST of a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        self.checked(self.run(request, body.to_string())?)
    }

    /// POST without a body, with query parameters.
    pub fn step(&self, path: &str, query: &[(&str, Option<String>)]) -> Result<Answer, Failure> {
        self.checked(self.run(self.request(Method::POST, &with_query(path, query)), ())?)
    }

    /// GET of server-sent events after the one with this id. They come for as long as the server likes.
    pub fn events(&self, path: &str, after: Option<&str>) -> Result<impl Read + 'static, Failure> {
        let mut request = self.request(Method::GET, path);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let request = request.body(()).map_err(|error| unwritable(&error))?;
        let request = self.agent.configure_request(request).timeout_recv_body(None).build();
        let response = self.agent.run(request).map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            Ok(response.into_body().into_reader())
        } else {
            Err(self.checked(response).err().unwrap_or_else(no_reason))
        }
    }

    /// PUT of a JSON body with one further header (`if-match`, `if-none-match`).
    pub fn put(&self, path: &str, header: Option<(&str, &str)>, body: &Value) -> Result<Answer, Failure> {
        let mut request = self.request(Method::PUT, path).header("content-type", "application/json");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        self.checked(self.run(request, body.to_string())?)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.checked(self.run(self.request(Method::DELETE, path), ())?)
    }

    /// GET of something that may not be there.
    pub fn find(&self, path: &str) -> Result<Option<Answer>, Failure> {
        let response = self.run(self.request(Method::GET, path), ())?;
        if response.status() == 404 { Ok(None) } else { self.checked(response).map(Some) }
    }

    /// Whether the server has the blob with this digest.
    pub fn has_blob(&self, sha256: &str) -> Result<bool, Failure> {
        let response = self.run(self.request(Method::HEAD, &format!("blobs/{sha256}")), ())?;
        if response.status() == 404 { Ok(false) } else { self.checked(response).map(|_| true) }
    }

    /// Uploads a blob of a known size; the server checks the digest again. It is asked first whether it wants the bytes; a server that
    /// refuses midway closes the connection, so that its answer is lost.
    pub fn put_blob(&self, sha256: &str, bytes: u64, content: &mut dyn Read) -> Result<Answer, Failure> {
        let request = self.request(Method::PUT, &format!("blobs/{sha256}"));
        let request =
            request.header("content-type", "application/octet-stream").header("content-length", bytes).header("expect", "100-continue");
        let request = request.body(SendBody::from_reader(content)).map_err(|error| unwritable(&error))?;
        match self.agent.run(request) {
            Ok(response) => self.checked(response).map_err(|failure| match failure {
                Failure::Refused(why) => Failure::Refused(format!("an upload of {}: {why}", units::bytes(bytes))),
                other => other,
            }),
            Err(ureq::Error::Io(error)) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(Failure::Refused(format!(
                    "the server ended an upload of {} midway ({error}): it refuses files over its `max_blob_bytes`, or has no room left; its log says which",
                    units::bytes(bytes)
                )))
            }
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn request(&self, method: Method, path: &str) -> ureq::http::request::Builder {
        let builder = Request::builder().method(method).uri(format!("{}/api/v1/{path}", self.server));
        builder.header("authorization", &self.authorization)
    }

    fn run(&self, request: ureq::http::request::Builder, body: impl AsSendBody) -> Result<Response<Body>, Failure> {
        let request = request.body(body).map_err(|error| unwritable(&error))?;
        self.agent.run(request).map_err(|error| self.unreachable(&error))
    }

    fn checked(&self, mut response: Response<Body>) -> Result<Answer, Failure> {
        let status = response.status();
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec().map_err(|error| self.unreachable(&error))?;
        if status.is_success() { Ok(Answer { body }) } else { Err(Failure::Refused(refusal(&self.server, status.as_u16(), &body))) }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::Unreachable { server: self.server.clone(), cause: error.to_string() }
    }
}

impl Answer {
    /// The fields that will be printed.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Refused(format!("the server's answer is not what akidb {} expects: {error}", env!("CARGO_PKG_VERSION")))
        })
    }
}

fn with_query(path: &str, query: &[(&str, Option<String>)]) -> String {
    let given = query.iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(value.as_ref()?))));
    let query = given.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn no_reason() -> Failure {
    Failure::Refused("the server refused and gave no reason".to_owned())
}

fn unwritable(error: &ureq::http::Error) -> Failure {
    Failure::Input(format!("the request cannot be written: {error}"))
}

/// One sentence of an error answer, with the way out where the server cannot know it.
fn refusal(server: &str, status: u16, body: &[u8]) -> String {
    let Ok(ErrorBody { error }) = serde_json::from_slice(body) else {
        return match (status, body) {
            // The answer to a HEAD has no body.
            (_, []) => format!("the server refused (HTTP {status}); {}", way_out(status)),
            _ => format!("{server} answered HTTP {status} and not as a control plane does; is --server right?"),
        };
    };
    let way_out = way_out(status);
    let end = if way_out.is_empty() { String::new() } else { format!("; {way_out}") };
    format!("{} ({}, HTTP {status}){end}", error.message.trim_end_matches('.'), error.code)
}

fn way_out(status: u16) -> &'static str {
    match status {
        401 => "check --token, --token-file, AKIDB_TOKEN and AKIDB_TOKEN_FILE, or ask an admin for `akidb tokens create`",
        403 => "use a token of role admin",
        412 => "look at the present revision with `akidb aliases list` and try again",
        429 => "wait a second and try again",
        _ => "",
    }
}

/// Percent-encodes what may stand in a path segment or a query value.
pub(crate) fn encode(text: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if unreserved(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encode("all-MiniLM_L6.v2"), "all-MiniLM_L6.v2");
        assert_eq!(encode("a/b?c d+ü"), "a%2Fb%3Fc%20d%2B%C3%BC");
    }

    #[test]
    fn a_refusal_is_one_sentence() {
        let body = br#"{"error": {"code": "stale", "message": "alias is at revision 3, not 1.", "retryable": false}}"#;
        let sentence = refusal("http://h", 412, body);
        assert!(sentence.starts_with("alias is at revision 3, not 1 (stale, HTTP 412); look at"), "{sentence}");
        assert!(refusal("http://h", 502, b"<html>").contains("http://h answered HTTP 502"));
    }

    #[test]
    fn a_server_is_a_base_url() {
        for server in ["", "127.0.0.1:7070", "ftp://h", "http://"] {
            assert_eq!(Client::new(server, "t").unwrap_err().exit_code(), 2, "{server}");
        }
        assert_eq!(Client::new("http://h:1/", "t").unwrap().server, "http://h:1");
    }
}
