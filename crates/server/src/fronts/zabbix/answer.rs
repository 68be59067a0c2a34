//! What is asked becomes calls of `Control`, and their outcome a reply in a real server's words.
//!
//! `success` is said only after the commit. Whoever is not approved hears what an unknown proxy or
//! host hears. Contract: Zabbix page, sections 2, 3, 4, 7 and 8.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use muster_core::agent::{Capability, Wire};
use muster_core::kind::Kind;
use muster_core::result::{News, Outcome};
use muster_core::run::OfferToken;
use muster_core::{Agent, AgentId};
use muster_net::listen::{PeerInfo, Security};
use muster_proto::zabbix::controller::{
    DataVersion, MAJOR_MISMATCH, UNSUPPORTED_VERSION, data_version,
};
use muster_proto::zabbix::task::{RemoteCommand, TaskEntry};
use muster_proto::zabbix::wire::{self, Dialect, Reject, Upload as UploadState, Version};
use muster_store::samples::{Batch, Row};
use serde_json::{Value, json};

use super::ZabbixFront;
use super::declared::{active_items, configuration};
use super::digest::{AgentUpload, Ask, Checks, ProxyName, ProxyUpload, SenderUpload, TaskWord};
use crate::control::{ControlError, DueAsk, Hello, Proof, Standing, Trouble};

/// What goes back to the peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: close.
    Nothing,
    /// This text, in the form of the request.
    Text(String),
}

impl Answer {
    fn say(text: String) -> Self {
        Self::Text(text)
    }

    /// Nothing was accepted, for a reason of ours.
    pub(super) fn failed(peer: &PeerInfo, error: &ControlError) -> Self {
        tracing::warn!(peer.address = %peer.remote, "a Zabbix exchange failed: {}", error.chain());
        Self::Text(wire::failed(&error.title))
    }
}

/// What became of the values of an agent or sender.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    stored: u64,
    failed: u64,
}

impl Counts {
    /// Of `total` rows that could be stored, so many were; others had `failed` before.
    fn of(stored: usize, total: usize, failed: u64) -> Self {
        let (stored, total) = (
            u64::try_from(stored).unwrap_or(u64::MAX),
            u64::try_from(total).unwrap_or(u64::MAX),
        );
        Self {
            stored,
            failed: failed.saturating_add(total.saturating_sub(stored)),
        }
    }

    pub(super) fn add(&mut self, more: Self) {
        self.stored = self.stored.saturating_add(more.stored);
        self.failed = self.failed.saturating_add(more.failed);
    }

    pub(super) fn answer(self, spent: Spent<'_>) -> Answer {
        Answer::say(wire::processed_reply(
            self.stored,
            self.failed,
            spent.time(),
        ))
    }
}

/// The version whose dialect this server speaks.
pub(super) const SERVER_VERSION: Version = Version {
    major: 6,
    minor: 0,
    patch: 14,
};

/// A 6.0 proxy asks for tasks each second and says that it lives each minute.
const PROXY_CONTACT: SignedDuration = SignedDuration::from_secs(60);
/// A 6.0 agent asks for its checks every two minutes.
const AGENT_CONTACT: SignedDuration = SignedDuration::from_secs(120);
/// How long a proxy has for a remote command (contract, section 7).
const COMMAND_TTL: SignedDuration = SignedDuration::from_mins(10);
/// Tasks in one reply.
const TASKS_MAX: i64 = 100;

/// Who a peer turned out to be.
enum Who {
    Approved(Box<Agent>),
    /// Not approved, or not to be told from the unknown.
    Unknown,
    /// Approved, but not from there or not so.
    NotAllowed,
}

impl ZabbixFront {
    pub(super) async fn answer(&self, ask: Ask, peer: &PeerInfo, spent: Spent<'_>) -> Answer {
        let outcome = match ask {
            Ask::ActiveChecks(checks) => self.active_checks(checks, peer).await,
            Ask::AgentData(upload) => self.agent_data(upload, peer, spent).await,
            Ask::AgentHeartbeat { host } => self.agent_heartbeat(host, peer).await,
            Ask::ProxyConfig(name) => self.proxy_config(name, peer).await,
            Ask::ProxyData(upload) => self.proxy_data(*upload, peer).await,
            Ask::ProxyHeartbeat(name) => self.proxy_heartbeat(name, peer).await,
            Ask::SenderData(upload) => self.sender_data(upload, peer, spent).await,
        };
        outcome.unwrap_or_else(|error| Answer::failed(peer, &error))
    }

