//! The command line's way to a server: JSON over HTTP, and errors that say what to do.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use clap::Args;
use reqwest::{Method, RequestBuilder, Url, header};
use sequin_actors::model::Secret;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{output::note, problem::Problem, with_causes};

/// Which server to speak to, and as whom.
#[derive(Args)]
pub(super) struct Server {
    /// Where the server is.
    #[arg(long, global = true, env = "SEQUIN_URL", default_value = "http://127.0.0.1:7376", value_parser = parse_url)]
    #[arg(help_heading = "Everywhere")]
    url: Url,
    /// The token that the server asks for.
    #[arg(long, global = true, env = "SEQUIN_TOKEN", hide_env_values = true, help_heading = "Everywhere")]
    token: Option<String>,
}

impl Server {
    pub(super) fn client(self) -> Result<Client, ClientError> {
        Client::new(self.url, self.token.map(Secret::new))
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let takes = "takes the URL of a server, such as http://127.0.0.1:7376";
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(url) if url.scheme().starts_with("postgres") => {
            Err(format!("{takes}; a database stands without --url: `sequin target add NAME DATABASE_URL`"))
        }
        Ok(_) => Err(takes.into()),
        Err(error) => Err(format!("{takes} ({error})")),
    }
}

/// A request that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No answer came.
    #[error("no answer from {url}: {cause}\nis `sequin serve` running there? --url or SEQUIN_URL says where it is")]
    Unreachable {
        /// Where the server should be.
        url: Url,
        /// What happened instead.
        cause: String,
    },
    /// The server said no.
    #[error("{problem}")]
    Refused {
        /// What it said.
        problem: Box<Problem>,
        /// When to ask again, if it said that.
        retry_after: Option<Duration>,
    },
    /// The server is none of ours, or one of another version.
    #[error("{url} gave an answer that is not understood: {cause}")]
    NotUnderstood {
        /// What was asked.
        url: Url,
        /// What is wrong with the answer.
        cause: String,
    },
    /// The means to ask are not there.
    #[error("HTTP can't be spoken here: {0}")]
    Setup(String),
}

impl ClientError {
    /// Whether the same request may succeed in a while.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { problem, .. } => matches!(problem.status, 429 | 502..=504),
            Self::NotUnderstood { .. } | Self::Setup(_) => false,
        }
    }
}

/// A server to ask.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret>,
}

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take: longer than the server gives itself.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How many of a list to ask for at once: as many as there are to be had.
const PAGE: &str = "1000";

/// What the server said: JSON, word for word, or nothing.
pub(super) struct Answer {
    url: Url,
    text: String,
    /// Which state of it that is.
    etag: Option<String>,
}

impl Answer {
    /// As it came.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What a change names that is to be made to this state only.
    pub(super) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        let cause = |error: serde_json::Error| error.to_string();
        serde_json::from_str(&self.text)
            .map_err(|error| ClientError::NotUnderstood { url: self.url.clone(), cause: cause(error) })
    }
}

/// A page of a list, or all of it.
#[derive(Deserialize, Serialize)]
struct List {
    data: Vec<Box<RawValue>>,
    next: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<Unreadable>,
}

/// What the server has, and can't show.
#[derive(Deserialize, Serialize)]
struct Unreadable {
    id: String,
    detail: String,
}

