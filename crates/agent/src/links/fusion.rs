//! The FusionInventory link: asks one server for tasks over P1, and uploads what comes of them.
//!
//! The server says when to come again; what it gives goes to the [`Crew`] in one lane, so that tasks
//! and the jobs in them are worked on strictly one after another (FusionInventory contract, section
//! 1.3). Results of the family's own kinds are uploaded as the P2 messages that define them, the
//! others as JSON to `api/results`. An ending that was not acknowledged is told again, also after a
//! restart of the agent.
//!
//! `https` is verified, by an authority or a pinned certificate. Plain `http` goes to loopback, and
//! elsewhere only when this agent's own configuration says so; then the server is believed in what
//! observes, scans and measures, and in nothing else (threat model, section 2).

mod plan;
mod tell;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use http::uri::{PathAndQuery, Uri};
use http::{Request, Response};
use jiff::Timestamp;
use muster_core::AgentId;
use muster_core::credential::Secret;
use muster_net::http::{ClientError, ClientLimits, HttpClient};
use muster_net::tls::Trust;
use muster_net::{Clock, Entropy};
use muster_proto::fusion::agent::{self, AnswerError, Backoff};
use muster_proto::fusion::p1::TasksQuery;
use muster_proto::fusion::wire::{PeerName, short};
use muster_proto::fusion::{Limits, p1};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::crew::{Crew, News, news};

/// The first wait after a failure to reach the server (FusionInventory contract, section 6).
pub const FIRST_RETRY: Duration = Duration::from_secs(60);
/// The longest wait after failures: the family's `delaytime`.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
/// How long what is left to tell is tried to be told when the agent ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Where a server is: `http(s)://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    uri: Uri,
    base: String,
}

/// Why a text is no such URL, or may not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Not a URL of this wire.
    #[error("`{0}` is not http(s)://HOST[:PORT]/PATH")]
    Form(String),
    /// Plain, and not to this machine.
    #[error("`{0}` is plain http to another machine")]
    Plain(String),
}

impl FromStr for ServerUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl::Form(text.chars().take(200).collect());
        let uri: Uri = text.trim().parse().map_err(|_| bad())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let named = uri.host().is_some_and(|host| !host.is_empty());
        // A password in a URL ends up in logs.
        let clean = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
        if !known || !named || !clean || uri.query().is_some() {
            return Err(bad());
        }
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { uri, base })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl ServerUrl {
    fn is_plain(&self) -> bool {
        self.uri.scheme_str() == Some("http")
    }

    /// Whether the host is this machine, by the way it is written: a name could change its mind.
    fn is_loopback(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.eq_ignore_ascii_case("localhost")
            || bare
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// Whether the server could be somebody else: then it is believed in harmless things only, and
    /// worked for only if this agent's own configuration says so.
    #[must_use]
    pub fn is_unproven(&self) -> bool {
        self.is_plain() && !self.is_loopback()
    }

    /// The absolute URI of a target.
    fn at(&self, target: &PathAndQuery) -> Result<Uri, http::Error> {
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(target.clone());
        Ok(Uri::from_parts(parts)?)
    }
}

/// What a link is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server.
    pub url: ServerUrl,
    /// This agent's id, the same on every wire.
    pub agent_id: AgentId,
    /// The name people know it by.
    pub name: String,
    /// Version of this program.
    pub version: String,
    /// The enrolment key, where there is one.
    pub key: Option<Secret>,
    /// Whom `https` is believed.
    pub trust: Trust,
    /// Plain `http` may leave this machine: the agent's own configuration says so.
    pub insecure: bool,
    /// The first wait after a failure; [`FIRST_RETRY`] in the field.
    pub first_retry: Duration,
    /// Kinds of work that may come over this link; every kind of the crew when `None`.
    pub kinds: Option<Vec<String>>,
}