    async fn proxy_heartbeat(
        &self,
        name: ProxyName,
        peer: &PeerInfo,
    ) -> Result<Answer, ControlError> {
        Ok(match self.proxy(&name, peer).await? {
            Ok(_) => Answer::say(wire::success()),
            Err(reject) => Answer::say(reject.reply()),
        })
    }

    async fn proxy_config(&self, name: ProxyName, peer: &PeerInfo) -> Result<Answer, ControlError> {
        let agent = match self.proxy(&name, peer).await? {
            Ok(agent) => agent,
            // A real server says nothing here; a text this short is read and logged by a real proxy.
            Err(reject) => return Ok(Answer::say(wire::config_refused(&reject.info, None))),
        };
        let version = name.version.as_deref().and_then(Version::parse);
        if version.is_some_and(|version| version.dialect() == Dialect::V70) {
            let detail = format!("it is of version {}", name.version.unwrap_or_default());
            self.refused(peer, "version", &agent.name, &detail);
            return Ok(Answer::say(wire::config_refused(
                MAJOR_MISMATCH,
                Some(SERVER_VERSION),
            )));
        }
        let (_, monitored) = self.control.monitored(Some(agent.id)).await?;
        Ok(Answer::say(configuration(&monitored).encode()))
    }

    async fn proxy_data(
        &self,
        upload: ProxyUpload,
        peer: &PeerInfo,
    ) -> Result<Answer, ControlError> {
        let agent = match self.uploading_proxy(&upload.name, peer).await? {
            Ok(agent) => agent,
            Err(answer) => return Ok(answer),
        };
        let ProxyUpload {
            session,
            rows,
            has_data,
            bad,
            results,
            ..
        } = upload;
        if let Some(answer) = self
            .take_rows(&agent, session, rows, has_data, peer)
            .await?
        {
            return Ok(answer);
        }
        self.conclude_upload(&agent, bad, results, peer).await
    }

    /// The proxy of that name, if it may upload; else what it is told.
    pub(super) async fn uploading_proxy(
        &self,
        name: &ProxyName,
        peer: &PeerInfo,
    ) -> Result<Result<Box<Agent>, Answer>, ControlError> {
        let agent = match self.proxy(name, peer).await? {
            Ok(agent) => agent,
            Err(reject) => return Ok(Err(Answer::say(reject.reply()))),
        };
        Ok(match data_version(name.version.as_deref()) {
            DataVersion::Accepted(_) => Ok(agent),
            DataVersion::RefusedBare => {
                let why = "its version is too old or missing";
                self.refused(peer, "version", &agent.name, why);
                Err(Answer::say(wire::failed_without_info()))
            }
            DataVersion::RefusedDisabled => {
                self.refused(peer, "version", &agent.name, UNSUPPORTED_VERSION);
                Err(Answer::say(wire::proxy_data_reply(
                    UploadState::Disabled,
                    false,
                    Some(UNSUPPORTED_VERSION),
                    &[],
                )))
            }
        })
    }

