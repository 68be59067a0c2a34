//! The Zabbix link: an agent or a proxy of one server, ours or the original, active or passive.
//!
//! It learns what to collect, collects it on time, and keeps each value in the spool until the
//! server has said `success`: a value is neither lost over a restart or an outage nor, as its id
//! and the session stay with it, counted twice. Collecting never waits for the server. A passive
//! agent keeps nothing: it answers what it is asked, when it is asked.
//!
//! As an agent it reads items of its own machine; as a proxy it polls the Zabbix agents of the
//! hosts it is given. Remote commands are refused: nothing of this build executes them.
//!
//! | file | owns |
//! |---|---|
//! | `url` | `zabbix://` URLs, roles and modes |
//! | `given` | what a server gives to collect |
//! | `sampler` | when each item is collected |
//! | `collect` | collecting it, `availability` of who is asked |
//! | `stock` | what waits to be told, until the server has it |
//! | `uploads` | active mode: asking and telling, one dialled `exchange` each |
//! | `passive` | passive mode: being asked |
//!
//! Contract: Zabbix page, sections 3, 5, 7, 8, 9 and 11.

mod availability;
mod collect;
mod exchange;
mod given;
mod passive;
mod sampler;
mod stock;
mod uploads;
mod url;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use muster_net::dial::{DialError, Endpoint, dial};
use muster_net::tls::BoxStream;
use muster_net::{Clock, Entropy, Protection};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::Intervals;
use muster_store::spool::Spool;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::policy::PolicySource;
use crate::tools::items::Items;
use availability::Availability;
use collect::Collector;
use passive::Desk;
use stock::Stock;
use uploads::Uploads;
pub use url::{BadUrl, Mode, Role, ServerUrl};

/// The version whose dialect is spoken; a real server judges by it (contract, section 2.1).
const DIALECT: &str = "6.0.14";
/// Longest time to connect, TLS included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what is spooled is tried to be sent when the agent ends.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What a link is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server; the port is where it listens, or where this end does ([`ServerUrl`]).
    pub endpoint: Endpoint,
    /// How connections that this end opens are protected.
    pub protection: Protection,
    /// What this end is to the server.
    pub role: Role,
    /// Who opens the connections.
    pub mode: Mode,
    /// The name of the host, or of the proxy.
    pub name: String,
    /// This agent's id, the same on every wire.
    pub agent_id: String,
    /// How often what is done.
    pub intervals: Intervals,
}

/// A link that is not running yet.
pub struct ZabbixLink {
    config: Config,
    limits: Limits,
    items: Arc<Items>,
    policy: PolicySource,
    spool: Spool,
    clock: Clock,
    entropy: Entropy,
    reach: Reach,
}

/// What connects to a server, or to an agent that is polled: where, how protected, within what time.
pub type Reach = Arc<
    dyn Fn(Endpoint, Protection, Duration) -> BoxFuture<'static, Result<BoxStream, DialError>>
        + Send
        + Sync,
>;

impl ZabbixLink {
    /// A link that reads `items`, asks `policy` what it may, and keeps values in `spool`.
    #[must_use]
    pub fn new(
        config: Config,
        items: &Items,
        policy: PolicySource,
        spool: Spool,
        clock: Clock,
        entropy: Entropy,
    ) -> Self {
        let limits = Limits::default();
        let watch = clock.clone();
        let dialling = move |endpoint, protection, patience: Duration| -> BoxFuture<'static, _> {
            let clock = watch.clone();
            let patience = DIAL_TIMEOUT.min(patience);
            Box::pin(async move { dial(&endpoint, &protection, patience, &clock).await })
        };
        // Each server knows this machine by the name that its link goes by.
        let items = Arc::new(items.named(&config.name));
        Self {
            config,
            limits,
            items,
            policy,
            spool,
            clock,
            entropy,
            reach: Arc::new(dialling),
        }
    }

    /// The same over any way to reach its server and the agents it polls.
    #[must_use]
    pub fn over(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }

    /// Collects and tells until `cancel`, then tries for a moment to tell the rest.
    ///
    /// A passive link that cannot listen ends at once, with its reason in the log.
    pub async fn run(self, cancel: CancellationToken) {
        let collector = Collector {
            items: Arc::clone(&self.items),
            policy: self.policy.clone(),
            availability: Availability::default(),
            limits: self.limits,
            clock: self.clock.clone(),
            reach: Arc::clone(&self.reach),
        };
        if (self.config.role, self.config.mode) == (Role::Agent, Mode::Passive) {
            return Desk::of_agent(&self, collector).run(cancel).await;
        }
        let Config {
            endpoint,
            mode,
            name,
            ..
        } = &self.config;
        let queue = match mode {
            Mode::Active => format!("zabbix {endpoint} {name}"),
            Mode::Passive => format!("zabbix {endpoint} {name} passive"),
        };
        let session = loop {
            match self.spool.queue(&queue, &mut self.entropy.rng()).await {
                Ok(state) => break state.session,
                Err(error) => {
                    tracing::error!(queue, "the spool cannot be opened: {}", chain(&error));
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return,
                        () = self.clock.sleep(Duration::from_secs(5)) => {}
                    }
                }
            }
        };
        let (checks, given) = watch::channel(Vec::new());
        let availability = collector.availability.clone();
        let stock = Stock::new(&self, &queue, session, checks, availability);
        let sampling = sampler::run(
            &self.spool,
            &queue,
            given,
            collector.clone(),
            &self.clock,
            &cancel,
        );
        match mode {
            Mode::Active => {
                tokio::join!(sampling, Uploads::new(&self, stock).run(&cancel));
            }
            Mode::Passive => {
                let desk = Desk::of_proxy(&self, collector, stock);
                // Without its desk a passive proxy has nothing to do.
                tokio::select! {
                    biased;
                    () = desk.run(cancel.clone()) => {}
                    () = async { sampling.await; std::future::pending().await } => {}
                }
            }
        }
    }
}

fn nanoseconds(now: Timestamp) -> u32 {
    u32::try_from(now.subsec_nanosecond()).unwrap_or(0)
}

fn encode(message: &impl Serialize) -> Result<String, exchange::ExchangeError> {
    serde_json::to_string(message).map_err(exchange::ExchangeError::Encode)
}

/// An error with its causes, for logs.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