/// Why a link cannot be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// TLS cannot be had.
    #[error("the HTTP client could not be made")]
    Client(#[from] ClientError),
    /// The URL may not be used.
    #[error(transparent)]
    Url(#[from] BadUrl),
}

/// How the link stands, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// When the server last answered as it should.
    pub contacted: Option<Timestamp>,
    /// What went wrong last, until it goes well again.
    pub error: Option<String>,
    /// When it is asked again.
    pub next: Option<Timestamp>,
}

/// Why an exchange gave nothing.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
}

impl ExchangeError {
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        short(&text)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answer(AnswerError::Refused { retry_after, .. }) => *retry_after,
            Self::Answer(_) | Self::Client(_) | Self::Request(_) => None,
        }
    }

    /// The server's word that saying it again changes nothing.
    fn is_final(&self) -> bool {
        match self {
            Self::Answer(AnswerError::Refused { status, .. }) => {
                status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 408 | 429)
                    || status.as_u16() == 501
            }
            Self::Answer(AnswerError::Redirect(_)) | Self::Request(_) => true,
            Self::Answer(_) | Self::Client(_) => false,
        }
    }
}

/// What has the server answer a request, whose URI is absolute.
pub type Call = Box<
    dyn Fn(Request<Bytes>) -> BoxFuture<'static, Result<Response<Bytes>, ClientError>>
        + Send
        + Sync,
>;

/// A link that is not running yet. Clones of its handles outlive it.
pub struct FusionLink {
    config: Config,
    peer: PeerName,
    call: Call,
    crew: Crew,
    clock: Clock,
    entropy: Entropy,
    limits: Limits,
    wake: Arc<Notify>,
    state: watch::Sender<LinkState>,
    /// By run and generation.
    jobs: Mutex<BTreeMap<(String, u64), tell::Told>>,
}

impl FusionLink {
    /// A link of this crew.
    ///
    /// # Errors
    /// [`LinkError`] for plain `http` to another machine without leave, and when TLS cannot be had.
    pub fn new(
        config: Config,
        crew: Crew,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, LinkError> {
        let client = HttpClient::new(&config.trust, ClientLimits::default())?;
        let call = move |request| -> BoxFuture<'static, _> {
            let client = client.clone();
            Box::pin(async move { client.send(request).await })
        };
        Self::calling(config, crew, clock, entropy, Box::new(call))
    }

    /// The same over any way to reach the server.
    ///
    /// # Errors
    /// [`LinkError`] for plain `http` to another machine without leave.
    pub fn calling(
        config: Config,
        crew: Crew,
        clock: Clock,
        entropy: Entropy,
        call: Call,
    ) -> Result<Self, LinkError> {
        let url = &config.url;
        if url.is_unproven() && !config.insecure {
            return Err(BadUrl::Plain(url.to_string()).into());
        }
        let peer = PeerName::parse(&config.agent_id.to_string())
            .map_err(|_| BadUrl::Form(url.to_string()))?;
        Ok(Self {
            peer,
            config,
            call,
            crew,
            clock,
            entropy,
            limits: Limits::default(),
            wake: Arc::default(),
            state: watch::Sender::default(),
            jobs: Mutex::default(),
        })
    }