    /// Stores the rows that are this proxy's to report; what it is told when that cannot be now.
    pub(super) async fn take_rows(
        &self,
        agent: &Agent,
        session: Option<String>,
        rows: Vec<(Option<AgentId>, Row)>,
        has_data: bool,
        peer: &PeerInfo,
    ) -> Result<Option<Answer>, ControlError> {
        let mine = Some(agent.id);
        let rows = rows.into_iter().filter(|(of, _)| *of == mine);
        let batch = Batch {
            peer: agent.id.to_string(),
            session,
            rows: rows.map(|(_, row)| row).collect(),
        };
        match self.control.ingest(batch).await {
            Ok(_) => Ok(None),
            Err(error) if error.trouble == Trouble::Unavailable => {
                self.refused(peer, "overload", &agent.name, &error.to_string());
                let text = wire::proxy_data_reply(UploadState::Disabled, !has_data, None, &[]);
                Ok(Some(Answer::say(text)))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes results, hands over tasks, and says what else is to be said.
    pub(super) async fn conclude_upload(
        &self,
        agent: &Agent,
        bad: u64,
        results: Vec<TaskWord>,
        peer: &PeerInfo,
    ) -> Result<Answer, ControlError> {
        let ignored = self.take_results(agent.id, results).await?;
        let tasks = self.claim_tasks(agent).await?;
        let mut notes = Vec::new();
        if bad > 0 {
            notes.push(format!("{bad} malformed rows were skipped"));
        }
        if ignored > 0 {
            notes.push(format!("{ignored} results of unknown tasks were ignored"));
        }
        if !notes.is_empty() {
            self.refused(peer, "rows", &agent.name, &notes.join("; "));
        }
        let info = (!notes.is_empty()).then(|| notes.join("; "));
        Ok(Answer::say(wire::proxy_data_reply(
            UploadState::Enabled,
            true,
            info.as_deref(),
            &tasks,
        )))
    }

    /// Closes the runs whose results came; how many words were about nothing this proxy holds.
    async fn take_results(
        &self,
        agent: AgentId,
        results: Vec<TaskWord>,
    ) -> Result<u64, ControlError> {
        if results.is_empty() {
            return Ok(0);
        }
        let held = self.control.held(agent, &command_kind()).await?;
        let held: BTreeMap<u64, OfferToken> = held
            .into_iter()
            .map(|token| (task_number(&token), token))
            .collect();
        let mut ignored = 0_u64;
        for word in results {
            let Some(token) = held.get(&word.task) else {
                ignored = ignored.saturating_add(1);
                continue;
            };
            let result = json!({"succeeded": word.succeeded, "output": word.info}).to_string();
            let outcome = Outcome {
                succeeded: word.succeeded,
                result: Some(result),
                diags: (!word.succeeded).then_some(word.info),
            };
            self.control
                .report(*token, agent, News::Finished(outcome))
                .await?;
        }
        Ok(ignored)
    }

    /// Claims this proxy's due commands. They count as begun with the reply: a real proxy says
    /// nothing before the result, and polls each second while it works, so that handing a command
    /// over again would run it again.
    async fn claim_tasks(&self, agent: &Agent) -> Result<Vec<TaskEntry<'static>>, ControlError> {
        let ask = DueAsk {
            kinds: vec![command_kind()],
            lease: COMMAND_TTL,
            ahead: SignedDuration::ZERO,
            limit: TASKS_MAX,
        };
        let offers = self.control.due(agent.id, ask).await?;
        let mut tasks = Vec::with_capacity(offers.len());
        if offers.is_empty() {
            return Ok(tasks);
        }
        let (_, monitored) = self.control.monitored(Some(agent.id)).await?;
        let hosts: BTreeMap<&str, u64> = monitored
            .iter()
            .filter_map(|monitored| {
                let number = monitored.host.monitoring.as_ref()?.number;
                Some((monitored.host.facts.name.as_deref()?, number))
            })
            .collect();
        let now = self.control.clock().now().as_second();
        for offer in offers {
            match remote_command(offer.spec.expose(), &offer.targets, &hosts) {
                Ok(command) => {
                    self.control
                        .report(offer.token, agent.id, News::Began)
                        .await?;
                    tasks.push(TaskEntry::RemoteCommand(Box::new(RemoteCommand {
                        clock: now,
                        ttl: COMMAND_TTL.as_secs().unsigned_abs(),
                        parent_taskid: task_number(&offer.token),
                        ..command
                    })));
                }
                Err(reason) => {
                    let declined = News::Declined { reason };
                    self.control.report(offer.token, agent.id, declined).await?;
                }
            }
        }
        Ok(tasks)
    }

    async fn active_checks(&self, checks: Checks, peer: &PeerInfo) -> Result<Answer, ControlError> {
        let not_found = || Answer::say(wire::failed(&format!("host [{}] not found", checks.host)));
        let software = match (checks.muster, checks.variant) {
            (Some(_), _) => "muster",
            (None, Some(2)) => "zabbix_agent2",
            (None, _) => "zabbix_agentd",
        };
        let version = checks.version.to_string();
        let hello = self.agent_hello(&checks.host, software, &version, checks.muster, peer);
        match self.check_in(hello, peer).await? {
            Who::Approved(_) => {}
            Who::Unknown => return Ok(not_found()),
            Who::NotAllowed => {
                return Ok(Answer::say(wire::failed("connection is not allowed")));
            }
        }
        let Some(monitored) = self.control.monitored_host(&checks.host).await? else {
            return Ok(not_found());
        };
        if monitored
            .host
            .monitoring
            .as_ref()
            .is_some_and(|m| m.proxy.is_some())
        {
            // As 6.0 says it: such a host is not this server's.
            return Ok(not_found());
        }
        let items = active_items(&monitored);
        let revision = self.control.item_index().revision();
        Ok(Answer::say(wire::active_checks_reply(
            checks.version,
            &items,
            revision,
        )))
    }

    async fn agent_heartbeat(
        &self,
        host: Option<String>,
        peer: &PeerInfo,
    ) -> Result<Answer, ControlError> {
        if let Some(host) = host.filter(|host| wire::host_name_is_valid(host)) {
            let hello = self.agent_hello(&host, "", "", None, peer);
            self.check_in(hello, peer).await?;
        }
        Ok(Answer::Nothing)
    }

    async fn agent_data(
        &self,
        upload: AgentUpload,
        peer: &PeerInfo,
        spent: Spent<'_>,
    ) -> Result<Answer, ControlError> {
        let taken = self.agent_rows(upload, peer).await?;
        Ok(taken.map_or_else(|answer| answer, |counts| counts.answer(spent)))
    }

    /// Stores values of an agent; what it is told when it may not bring any.
    pub(super) async fn agent_rows(
        &self,
        upload: AgentUpload,
        peer: &PeerInfo,
    ) -> Result<Result<Counts, Answer>, ControlError> {
        let Some(host) = upload.host else {
            return Ok(Ok(Counts::of(0, 0, upload.failed)));
        };
        let unknown = || {
            let host = muster_proto::zabbix::json::excerpt(host.as_bytes());
            Answer::say(wire::success_with(&format!("unknown host '{host}'")))
        };
        if !upload.host_known || !wire::host_name_is_valid(&host) {
            return Ok(Err(unknown()));
        }
        let version = upload.version.unwrap_or_default();
        let hello = self.agent_hello(&host, "", &version, upload.muster, peer);
        match self.check_in(hello, peer).await? {
            Who::Approved(_) => {}
            // Refused, not "unknown host" with success: its values must not be lost while it waits.
            Who::Unknown => {
                return Ok(Err(Answer::say(wire::failed(&format!(
                    "host [{host}] not found"
                )))));
            }
            Who::NotAllowed => {
                return Ok(Err(Answer::say(wire::failed("connection is not allowed"))));
            }
        }
        let total = upload.rows.len();
        let batch = Batch {
            peer: format!("host:{host}"),
            session: upload.session,
            rows: upload.rows,
        };
        let accepted = self.control.ingest(batch).await?;
        // What came before counts as failed, as a real server has it.
        Ok(Ok(Counts::of(accepted.stored, total, upload.failed)))
    }

    async fn sender_data(
        &self,
        upload: SenderUpload,
        peer: &PeerInfo,
        spent: Spent<'_>,
    ) -> Result<Answer, ControlError> {
        Ok(self.sender_rows(upload, peer).await?.answer(spent))
    }

    /// Stores values of a sender.
    pub(super) async fn sender_rows(
        &self,
        upload: SenderUpload,
        peer: &PeerInfo,
    ) -> Result<Counts, ControlError> {
        let ip = peer.ip();
        let networks = &self.control.settings().enrol_addresses;
        let trusted = peer.is_loopback() || networks.iter().any(|net| net.contains(&ip));
        let mut failed = upload.failed;
        let mut rows = Vec::with_capacity(upload.rows.len());
        for (allowed, row) in upload.rows {
            if trusted || allowed.iter().any(|net| net.contains(&ip)) {
                rows.push(row);
            } else {
                failed = failed.saturating_add(1);
            }
        }
        let batch = Batch {
            peer: format!("sender:{ip}"),
            session: None,
            rows,
        };
        let accepted = self.control.ingest(batch).await?;
        Ok(Counts::of(accepted.stored, accepted.stored, failed))
    }

    /// The approved agent behind a proxy's name.
    async fn proxy(
        &self,
        name: &ProxyName,
        peer: &PeerInfo,
    ) -> Result<Result<Box<Agent>, Reject>, ControlError> {
        let host = match wire::proxy_name(name.host.as_deref()) {
            Ok(host) => host,
            Err(reject) => {
                self.refused(peer, "name", "", &reject.info);
                return Ok(Err(reject));
            }
        };
        let version = name.version.as_deref().and_then(Version::parse);
        let version = version
            .map(|version| version.to_string())
            .unwrap_or_default();
        let software = if name.muster.is_some() {
            "muster"
        } else {
            "zabbix_proxy"
        };
        let hello = Hello {
            capabilities: Some(vec![Capability {
                kind: command_kind(),
                version: version.clone(),
                assumed: true,
            }]),
            next_contact: PROXY_CONTACT,
            ..self.agent_hello(host, software, &version, name.muster, peer)
        };
        Ok(match self.check_in(hello, peer).await? {
            Who::Approved(agent) => Ok(agent),
            Who::Unknown => Err(Reject::new(format!("proxy \"{host}\" not found"))),
            Who::NotAllowed => Err(Reject::new("connection is not allowed")),
        })
    }

    fn agent_hello(
        &self,
        host: &str,
        software: &str,
        version: &str,
        muster: Option<AgentId>,
        peer: &PeerInfo,
    ) -> Hello {
        Hello {
            wire: Wire::Zabbix,
            peer: host.to_owned(),
            id: muster,
            name: Some(host.to_owned()),
            software: software.to_owned(),
            // What our own agent says there is the version of the protocol it speaks, not its own.
            version: if muster.is_some() {
                String::new()
            } else {
                version.to_owned()
            },
            capabilities: None,
            address: peer.ip(),
            forwarded: false,
            proof: Proof::None,
            tls_identity: Some(tls_identity(&peer.security)),
            next_contact: AGENT_CONTACT,
        }
    }

    async fn check_in(&self, hello: Hello, peer: &PeerInfo) -> Result<Who, ControlError> {
        let name = hello.peer.clone();
        let admission = match self.control.check_in(hello).await {
            Ok(admission) => admission,
            Err(error) if matches!(error.trouble, Trouble::Refused | Trouble::TooMuch) => {
                return Ok(Who::Unknown);
            }
            Err(error) => return Err(error),
        };
        Ok(match admission.standing {
            Standing::Approved => {
                self.known.add(peer.ip());
                Who::Approved(Box::new(admission.agent))
            }
            Standing::Held(why) => {
                self.refused(peer, "held", &name, &why);
                Who::NotAllowed
            }
            Standing::Disabled | Standing::Pending => {
                let why = match admission.standing {
                    Standing::Disabled => "disabled by a person",
                    Standing::Approved | Standing::Held(_) | Standing::Pending => {
                        "waits for approval"
                    }
                };
                self.refused(peer, "not_approved", &name, why);
                Who::Unknown
            }
        })
    }
}

/// How long an exchange has taken.
#[derive(Clone, Copy)]
pub(super) struct Spent<'a> {
    pub(super) clock: &'a muster_net::Clock,
    pub(super) since: std::time::Instant,
}

impl Spent<'_> {
    fn time(&self) -> Duration {
        self.clock.instant().saturating_duration_since(self.since)
    }
}

