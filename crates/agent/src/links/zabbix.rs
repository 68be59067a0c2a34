//! The Zabbix link: an active agent, or an active proxy, of one server, ours or the original.
//!
//! It fetches what to collect, collects it on time, and keeps each value in the spool until the
//! server has said `success`: a value is neither lost over a restart or an outage nor, as its id
//! and the session stay with it, counted twice. Collecting never waits for the server.
//!
//! As an agent it reads items of its own machine; as a proxy it polls the Zabbix agents of the
//! hosts it is given. Remote commands are refused: nothing of this build executes them. Contract:
//! Zabbix page, sections 3, 7, 8 and 11.

mod availability;
mod collect;
mod exchange;
mod sampler;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use muster_net::dial::{DialError, Endpoint, dial};
use muster_net::tls::BoxStream;
use muster_net::{Clock, Entropy, Protection};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::ask::Asker;
use muster_proto::zabbix::agent::{
    Action, ActiveChecksReply, ConfigReply, Form, Intervals, Reply, Rhythm, Uploaded,
};
use muster_proto::zabbix::config::{Configuration, item_kind, simple_delay};
use muster_proto::zabbix::data::{AgentData, HistoryRow, ItemRef, ProxyData, Rows, ValueRow};
use muster_proto::zabbix::task::{TaskEntry, TaskResult};
use muster_proto::zabbix::wire::Upload;
use muster_store::StoreError;
use muster_store::spool::{Bound, Entry, Spool};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::policy::PolicySource;
use crate::tools::items::Items;
use availability::Availability;
use collect::Collector;
use exchange::{ExchangeError, exchange};
use sampler::{Check, How};

/// The version whose dialect is spoken; a real server judges by it (contract, section 2.1).
const DIALECT: &str = "6.0.14";
/// Rows of one upload, as real proxies pack them.
const ROWS_MAX: usize = 10_000;
/// Bytes of them: below what a stranger may send.
const UPLOAD_BYTES_MAX: usize = 12 * 1024 * 1024;
/// Longest time to connect, TLS included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what is spooled is tried to be sent when the agent ends.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What this end is to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// An active agent: collects on its own machine.
    Agent,
    /// An active proxy: polls the agents of other machines.
    #[default]
    Proxy,
}

/// `zabbix://HOST[:PORT]?role=proxy|agent&mode=active&name=N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// Where the server listens; 10051 when the URL names no port.
    pub endpoint: Endpoint,
    /// What this end is to it.
    pub role: Role,
    /// The name to go by; the machine's when `None`.
    pub name: Option<String>,
}

/// Why a text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Not a URL of this wire.
    #[error("`{0}` is not zabbix://HOST[:PORT]?role=proxy|agent&name=N")]
    Form(String),
    /// Something in the query is unknown.
    #[error("`{0}` is not known in a zabbix:// URL; it takes role, mode and name")]
    Key(String),
    /// A passive end listens, which this build does not.
    #[error("mode=passive is not part of this build; leave it out or say mode=active")]
    Passive,
}

impl FromStr for ServerUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl::Form(text.chars().take(200).collect());
        let rest = text.strip_prefix("zabbix://").ok_or_else(bad)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let place = place.trim_end_matches('/');
        let endpoint = match place.parse() {
            Ok(endpoint) => endpoint,
            Err(_) => format!("{place}:10051").parse().map_err(|_| bad())?,
        };
        let mut url = Self {
            endpoint,
            role: Role::default(),
            name: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (key, value) {
                ("role", "agent") => url.role = Role::Agent,
                ("role", "proxy") => url.role = Role::Proxy,
                ("mode", "active") => {}
                ("mode", "passive") => return Err(BadUrl::Passive),
                ("name", name) if !name.is_empty() => {
                    url.name = Some(name.replace('+', " ").replace("%20", " "));
                }
                _ => return Err(BadUrl::Key(pair.chars().take(64).collect())),
            }
        }
        Ok(url)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Agent => "agent",
            Role::Proxy => "proxy",
        };
        write!(f, "zabbix://{}?role={role}", self.endpoint)?;
        match &self.name {
            Some(name) => write!(f, "&name={}", name.replace(' ', "+")),
            None => Ok(()),
        }
    }
}

