//! The client of the admin API: the only thing the command line uses to talk to a server.
//!
//! Finds URL and token as the surface says, trusts the certificates of the state folder, follows
//! the pages of lists, and turns what the server refuses into a [`CliError`].

use std::time::Duration;

use reqwest::{Method, StatusCode, Url, header};
use serde_json::Value;

use super::args::Global;
use super::error::{CliError, Code, Exit, Problem};
use super::state;

/// How long one call may take when nothing is waited for.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of one answer; a page of 1000 inventories is far below.
const ANSWER_MAX: usize = 256 << 20;

/// One server's admin API.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    token: String,
}

/// An answer that may be "nothing new".
pub(crate) enum Fresh {
    /// Something new, and its tag.
    New(Value, Option<String>),
    /// The same as the tag that was sent.
    Same,
}

impl Client {
    /// Finds the server.
    pub(crate) fn find(global: &Global) -> Result<Self, CliError> {
        let folder = state::folder(global);
        let base = match global.url.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => parse_url(url)?,
            None => {
                let bound = state::addresses(&folder)?;
                let text = match (&bound.http, &bound.https) {
                    (Some(http), _) => format!("http://{http}"),
                    (None, Some(https)) => format!("https://{https}"),
                    (None, None) => {
                        return Err(CliError::new(
                            Exit::Unreachable,
                            Code::NO_SERVER,
                            "the server here has no HTTP listener",
                        )
                        .next("start it with --listen-http or --listen-https"));
                    }
                };
                parse_url(&text)?
            }
        };
        let token = state::token(global)?;
        Ok(Self {
            http: http(&state::certificates(&folder))?,
            base,
            token,
        })
    }

    /// Where the server is.
    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// One object.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, CliError> {
        self.call(Method::GET, path, query, None).await
    }

    /// Creates or acts.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.call(Method::POST, path, &[], Some(body)).await
    }

    /// Removes.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.call(Method::DELETE, path, &[], None).await
    }

    /// All pages of a list.
    pub(crate) async fn list(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Vec<Value>, CliError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", "1000"));
            if let Some(cursor) = &cursor {
                query.push(("cursor", cursor));
            }
            let mut page = self.get(path, &query).await?;
            let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) else {
                return Err(not_understood("a list has no items"));
            };
            let ended = more.is_empty();
            items.extend(more);
            match page.get("next").and_then(Value::as_str) {
                Some(next) if !ended => cursor = Some(next.to_owned()),
                _ => return Ok(items),
            }
        }
    }

    /// One object when it differs from what `tag` names, waiting up to `wait` for that.
    pub(crate) async fn watch(
        &self,
        path: &str,
        tag: Option<&str>,
        wait: Duration,
    ) -> Result<Fresh, CliError> {
        let seconds = format!("PT{}S", wait.as_secs());
        let mut request = self
            .request(Method::GET, path, &[("wait", seconds.as_str())])?
            .timeout(wait + CALL_TIMEOUT);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Fresh::Same);
        }
        let tag = response
            .headers()
            .get(header::ETAG)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        Ok(Fresh::New(self.answer(response).await?, tag))
    }

    /// An answer that is not JSON, as text.
    pub(crate) async fn text(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<String, CliError> {
        let response = self
            .request(Method::GET, path, query)?
            .send()
            .await
            .map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        let bytes = self.bytes(response).await?;
        if !status.is_success() {
            return Err(refusal(status, &bytes));
        }
        String::from_utf8(bytes).map_err(|_| not_understood("a text is not UTF-8"))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let mut request = self.request(method, path, query)?;
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        self.answer(response).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<reqwest::RequestBuilder, CliError> {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}/api/v1/{path}",
            self.base.path().trim_end_matches('/')
        ));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self
            .http
            .request(method, url)
            .bearer_auth(&self.token)
            .timeout(CALL_TIMEOUT))
    }

    async fn answer(&self, response: reqwest::Response) -> Result<Value, CliError> {
        let status = response.status();
        let bytes = self.bytes(response).await?;
        if !status.is_success() {
            return Err(refusal(status, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|e| not_understood("the answer is not JSON").cause(&e))
    }

    async fn bytes(&self, mut response: reqwest::Response) -> Result<Vec<u8>, CliError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            if bytes.len() + chunk.len() > ANSWER_MAX {
                return Err(not_understood("the answer is too long"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        unreachable(&self.base, error)
    }
}

/// A path below `/api/v1` of these parts; names of objects may hold any character.
pub(crate) fn path(parts: &[&str]) -> String {
    let mut path = String::new();
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            path.push('/');
        }
        for byte in part.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {
                    path.push(char::from(byte));
                }
                // A part of dots only would be taken for a step up.
                b'.' if part.bytes().any(|b| b != b'.') => path.push('.'),
                _ => path += &format!("%{byte:02X}"),
            }
        }
    }
    path
}