fn tls_identity(security: &Security) -> String {
    match security {
        Security::Plain => "plain".to_owned(),
        Security::Psk { identity } => format!("psk:{identity}"),
        Security::Tls {
            client: Some(certificate),
        } => format!("cert:{}", certificate.subject),
        Security::Tls { client: None } => "tls".to_owned(),
    }
}

fn command_kind() -> Kind {
    // A literal that is a kind; were it not, nothing would ever be due.
    "command"
        .parse()
        .unwrap_or_else(|_| unreachable!("`command` names a kind"))
}

/// The number by which a proxy knows an offer: it echoes 64 bits and no more. Which offer it was is
/// found among those the proxy holds.
fn task_number(token: &OfferToken) -> u64 {
    let generation = token.generation.to_le_bytes();
    let bytes = token.run.uuid().into_bytes().into_iter().chain(generation);
    // FNV-1a, kept below 2^63 and above 0, where real peers keep ids.
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash & (u64::MAX >> 1)).max(1)
}

/// Translates the spec of a `command` task: `command`, `execute_on` (`agent` or `proxy`) and, for an
/// agent, the `host`, which may also be the task's target.
fn remote_command(
    spec: &str,
    targets: &[String],
    hosts: &BTreeMap<&str, u64>,
) -> Result<RemoteCommand<'static>, String> {
    let spec: Value = serde_json::from_str(spec).map_err(|_| "its spec is no JSON".to_owned())?;
    let text = |name: &str| spec.get(name).and_then(Value::as_str);
    let command = text("command").ok_or("its spec has no \"command\"")?;
    let execute_on = match text("execute_on") {
        Some("agent") => 0,
        None | Some("proxy") => 2,
        Some(other) => {
            return Err(format!(
                "it is to be executed on {other:?}, not on an agent or proxy"
            ));
        }
    };
    let host = text("host").or(targets.first().map(String::as_str));
    let hostid = match host {
        Some(host) => *hosts
            .get(host)
            .ok_or_else(|| format!("host {host:?} is not monitored by it"))?,
        // A proxy wants a host it knows even for what it executes itself.
        None => *hosts.values().next().ok_or("it monitors no host yet")?,
    };
    if execute_on == 0 && host.is_none() {
        return Err("its spec names no \"host\" whose agent is to execute it".to_owned());
    }
    Ok(RemoteCommand {
        command: command.to_owned().into(),
        execute_on,
        hostid,
        ..RemoteCommand::default()
    })
}