/// What a link is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the server listens.
    pub endpoint: Endpoint,
    /// How connections are protected.
    pub protection: Protection,
    /// What this end is to the server.
    pub role: Role,
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
        items: Arc<Items>,
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

    /// Collects and uploads until `cancel`, then tries for a moment to upload the rest.
    pub async fn run(self, cancel: CancellationToken) {
        let queue = format!("zabbix {} {}", self.config.endpoint, self.config.name);
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
        let availability = Availability::default();
        let collector = Collector {
            items: Arc::clone(&self.items),
            policy: self.policy.clone(),
            availability: availability.clone(),
            limits: self.limits,
            clock: self.clock.clone(),
            reach: Arc::clone(&self.reach),
        };
        let rhythm = Rhythm::new(self.config.intervals, self.clock.instant());
        let uploads = Uploads {
            link: &self,
            queue: &queue,
            session,
            checks,
            availability,
            results: Vec::new(),
            unsent_since: None,
        };
        tokio::join!(
            sampler::run(&self.spool, &queue, given, collector, &self.clock, &cancel),
            uploads.run(rhythm, &cancel),
        );
    }

    async fn exchange(
        &self,
        payload: &str,
        form: Form,
        patience: Duration,
    ) -> Result<muster_proto::zabbix::wire::Payload, ExchangeError> {
        let Config {
            endpoint,
            protection,
            ..
        } = &self.config;
        let stream = (self.reach)(endpoint.clone(), protection.clone(), patience).await?;
        exchange(stream, payload, form, patience, &self.limits, &self.clock).await
    }

    fn asker(&self) -> Asker<'_> {
        Asker {
            host: &self.config.name,
            version: DIALECT,
            muster: Some(&self.config.agent_id),
        }
    }
}

/// A value as the spool keeps it; its id is the entry's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(rename = "i")]
    item: u64,
    #[serde(rename = "c")]
    clock: i64,
    #[serde(rename = "n")]
    ns: u32,
    #[serde(rename = "v")]
    value: String,
    #[serde(rename = "x", default, skip_serializing_if = "std::ops::Not::not")]
    not_supported: bool,
}

/// The half that speaks to the server.
struct Uploads<'a> {
    link: &'a ZabbixLink,
    queue: &'a str,
    session: String,
    checks: watch::Sender<Vec<Check>>,
    availability: Availability,
    /// Results of tasks that no upload has brought yet.
    results: Vec<TaskResult<'static>>,
    unsent_since: Option<Instant>,
}