impl Client {
    pub(super) fn new(base: Url, token: Option<Secret>) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT).build();
        let http = http.map_err(|error| ClientError::Setup(causes(&error)))?;
        Ok(Self { http, base, token })
    }

    pub(super) async fn get(&self, path: &[&str]) -> Result<Answer, ClientError> {
        self.send(Method::GET, self.url(path), |request| request).await
    }

    /// All of a list, page by page, as one page.
    pub(super) async fn list(&self, path: &[&str], parameters: &[(&str, &str)]) -> Result<Answer, ClientError> {
        let url = self.url(path);
        let mut all: Vec<Box<RawValue>> = Vec::new();
        let mut unreadable = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut page_url = url.clone();
            page_url
                .query_pairs_mut()
                .append_pair("limit", PAGE)
                .extend_pairs(parameters)
                .extend_pairs(after.iter().map(|after| ("after", after)));
            let page: List = self.send(Method::GET, page_url, |request| request).await?.read()?;
            all.extend(page.data);
            for one in page.unreadable {
                note(format_args!("not shown: {}", one.detail));
                unreadable.push(one);
            }
            after = page.next;
            if after.is_none() {
                let list = List { data: all, next: None, unreadable };
                let text = serde_json::to_string(&list).expect("pieces of JSON make JSON");
                return Ok(Answer { url, text, etag: None });
            }
        }
    }

    pub(super) async fn get_with(&self, path: &[&str], parameters: &[(&str, &str)]) -> Result<Answer, ClientError> {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(parameters);
        self.send(Method::GET, url, |request| request).await
    }

    pub(super) async fn post(&self, path: &[&str]) -> Result<Answer, ClientError> {
        self.send(Method::POST, self.url(path), |request| request).await
    }

    pub(super) async fn post_with(&self, path: &[&str], parameters: &[(&str, String)]) -> Result<Answer, ClientError> {
        let mut url = self.url(path);
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        self.send(Method::POST, url, |request| request).await
    }

    pub(super) async fn post_json(&self, path: &[&str], body: &impl Serialize) -> Result<Answer, ClientError> {
        self.send(Method::POST, self.url(path), |request| request.json(body)).await
    }

    pub(super) async fn put_json(&self, path: &[&str], body: &impl Serialize) -> Result<Answer, ClientError> {
        self.put_json_at(path, body, None).await
    }

    /// Puts what was made of a state, unless that is another by now.
    pub(super) async fn put_json_at(
        &self,
        path: &[&str],
        body: &impl Serialize,
        etag: Option<&str>,
    ) -> Result<Answer, ClientError> {
        let with = |request: RequestBuilder| {
            let request = request.json(body);
            etag.into_iter().fold(request, |request, etag| request.header(header::IF_MATCH, etag))
        };
        self.send(Method::PUT, self.url(path), with).await
    }

    pub(super) async fn patch_json(&self, path: &[&str], body: &impl Serialize) -> Result<Answer, ClientError> {
        self.send(Method::PATCH, self.url(path), |request| request.json(body)).await
    }

    /// Publishes lines of JSON, which may be compressed.
    pub(super) async fn post_records(&self, lines: Bytes, encoding: Option<&str>) -> Result<Answer, ClientError> {
        let body = |request: RequestBuilder| {
            let request = request.header(header::CONTENT_TYPE, "application/x-ndjson").body(lines);
            encoding.into_iter().fold(request, |request, encoding| request.header(header::CONTENT_ENCODING, encoding))
        };
        self.send(Method::POST, self.url(&["records"]), body).await
    }

    /// Whether the server is this very machine.
    pub(super) fn is_local(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub(super) async fn delete(&self, path: &[&str]) -> Result<Answer, ClientError> {
        self.send(Method::DELETE, self.url(path), |request| request).await
    }

    /// A path below `/v1`; what names a resource may be anything.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        url
    }

    /// Whether the server is ready to work; if not, why.
    pub(super) async fn ready(&self) -> Result<Result<(), Problem>, ClientError> {
        let mut url = self.base.clone();
        url.set_path("/readyz");
        match self.send(Method::GET, url, |request| request).await {
            Ok(_) => Ok(Ok(())),
            Err(ClientError::Refused { problem, .. }) => Ok(Err(*problem)),
            Err(error) => Err(error),
        }
    }

    async fn send(
        &self,
        method: Method,
        url: Url,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, ClientError> {
        let unreachable = |error: reqwest::Error| ClientError::Unreachable {
            url: self.base.clone(),
            cause: causes(&error.without_url()),
        };
        let mut request = with(self.http.request(method, url.clone()));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let etag = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        let text = response.text().await.map_err(unreachable)?;
        if status.is_success() {
            return Ok(Answer { url, text, etag });
        }
        let problem = serde_json::from_str(&text).unwrap_or_else(|_| Problem {
            status: status.as_u16(),
            title: format!("{url} answered {status}"),
            ..Problem::default()
        });
        Err(ClientError::Refused { problem: Box::new(problem), retry_after })
    }
}

/// The outermost error of reqwest says little.
fn causes(error: &reqwest::Error) -> String {
    with_causes(anyhow::Chain::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(base: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(parse_url(base).expect("a URL"), None).expect("a client")
    }

    #[test]
    fn a_name_can_be_anything_without_leading_elsewhere() {
        let url = client("http://h:1/behind/a/proxy").url(&["targets", "../a b?c/d", "check"]);
        assert_eq!(url.as_str(), "http://h:1/behind/a/proxy/v1/targets/..%2Fa%20b%3Fc%2Fd/check");
    }

    #[test]
    fn only_http_is_spoken() {
        for wrong in ["127.0.0.1:7376", "localhost", "ftp://h", "http://"] {
            assert!(parse_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (base, is_local) in [
            ("http://localhost:1", true),
            ("http://127.0.0.2", true),
            ("http://[::1]:1", true),
            ("http://10.0.0.1", false),
            ("https://localhost.example.com", false),
        ] {
            assert_eq!(client(base).is_local(), is_local, "{base}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let error = client(&format!("http://{free}")).get(&["targets"]).await.err().expect("nobody there");
        assert!(error.is_transient());
        let text = error.to_string();
        assert!(text.contains(&free.to_string()) && text.contains("SEQUIN_URL"), "{text}");
        assert!(text.to_lowercase().contains("refused"), "{text}");
    }
}