/// What a failed call to `url` means to the person who asked.
pub(crate) fn unreachable(url: &Url, error: &reqwest::Error) -> CliError {
    let chain = chain(error);
    if error.is_timeout() {
        return CliError::new(
            Exit::TimedOut,
            Code::TIMED_OUT,
            format!("no answer in time from {url}"),
        );
    }
    if chain.iter().any(|text| text.contains("certificate")) {
        let mut failure = CliError::new(
            Exit::Unreachable,
            Code::TLS_UNTRUSTED,
            format!("the certificate of {url} is not trusted"),
        );
        failure.detail = chain;
        return failure.next("name the state folder that has its certificate in tls/ with --state");
    }
    let mut failure = CliError::new(
        Exit::Unreachable,
        Code::UNREACHABLE,
        format!("cannot reach {url}"),
    );
    failure.detail = chain.into_iter().last().into_iter().collect();
    failure
        .next("is it running? `muster doctor` looks, `muster up` or `muster server run` starts one")
}

fn chain(error: &dyn std::error::Error) -> Vec<String> {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts
}

fn refusal(status: StatusCode, bytes: &[u8]) -> CliError {
    match serde_json::from_slice::<Problem>(bytes) {
        Ok(problem) => CliError::from_problem(status.as_u16(), &problem),
        Err(_) => not_understood(&format!("the server answered {status} and no problem body")),
    }
}

fn not_understood(what: &str) -> CliError {
    CliError::failed(Code::SERVER_ANSWER, what.to_owned())
        .next("is it a Muster server, and of this version?")
}

fn parse_url(text: &str) -> Result<Url, CliError> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) => Err(CliError::usage(format!("{text} is no http or https URL"))),
        Err(e) => Err(CliError::usage(format!("{text} is no URL: {e}"))),
    }
}

/// What every HTTP client of the command line has in common.
pub(crate) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(10))
}

/// A client that trusts these certificates, or the system's where there are none.
pub(crate) fn http(certificates: &[Vec<u8>]) -> Result<reqwest::Client, CliError> {
    let mut builder = builder();
    let mut roots = Vec::new();
    for bytes in certificates {
        roots.extend(reqwest::Certificate::from_pem_bundle(bytes).map_err(|e| {
            CliError::failed(
                Code::TLS_UNTRUSTED,
                "a certificate in STATE/tls cannot be read",
            )
            .cause(&e)
        })?);
    }
    if !roots.is_empty() {
        builder = builder.tls_certs_only(roots);
    }
    builder
        .build()
        .map_err(|e| CliError::failed(Code::INTERNAL, "cannot set up the HTTP client").cause(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_objects_stay_one_part_of_a_path() {
        for (parts, encoded) in [
            (vec!["agents", "lab-7"], "agents/lab-7"),
            (
                vec!["items", "web:vfs.fs.size[/,free]", "history"],
                "items/web%3Avfs.fs.size%5B%2F%2Cfree%5D/history",
            ),
            (vec!["agents", ".."], "agents/%2E%2E"),
            (vec!["agents", "a b?c#d%e"], "agents/a%20b%3Fc%23d%25e"),
            (vec!["agents", "\u{e9}"], "agents/%C3%A9"),
        ] {
            assert_eq!(path(&parts), encoded);
        }
    }

    #[test]
    fn only_http_has_an_admin_api() {
        for (url, fine) in [
            ("http://h", true),
            ("https://h:8443/base", true),
            ("ftp://h", false),
            ("h:80", false),
            ("", false),
        ] {
            assert_eq!(parse_url(url).is_ok(), fine, "{url}");
        }
    }
}