impl Uploads<'_> {
    async fn run(mut self, mut rhythm: Rhythm, cancel: &CancellationToken) {
        loop {
            let now = self.link.clock.instant();
            match rhythm.next(now) {
                Action::Wait(until) => tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    () = self.link.clock.sleep_until(until) => continue,
                },
                action @ (Action::Config | Action::Data { .. } | Action::Heartbeat) => {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => break,
                        () = self.act(action, &mut rhythm) => {}
                    }
                }
            }
        }
        // An upload that was cut off is repeated under the same ids.
        let clock = self.link.clock.clone();
        let last =
            async { while let Uploaded::Accepted { more: true } = self.upload(false).await.0 {} };
        tokio::select! {
            biased;
            () = last => {}
            () = clock.sleep(LAST_WORDS) => {}
        }
    }

    async fn act(&mut self, action: Action, rhythm: &mut Rhythm) {
        let clock = &self.link.clock;
        match action {
            Action::Config => {
                let outcome = match self.link.config.role {
                    Role::Agent => self.fetch_active_checks().await,
                    Role::Proxy => self.fetch_configuration().await,
                };
                if let Err(error) = &outcome {
                    self.complain("what to collect could not be fetched", error);
                }
                rhythm.config_done(outcome.is_ok(), clock.instant());
            }
            Action::Heartbeat => {
                if self.link.config.role == Role::Proxy {
                    let beat = self.link.asker().heartbeat();
                    let patience = self.link.config.intervals.heartbeat;
                    if let Err(error) = self.link.exchange(&beat, Form::PROXY, patience).await {
                        self.complain("the heartbeat was not taken", &error);
                    }
                }
                rhythm.heartbeat_done(clock.instant());
            }
            Action::Data { bare } => {
                let (outcome, reload) = self.upload(bare).await;
                rhythm.data_done(outcome, clock.instant());
                if reload {
                    rhythm.reload(clock.instant());
                }
            }
            Action::Wait(_) => {}
        }
    }

    fn complain(&self, what: &str, error: &ExchangeError) {
        tracing::info!(
            server = %self.link.config.endpoint,
            name = self.link.config.name,
            "{what}: {}", chain(error)
        );
    }

    async fn fetch_active_checks(&mut self) -> Result<(), ExchangeError> {
        let ask = self.link.asker().active_checks();
        let patience = self.link.limits.short_reply_time;
        let payload = self.link.exchange(&ask, Form::PLAIN, patience).await?;
        let reply = ActiveChecksReply::decode(&payload).map_err(ExchangeError::Reply)?;
        match reply {
            ActiveChecksReply::Keep => Ok(()),
            ActiveChecksReply::Refused(info) => Err(ExchangeError::Refused(info.into_owned())),
            ActiveChecksReply::List(list) => {
                let checks = list.rows.into_iter().filter_map(|check| {
                    Some(Check {
                        item: check.itemid?,
                        key: check.key.into_owned(),
                        delay: simple_delay(&check.delay),
                        how: How::Here,
                        asked: 0,
                    })
                });
                self.give(checks.collect());
                Ok(())
            }
        }
    }

    async fn fetch_configuration(&mut self) -> Result<(), ExchangeError> {
        let ask = self.link.asker().config();
        let patience = self.link.limits.upload_reply_time;
        let payload = self
            .link
            .exchange(&ask, Form::PROXY_CONFIG, patience)
            .await?;
        match ConfigReply::decode(&payload).map_err(ExchangeError::Config)? {
            ConfigReply::Refused(info) => Err(ExchangeError::Refused(info)),
            ConfigReply::Tables(tables) => {
                self.availability
                    .keep_only(tables.interfaces.iter().map(|row| row.interfaceid));
                self.give(checks_of(&tables));
                Ok(())
            }
        }
    }

    fn give(&self, mut checks: Vec<Check>) {
        checks.sort_by_key(|check| check.item);
        checks.dedup_by_key(|check| check.item);
        self.checks.send_if_modified(|given| {
            for check in &mut checks {
                let known = given.iter().find(|known| known.item == check.item);
                check.asked = known.map_or(0, |known| known.asked);
            }
            let changed = *given != checks;
            if changed {
                *given = checks;
            }
            changed
        });
    }

    /// One upload, and whether the server wants its configuration to be fetched again.
    async fn upload(&mut self, bare: bool) -> (Uploaded, bool) {
        let entries = if bare {
            Vec::new()
        } else {
            match self
                .link
                .spool
                .peek(self.queue, ROWS_MAX, UPLOAD_BYTES_MAX)
                .await
            {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::error!("the spool cannot be read: {}", chain(&error));
                    return (Uploaded::Failed, false);
                }
            }
        };
        let outcome = match self.link.config.role {
            Role::Agent if entries.is_empty() => {
                return (Uploaded::Accepted { more: false }, false);
            }
            Role::Agent => self
                .upload_as_agent(&entries)
                .await
                .map(|upload| (upload, false)),
            Role::Proxy => self.upload_as_proxy(&entries, bare).await,
        };
        match outcome {
            Ok((Upload::Disabled, reload)) => (Uploaded::Disabled, reload),
            Ok((Upload::Enabled, reload)) => {
                let more = entries.len() >= ROWS_MAX;
                (Uploaded::Accepted { more }, reload)
            }
            Err(error) => {
                self.unsent_since.get_or_insert(self.link.clock.instant());
                self.complain("values were not taken", &error);
                (Uploaded::Failed, false)
            }
        }
    }

    async fn upload_as_agent(&mut self, entries: &[Entry]) -> Result<Upload, ExchangeError> {
        let rows: Vec<ValueRow<'_>> = kept(entries)
            .map(|(id, kept)| ValueRow {
                id: Some(id),
                item: ItemRef::Id(kept.item),
                clock: Some(kept.clock),
                ns: Some(kept.ns),
                not_supported: kept.not_supported,
                value: Some(Cow::Owned(kept.value)),
                log: None,
            })
            .collect();
        let now = self.link.clock.now();
        let data = AgentData {
            host: Some(Cow::Borrowed(&self.link.config.name)),
            session: Some(Cow::Borrowed(&self.session)),
            version: Some(Cow::Borrowed(DIALECT)),
            variant: Some(2),
            rows: Rows::from(rows),
            has_rows: true,
            clock: Some(now.as_second()),
            ns: Some(nanoseconds(now)),
            muster: Some(Cow::Borrowed(&self.link.config.agent_id)),
        };
        let text = encode(&data)?;
        let patience = self.link.limits.short_reply_time;
        let payload = self.link.exchange(&text, Form::PLAIN, patience).await?;
        let reply = Reply::decode(&payload).map_err(ExchangeError::Reply)?;
        if !reply.success {
            return Err(ExchangeError::Refused(
                reply.info.unwrap_or_default().into_owned(),
            ));
        }
        self.acknowledge(entries).await?;
        Ok(reply.upload)
    }

    async fn upload_as_proxy(
        &mut self,
        entries: &[Entry],
        bare: bool,
    ) -> Result<(Upload, bool), ExchangeError> {
        let rows: Vec<HistoryRow<'_>> = kept(entries)
            .map(|(id, kept)| HistoryRow {
                id: Some(id),
                itemid: kept.item,
                clock: kept.clock,
                ns: kept.ns,
                not_supported: kept.not_supported,
                value: Some(Cow::Owned(kept.value)),
                log: None,
            })
            .collect();
        let now = self.link.clock.now();
        let availability = if bare {
            Vec::new()
        } else {
            self.availability.unsent()
        };
        let results = self.results.len();
        let unsent = self.unsent_since.map(|since| {
            self.link
                .clock
                .instant()
                .saturating_duration_since(since)
                .as_secs()
        });
        let data = ProxyData {
            active: true,
            host: Some(Cow::Borrowed(&self.link.config.name)),
            session: Some(Cow::Borrowed(&self.session)),
            availability: Rows::from(availability.clone()),
            history: Rows::from(rows),
            tasks: self
                .results
                .iter()
                .map(|result| TaskEntry::Result(Box::new(result.clone())))
                .collect::<Vec<_>>()
                .into(),
            more: entries.len() >= ROWS_MAX,
            version: Some(Cow::Borrowed(DIALECT)),
            clock: Some(now.as_second()),
            ns: Some(nanoseconds(now)),
            proxy_delay: unsent,
            muster: Some(Cow::Borrowed(&self.link.config.agent_id)),
            ..ProxyData::default()
        };
        let text = encode(&data)?;
        let patience = self.link.limits.upload_reply_time;
        let payload = self.link.exchange(&text, Form::PROXY, patience).await?;
        let reply = Reply::decode(&payload).map_err(ExchangeError::Reply)?;
        if !reply.success {
            return Err(ExchangeError::Refused(
                reply.info.unwrap_or_default().into_owned(),
            ));
        }
        self.acknowledge(entries).await?;
        self.availability.sent(&availability);
        self.results.drain(..results);
        let mut reload = false;
        for task in &reply.tasks.rows {
            reload |= self.take_task(task, now);
        }
        Ok((reply.upload, reload))
    }

    /// Answers a task; whether it asks for the configuration.
    fn take_task(&mut self, task: &TaskEntry<'_>, now: Timestamp) -> bool {
        const RELOAD: u64 = 4;
        let (of_data, parent_taskid, info) = match task {
            TaskEntry::RemoteCommand(command) => {
                tracing::warn!(
                    server = %self.link.config.endpoint,
                    "a remote command was refused: this agent executes none"
                );
                (
                    false,
                    command.parent_taskid,
                    "Remote commands are not enabled",
                )
            }
            TaskEntry::Data(data) if data.datatype == RELOAD => return true,
            TaskEntry::Data(data) => (true, data.parent_taskid, "Unknown task."),
            TaskEntry::CheckNow(check) => {
                self.checks.send_modify(|checks| {
                    let asked = checks.iter_mut().filter(|known| known.item == check.itemid);
                    asked.for_each(|known| known.asked = known.asked.wrapping_add(1));
                });
                return false;
            }
            TaskEntry::Result(_) | TaskEntry::Unknown { .. } => return false,
        };
        self.results.push(TaskResult {
            of_data,
            clock: now.as_second(),
            parent_taskid,
            status: -1,
            info: Cow::Borrowed(info),
        });
        false
    }

    async fn acknowledge(&mut self, entries: &[Entry]) -> Result<(), ExchangeError> {
        self.unsent_since = None;
        if let Some(last) = entries.last() {
            let done = self.link.spool.acknowledge(self.queue, last.id).await;
            done.map_err(ExchangeError::Spool)?;
        }
        Ok(())
    }
}

