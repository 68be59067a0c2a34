//! What waits to be told to the server: values in the spool, availability, results of tasks.
//!
//! A pack is taken out to be told and is forgotten only when the server has said that it has it. Until
//! then the same values go out again, under the same ids and session.

use std::borrow::Cow;
use std::time::Instant;

use jiff::Timestamp;
use muster_net::Clock;
use muster_net::dial::Endpoint;
use muster_proto::zabbix::config::Configuration;
use muster_proto::zabbix::data::{
    AgentData, AvailabilityRow, HistoryRow, ItemRef, ProxyData, Rows, ValueRow,
};
use muster_proto::zabbix::task::{TaskEntry, TaskResult};
use muster_store::StoreError;
use muster_store::spool::{Bound, Entry, Spool};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::availability::Availability;
use super::given::checks_of;
use super::sampler::Check;
use super::{DIALECT, ZabbixLink, nanoseconds};

/// Rows of one upload, as real proxies pack them.
const ROWS_MAX: usize = 10_000;
/// Bytes of them: below what a stranger may send.
const UPLOAD_BYTES_MAX: usize = 12 * 1024 * 1024;

/// A value as the spool keeps it; its id is the entry's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(rename = "i")]
    pub(super) item: u64,
    #[serde(rename = "c")]
    pub(super) clock: i64,
    #[serde(rename = "n")]
    pub(super) ns: u32,
    #[serde(rename = "v")]
    pub(super) value: String,
    #[serde(rename = "x", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) not_supported: bool,
}

/// What is told at once.
#[derive(Debug, Default)]
pub(super) struct Pack {
    entries: Vec<Entry>,
    availability: Vec<AvailabilityRow<'static>>,
    /// How many results of tasks.
    results: usize,
}

impl Pack {
    /// Whether there are no values in it.
    pub(super) fn has_no_values(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether more values wait than it took.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= ROWS_MAX
    }

    fn kept(&self) -> impl Iterator<Item = (u64, Kept)> + '_ {
        self.entries.iter().filter_map(|entry| {
            let kept = serde_json::from_slice(&entry.body).ok()?;
            Some((entry.id, kept))
        })
    }
}

/// Everything that waits, and what is to be collected.
pub(super) struct Stock {
    spool: Spool,
    queue: String,
    session: String,
    /// Whom it is for, and who tells it.
    server: Endpoint,
    name: String,
    agent_id: String,
    clock: Clock,
    checks: watch::Sender<Vec<Check>>,
    availability: Availability,
    /// Results of tasks that the server has not.
    results: Vec<TaskResult<'static>>,
    unsent_since: Option<Instant>,
}

impl Stock {
    pub(super) fn new(
        link: &ZabbixLink,
        queue: &str,
        session: String,
        checks: watch::Sender<Vec<Check>>,
        availability: Availability,
    ) -> Self {
        Self {
            spool: link.spool.clone(),
            queue: queue.to_owned(),
            session,
            server: link.config.endpoint.clone(),
            name: link.config.name.clone(),
            agent_id: link.config.agent_id.clone(),
            clock: link.clock.clone(),
            checks,
            availability,
            results: Vec::new(),
            unsent_since: None,
        }
    }

    /// What is to be told now.
    pub(super) async fn pack(&self) -> Result<Pack, StoreError> {
        let entries = self.spool.peek(&self.queue, ROWS_MAX, UPLOAD_BYTES_MAX);
        Ok(Pack {
            entries: entries.await?,
            availability: self.availability.unsent(),
            ..self.bare_pack()
        })
    }

    /// Results of tasks only.
    pub(super) fn bare_pack(&self) -> Pack {
        Pack {
            results: self.results.len(),
            ..Pack::default()
        }
    }

    /// A pack in the words of an active agent.
    pub(super) fn agent_data(&self, pack: &Pack) -> AgentData<'_> {
        let rows: Vec<ValueRow<'_>> = pack
            .kept()
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
        let now = self.clock.now();
        AgentData {
            host: Some(Cow::Borrowed(&self.name)),
            session: Some(Cow::Borrowed(&self.session)),
            version: Some(Cow::Borrowed(DIALECT)),
            variant: Some(2),
            rows: Rows::from(rows),
            has_rows: true,
            clock: Some(now.as_second()),
            ns: Some(nanoseconds(now)),
            muster: Some(Cow::Borrowed(&self.agent_id)),
        }
    }

    /// A pack in the words of a proxy: an active one says who it is, a passive one was asked.
    pub(super) fn proxy_data(&self, pack: &Pack, active: bool) -> ProxyData<'_> {
        let rows: Vec<HistoryRow<'_>> = pack
            .kept()
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
        let now = self.clock.now();
        let delay = self.unsent_since.map(|since| {
            let delay = self.clock.instant().saturating_duration_since(since);
            delay.as_secs()
        });
        let results = self.results.iter().take(pack.results);
        ProxyData {
            active,
            host: active.then_some(Cow::Borrowed(&self.name)),
            session: Some(Cow::Borrowed(&self.session)),
            availability: Rows::from(pack.availability.clone()),
            history: Rows::from(rows),
            tasks: results
                .map(|result| TaskEntry::Result(Box::new(result.clone())))
                .collect::<Vec<_>>()
                .into(),
            more: pack.is_full(),
            version: Some(Cow::Borrowed(DIALECT)),
            clock: Some(now.as_second()),
            ns: Some(nanoseconds(now)),
            proxy_delay: delay,
            muster: active.then_some(Cow::Borrowed(&self.agent_id)),
            ..ProxyData::default()
        }
    }

    /// The server has it.
    pub(super) async fn taken(&mut self, pack: Pack) -> Result<(), StoreError> {
        self.unsent_since = None;
        self.availability.sent(&pack.availability);
        self.results.drain(..pack.results);
        if let Some(last) = pack.entries.last() {
            self.spool.acknowledge(&self.queue, last.id).await?;
        }
        Ok(())
    }

    /// The server does not have it: it is told again.
    pub(super) fn not_taken(&mut self) {
        self.unsent_since.get_or_insert(self.clock.instant());
    }

    /// Collects what a proxy's configuration says from now on.
    pub(super) fn configure(&self, tables: &Configuration) {
        let interfaces = tables.interfaces.iter().map(|row| row.interfaceid);
        self.availability.keep_only(interfaces);
        self.give(checks_of(tables));
    }

    /// Gives these to the sampler. What was asked for at once before is not forgotten.
    pub(super) fn give(&self, mut checks: Vec<Check>) {
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

    /// Takes tasks; whether one asks for the configuration to be fetched.
    pub(super) fn take_tasks(&mut self, tasks: &[TaskEntry<'_>]) -> bool {
        let now = self.clock.now();
        let mut reload = false;
        for task in tasks {
            reload |= self.take_task(task, now);
        }
        reload
    }

    /// Answers a task; whether it asks for the configuration.
    fn take_task(&mut self, task: &TaskEntry<'_>, now: Timestamp) -> bool {
        const RELOAD: u64 = 4;
        let (of_data, parent_taskid, info) = match task {
            TaskEntry::RemoteCommand(command) => {
                tracing::warn!(
                    server = %self.server,
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
}

/// Puts values into the queue; the oldest give way when it is full.
pub(super) async fn spool_values(
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