#[cfg(test)]
mod tests {
    use muster_core::RunId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn task_numbers_differ_by_run_and_generation() {
        let token = |run, generation| OfferToken {
            run: RunId::from_uuid(Uuid::from_u128(run)),
            generation,
        };
        let numbers = [
            task_number(&token(1, 1)),
            task_number(&token(1, 2)),
            task_number(&token(2, 1)),
        ];
        assert!(numbers.iter().all(|n| (1..1 << 63).contains(n)));
        assert!(numbers[0] != numbers[1] && numbers[0] != numbers[2] && numbers[1] != numbers[2]);
    }

    #[test]
    fn commands_are_translated_or_declined_with_a_reason() {
        let hosts = BTreeMap::from([("mon-a", 7)]);
        let none = BTreeMap::new();
        let on_proxy = remote_command(r#"{"command":"id"}"#, &[], &hosts).unwrap();
        assert_eq!((on_proxy.execute_on, on_proxy.hostid), (2, 7));
        let on_agent = remote_command(
            r#"{"command":"id","execute_on":"agent"}"#,
            &["mon-a".into()],
            &hosts,
        );
        assert_eq!(on_agent.unwrap().execute_on, 0);
        let cases = [
            (r"{}", &hosts, "its spec has no \"command\""),
            (
                r#"{"command":"id","execute_on":"moon"}"#,
                &hosts,
                "it is to be executed on \"moon\"",
            ),
            (
                r#"{"command":"id","host":"x"}"#,
                &hosts,
                "host \"x\" is not monitored by it",
            ),
            (r#"{"command":"id"}"#, &none, "it monitors no host yet"),
            (
                r#"{"command":"id","execute_on":"agent"}"#,
                &hosts,
                "its spec names no \"host\"",
            ),
        ];
        for (spec, hosts, reason) in cases {
            let declined = remote_command(spec, &[], hosts).unwrap_err();
            assert!(declined.starts_with(reason), "{declined}");
        }
    }
}
