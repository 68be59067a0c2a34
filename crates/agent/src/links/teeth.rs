//! The teeth link: one lasting line to one server, kept up for as long as the agent runs.
//!
//! Commands become jobs of the [`Crew`]; what the crew tells becomes `task_status`. The book of tasks
//! and the queue of log lines outlive a connection, so that an end that was never acknowledged is
//! told again after a reconnect; over a restart of the agent the crew's ledger keeps it. A server
//! that is known to end the connection over reports gets none and finds the tasks in `status`.
//!
//! Commands are accepted on the connection this agent opened, and what they may do is the local
//! policy's to say.

mod identity;
mod worker;

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use muster_net::tls::BoxStream;
use muster_net::{Clock, DriveLimits, Endpoint, Entropy, Protection, dial, drive};
use muster_proto::teeth::backoff::Backoff;
use muster_proto::teeth::commands::{Hello, ToAgent, Token, Verb};
use muster_proto::teeth::{Limits, agent};
use tokio_util::sync::CancellationToken;

use crate::crew::{Crew, news};
use worker::Worker;

pub use identity::primary_mac;

/// Longest time to connect, TLS included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a link is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the server is called in ledger and audit trail: its URL.
    pub peer: String,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// How the connection is protected.
    pub protection: Protection,
    /// The enrolment key, where there is one.
    pub token: Option<String>,
    /// This agent's id, the same on every wire.
    pub agent_id: String,
    /// The MAC that names the machine; see [`primary_mac`].
    pub mac: String,
    /// The machine's name.
    pub hostname: Option<String>,
    /// Kinds of work that may come over this line; those without a tool are left out.
    pub kinds: Vec<String>,
    /// Root of the file system, for what `status` says of the machine.
    pub root: PathBuf,
}

/// Kinds that go over another wire where there is one: their results are more than a task report.
const NOT_OVER_TEETH: [&str; 2] = ["inventory", "netdiscovery"];

impl Config {
    /// Every kind of the crew's tools that a task report can carry the result of.
    #[must_use]
    pub fn kinds_of(crew: &Crew) -> Vec<String> {
        let kinds = crew.registry().capabilities().map(|(kind, _)| kind);
        kinds
            .filter(|kind| !NOT_OVER_TEETH.contains(kind))
            .map(str::to_owned)
            .collect()
    }
}

/// A link that is not running yet. A clone is another link of the same crew to the same server.
#[derive(Clone)]
pub struct TeethLink {
    config: Config,
    crew: Crew,
    clock: Clock,
    entropy: Entropy,
}

impl TeethLink {
    /// A link of this crew.
    #[must_use]
    pub fn new(config: Config, crew: Crew, clock: Clock, entropy: Entropy) -> Self {
        Self {
            config,
            crew,
            clock,
            entropy,
        }
    }

    /// Dials, serves and dials again, until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let (endpoint, protection) = (self.config.endpoint.clone(), self.config.protection.clone());
        let clock = self.clock.clone();
        let connect = || dial(&endpoint, &protection, DIAL_TIMEOUT, &clock);
        self.run_over(connect, cancel).await;
    }

    /// The same over any way to reach the server.
    pub async fn run_over<C, F, E>(self, mut connect: C, cancel: CancellationToken)
    where
        C: FnMut() -> F,
        F: Future<Output = Result<BoxStream, E>>,
        E: Error,
    {
        let hello = self.hello().await;
        let (sender, mut heard) = news::channel();
        let clock = self.clock.clone();
        let mut worker = Worker::new(&self.config, self.crew.clone(), clock.clone(), sender);
        let mut backoff = Backoff::default();
        let mut rng = self.entropy.rng();
        while !cancel.is_cancelled() {
            let dialled = {
                let dialling = connect();
                tokio::pin!(dialling);
                loop {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return,
                        Some(news) = heard.recv() => worker.hear(news),
                        dialled = &mut dialling => break dialled,
                    }
                }
            };
            match dialled {
                Ok(io) => {
                    backoff.connected(clock.instant());
                    let config = agent::Config {
                        limits: Limits::default(),
                        hello: hello.clone(),
                    };
                    let rng = Box::new(self.entropy.rng());
                    let mut session = agent::Session::new(config, rng, clock.instant());
                    let mut line = worker.line(&mut heard);
                    let limits = DriveLimits::default();
                    let driven = drive(io, &mut session, &mut line, &clock, &limits, &cancel).await;
                    if line.was_established() {
                        backoff.established();
                    }
                    if let Err(error) = driven {
                        tracing::debug!(
                            server = self.config.peer,
                            "connection broke: {}",
                            chain(&error)
                        );
                    }
                    worker.disconnected(clock.instant());
                }
                Err(error) => {
                    tracing::info!(
                        server = self.config.peer,
                        "cannot connect: {}",
                        chain(&error)
                    );
                }
            }
            let until = clock.instant() + backoff.lost(&mut rng, clock.instant());
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    Some(news) = heard.recv() => worker.hear(news),
                    () = clock.sleep_until(until) => break,
                }
            }
        }
    }

    async fn hello(&self) -> Hello {
        let root = self.config.root.clone();
        let boot_id = self.clock.off_thread(move || identity::boot_id(&root));
        let boot_id = boot_id.await;
        let offered = |kind: &str| self.config.kinds.iter().any(|listed| listed == kind);
        let kinds = self.crew.registry().capabilities();
        let kinds = kinds.filter(|(kind, _)| offered(kind));
        let mut methods = vec!["ping", "status", Verb::Run.name(), ToAgent::CANCEL];
        if offered(Verb::Qc.name()) {
            methods.push(Verb::Qc.name());
        }
        Hello {
            id: self.config.mac.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            token: self.config.token.clone().map(Token::new),
            methods: Some(methods.into_iter().map(str::to_owned).collect()),
            mode: Some("STANDBY".to_owned()),
            boot_id: boot_id.flatten(),
            agent: Some(concat!("muster/", env!("CARGO_PKG_VERSION")).to_owned()),
            agent_id: Some(self.config.agent_id.clone()),
            hostname: self.config.hostname.clone(),
            kinds: kinds
                .map(|(kind, version)| (kind.to_owned(), version.to_owned()))
                .filter(|(kind, _)| kind != Verb::Qc.name())
                .collect(),
        }
    }
}

/// An error with its causes, for logs.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
