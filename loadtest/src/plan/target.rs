//! Where requests go. Enters: a URL. Leaves: its parts, or why it cannot be meant. Never: I/O.

use std::str::FromStr;

use hyper::Uri;

use super::BadPlan;

/// Where requests go: plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As given.
    pub url: String,
    /// `host:port`, for the connection.
    pub address: String,
    /// For the `host` header.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// Another path of the same server.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        Self { url: format!("http://{}{path}", self.authority), path: path.to_owned(), ..self.clone() }
    }
}

impl FromStr for Target {
    type Err = BadPlan;

    fn from_str(url: &str) -> Result<Self, BadPlan> {
        let bad = |why: &str| BadPlan(format!("--url `{url}` {why}: write e.g. `http://127.0.0.1:8080/api/v1/embed`"));
        let uri: Uri = url.parse().map_err(|_| bad("is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("does not start with http://"));
        }
        let authority = uri.authority().ok_or_else(|| bad("has no host"))?;
        let path = uri.path_and_query().map_or("/", |it| it.as_str());
        Ok(Self {
            url: url.to_owned(),
            address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)),
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_port_and_path() {
        let target: Target = "http://localhost/api?x=1".parse().unwrap();
        assert_eq!((target.address.as_str(), target.path.as_str()), ("localhost:80", "/api?x=1"));
        let target: Target = "http://[::1]:8080".parse().unwrap();
        assert_eq!((target.address.as_str(), target.path.as_str()), ("[::1]:8080", "/"));
        assert!("https://h/".parse::<Target>().unwrap_err().to_string().contains("does not start with http://"));
        assert!("h:80".parse::<Target>().is_err());
    }
}