    /// Notified, the link asks the server at once.
    #[must_use]
    pub fn waker(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// How the link stands.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Asks, works and tells, until `cancel`. What the crew still has to say then is told for a few
    /// seconds; what is left stays in its ledger.
    pub async fn run(self, cancel: CancellationToken) {
        let (sender, heard) = news::channel();
        let telling = CancellationToken::new();
        let polls = async {
            self.retell(&sender).await;
            self.poll_until(&cancel, sender).await;
            let grace = self.clock.sleep(LAST_WORDS);
            tokio::select! {
                biased;
                () = grace => telling.cancel(),
                () = telling.cancelled() => {}
            }
        };
        let tells = async {
            self.tell_all(heard, &telling).await;
            telling.cancel();
        };
        tokio::join!(polls, tells);
    }

    async fn poll_until(&self, cancel: &CancellationToken, sender: mpsc::Sender<News>) {
        let mut backoff = Backoff::new(self.config.first_retry, LONGEST_RETRY);
        let mut rng = self.entropy.rng();
        loop {
            let polled = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                polled = self.poll() => polled,
            };
            let now = self.clock.now();
            let wait = match polled {
                Ok(list) => {
                    backoff.succeeded();
                    let wait = agent::contact_delay(list.next_contact, now.as_second(), &mut rng);
                    self.note(now, None, wait);
                    for task in list.tasks {
                        self.take(task, &sender).await;
                    }
                    wait
                }
                Err(error) => {
                    let wait = backoff.failed();
                    let wait = error.retry_after().map_or(wait, |asked| asked.max(wait));
                    self.note(now, Some(error.chain()), wait);
                    wait
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.wake.notified() => {}
                () = self.clock.sleep(wait) => {}
            }
        }
    }

    async fn poll(&self) -> Result<p1::TaskList, ExchangeError> {
        let modules = self.crew.registry().capabilities();
        let query = TasksQuery {
            agent: self.peer.clone(),
            modules: modules
                .filter(|(kind, _)| {
                    let kinds = self.config.kinds.as_ref();
                    kinds.is_none_or(|kinds| kinds.iter().any(|listed| listed == kind))
                })
                .map(|(kind, version)| (kind.to_owned(), version.to_owned()))
                .collect(),
            name: Some(self.config.name.clone()).filter(|name| PeerName::parse(name).is_ok()),
        };
        let response = self
            .send(agent::tasks_request(&self.config.url.base, &query))
            .await?;
        Ok(agent::decode_tasks(&response, &self.limits)?)
    }

    /// Logs what changed, and shows how the link stands.
    fn note(&self, now: Timestamp, error: Option<String>, wait: Duration) {
        let next = now.checked_add(wait).ok();
        self.state.send_modify(|state| {
            match (&error, &state.error) {
                (Some(error), before) if before.as_ref() != Some(error) => {
                    tracing::warn!(server = %self.config.url, "no tasks from the server: {error}");
                }
                (None, Some(_)) => {
                    tracing::info!(server = %self.config.url, "the server answers again");
                }
                (None, None) if state.contacted.is_none() => {
                    tracing::info!(server = %self.config.url, "the server answers");
                }
                (Some(_), _) | (None, None) => {}
            }
            if error.is_none() {
                state.contacted = Some(now);
            }
            state.error = error;
            state.next = next;
        });
    }

    /// Sends a request whose URI is a path, with what every request carries.
    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, ExchangeError> {
        let target = request.uri().path_and_query().cloned();
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = self.config.url.at(&target)?;
        let headers = request.headers_mut();
        let own = agent::user_agent(&self.config.version);
        headers.insert(
            USER_AGENT,
            HeaderValue::from_str(&own).map_err(http::Error::from)?,
        );
        if let Some(key) = &self.config.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
                .map_err(http::Error::from)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok((self.call)(request).await?)
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<(String, u64), tell::Told>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn urls() {
        for (text, base, plain, loopback) in [
            ("http://127.0.0.1:8080", "", true, true),
            (
                "http://localhost:8080/glpi/plugins/fusioninventory/",
                "/glpi/plugins/fusioninventory",
                true,
                true,
            ),
            ("https://muster.example.org/", "", false, false),
            ("http://[::1]:80/x", "/x", true, true),
            ("http://10.0.0.1/", "", true, false),
            ("http://127.0.0.1.example.org/", "", true, false),
        ] {
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(
                (url.base.as_str(), url.is_plain(), url.is_loopback()),
                (base, plain, loopback),
                "{text}"
            );
        }
        for bad in [
            "",
            "ftp://x/",
            "127.0.0.1:80",
            "http:///x",
            "http://u:p@x/",
            "http://x/?a=b",
            "teeth://x",
        ] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad}");
        }
        let url: ServerUrl = "https://h:1/base/".parse().unwrap();
        let at = url
            .at(&PathAndQuery::from_static("/base/api/tasks?agentid=x"))
            .unwrap();
        assert_eq!(at.to_string(), "https://h:1/base/api/tasks?agentid=x");
    }
}