/// What a proxy of this build collects of a configuration.
fn checks_of(tables: &Configuration) -> Vec<Check> {
    let monitored = |hostid: u64| {
        tables
            .hosts
            .iter()
            .any(|host| host.hostid == hostid && host.status == 0)
    };
    tables
        .items
        .iter()
        .filter(|item| item.status == 0 && monitored(item.hostid))
        .filter_map(|item| {
            let how = match item.kind {
                item_kind::AGENT => {
                    let interface = tables
                        .interfaces
                        .iter()
                        .find(|row| Some(row.interfaceid) == item.interfaceid);
                    let place = interface.and_then(|row| {
                        let host = if row.use_ip { &row.ip } else { &row.dns };
                        Some((
                            row.interfaceid,
                            Endpoint {
                                host: host.clone(),
                                port: row.port.parse().ok()?,
                            },
                        ))
                    });
                    match place {
                        Some((interface, endpoint)) => How::Agent {
                            interface,
                            endpoint,
                        },
                        None => How::Never("No interface of its host can be used.".into()),
                    }
                }
                // Sent by others, or made of other values.
                item_kind::AGENT_ACTIVE | item_kind::DEPENDENT | item_kind::TRAPPER => return None,
                _ => How::Never("This proxy polls Zabbix agents only.".into()),
            };
            Some(Check {
                item: item.itemid,
                key: item.key.clone(),
                delay: simple_delay(&item.delay),
                how,
                asked: 0,
            })
        })
        .collect()
}

fn kept(entries: &[Entry]) -> impl Iterator<Item = (u64, Kept)> + '_ {
    entries.iter().filter_map(|entry| {
        let kept = serde_json::from_slice(&entry.body).ok()?;
        Some((entry.id, kept))
    })
}

fn nanoseconds(now: Timestamp) -> u32 {
    u32::try_from(now.subsec_nanosecond()).unwrap_or(0)
}

fn encode(message: &impl Serialize) -> Result<String, ExchangeError> {
    serde_json::to_string(message).map_err(ExchangeError::Encode)
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

/// Puts values into the queue; the oldest give way when it is full.
async fn spool_values(
    spool: &Spool,
    queue: &str,
    values: &[Kept],
    now: Timestamp,
) -> Result<(), StoreError> {
    let bodies = values
        .iter()
        .filter_map(|kept| serde_json::to_vec(kept).ok())
        .collect();
    spool.add(queue, bodies, Bound::VALUES, now).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
