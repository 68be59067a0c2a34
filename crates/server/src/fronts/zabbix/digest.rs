//! A frame as it came becomes what is asked, owned and checked against the declared items.
//!
//! Pure, and all of it may run off the I/O threads: inflating and parsing cost CPU in proportion to
//! what a peer sends. Who the peer is, is not known here yet.

use std::sync::Arc;

use jiff::Timestamp;
use muster_core::AgentId;
use muster_core::sample::{ItemType, LogLine, STRING_CHARS_MAX, TEXT_BYTES_MAX, Value, ValueType};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::data::{AgentData, HistoryRow, ItemRef, LogMeta, ProxyData, SenderData};
use muster_proto::zabbix::frame::{FrameError, Packet};
use muster_proto::zabbix::task::TaskEntry;
use muster_proto::zabbix::wire::{OpenError, Payload, Request, Version};
use muster_store::block::{Content, Flags, Reading};
use muster_store::samples::Row;

use crate::control::{ItemEntry, ItemIndex};

/// What a peer asks.
#[derive(Debug)]
pub(super) enum Ask {
    ActiveChecks(Checks),
    AgentData(AgentUpload),
    AgentHeartbeat { host: Option<String> },
    ProxyConfig(ProxyName),
    ProxyData(Box<ProxyUpload>),
    ProxyHeartbeat(ProxyName),
    SenderData(SenderUpload),
}

/// What a proxy says of itself.
#[derive(Debug, Default)]
pub(super) struct ProxyName {
    pub(super) host: Option<String>,
    pub(super) version: Option<String>,
    pub(super) muster: Option<AgentId>,
}

/// An agent asks what to collect.
#[derive(Debug)]
pub(super) struct Checks {
    pub(super) host: String,
    pub(super) version: Version,
    pub(super) variant: Option<u8>,
    pub(super) muster: Option<AgentId>,
}

/// An upload of a proxy.
#[derive(Debug, Default)]
pub(super) struct ProxyUpload {
    pub(super) name: ProxyName,
    pub(super) session: Option<String>,
    /// Readings of declared items, with the proxy that may report each.
    pub(super) rows: Vec<(Option<AgentId>, Row)>,
    /// Whether there are rows other than task results.
    pub(super) has_data: bool,
    /// Rows that could not be read.
    pub(super) bad: u64,
    pub(super) results: Vec<TaskWord>,
}

/// What a proxy says came of a task.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TaskWord {
    pub(super) task: u64,
    pub(super) succeeded: bool,
    pub(super) info: String,
}

/// An upload of an active agent.
#[derive(Debug)]
pub(super) struct AgentUpload {
    /// `None` when the message has no row either.
    pub(super) host: Option<String>,
    pub(super) session: Option<String>,
    pub(super) version: Option<String>,
    pub(super) muster: Option<AgentId>,
    pub(super) rows: Vec<Row>,
    /// Rows that are of no active item of that host, or could not be read.
    pub(super) failed: u64,
    /// Whether a monitored host of this server has that name.
    pub(super) host_known: bool,
}

/// An upload of a sender.
#[derive(Debug)]
pub(super) struct SenderUpload {
    /// Readings of trapper items, each with the item whose allowed list counts.
    pub(super) rows: Vec<(Arc<[ipnet::IpNet]>, Row)>,
    /// Rows of no trapper item of this server, or that could not be read.
    pub(super) failed: u64,
}

/// Why nothing is asked.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Close without a word.
    Drop(FrameError),
    /// Answer `failed` with this text.
    Say { reason: &'static str, info: String },
}

/// What rows are judged by.
pub(super) struct Bench<'a> {
    pub(super) limits: &'a Limits,
    pub(super) index: &'a ItemIndex,
    pub(super) now: Timestamp,
}

/// Opens a packet that is not large, and reads the request in it.
pub(super) fn digest(packet: Packet, bench: &Bench<'_>) -> Result<Ask, Refusal> {
    let opened = Payload::open(packet, bench.limits, &bench.limits.stranger);
    let payload = opened.map_err(|error| match error {
        OpenError::Frame(error) => Refusal::Drop(error),
        OpenError::Json(error) => Refusal::Say {
            reason: "json",
            info: error.to_string(),
        },
    })?;
    asked(payload, bench)
}

/// Reads the request in a payload.
pub(super) fn asked(payload: Payload, bench: &Bench<'_>) -> Result<Ask, Refusal> {
    let request = payload.request().map_err(|reject| Refusal::Say {
        reason: "request",
        info: reject.info,
    })?;
    let replaced = payload.replaced();
    Ok(match request {
        Request::ActiveChecks(checks) => Ask::ActiveChecks(Checks {
            muster: checks.muster.as_deref().and_then(agent_id),
            host: checks.host.into_owned(),
            version: checks.version,
            variant: checks.variant,
        }),
        Request::AgentData(data) => Ask::AgentData(agent_upload(*data, replaced, bench)),
        Request::AgentHeartbeat(hello) => Ask::AgentHeartbeat {
            host: hello.host().map(str::to_owned),
        },
        Request::ProxyConfig(config) => Ask::ProxyConfig(ProxyName {
            host: config.host().map(str::to_owned),
            version: config.version().map(str::to_owned),
            muster: config.muster().and_then(agent_id),
        }),
        Request::ProxyData(data) => Ask::ProxyData(Box::new(proxy_upload(*data, replaced, bench))),
        Request::ProxyHeartbeat(hello) => Ask::ProxyHeartbeat(ProxyName {
            host: hello.host().map(str::to_owned),
            version: hello.version().map(str::to_owned),
            muster: hello.muster().and_then(agent_id),
        }),
        Request::SenderData(data) => Ask::SenderData(sender_upload(*data, replaced, bench)),
    })
}

fn agent_id(text: &str) -> Option<AgentId> {
    text.parse().ok()
}

fn proxy_upload(data: ProxyData<'_>, replaced: bool, bench: &Bench<'_>) -> ProxyUpload {
    let mut out = ProxyUpload {
        has_data: data.has_data(),
        bad: data.bad_rows(),
        rows: Vec::with_capacity(data.history.rows.len()),
        ..ProxyUpload::default()
    };
    for row in &data.history.rows {
        // Values of items that are not declared are taken and dropped, as real servers do.
        let Some(entry) = bench.index.by_number(row.itemid) else {
            continue;
        };
        let HistoryRow {
            clock,
            ns,
            not_supported,
            value,
            log,
            ..
        } = row;
        let stamp = Stamp {
            clock: *clock,
            ns: *ns,
        };
        let told = Told {
            value: value.as_deref(),
            not_supported: *not_supported,
            log: log.as_deref(),
            replaced,
        };
        if let Some(reading) = reading(entry, stamp, &told, bench.now) {
            out.rows.push((
                entry.proxy,
                Row {
                    id: row.id,
                    reading,
                },
            ));
        }
    }
    out.results = data.tasks.rows.iter().filter_map(task_word).collect();
    out.name = ProxyName {
        host: data.host.map(|host| host.into_owned()),
        version: data.version.map(|version| version.into_owned()),
        muster: data.muster.as_deref().and_then(agent_id),
    };
    out.session = data.session.map(|session| session.into_owned());
    out
}

/// A result. Commands that a proxy sends are nobody's here and never executed.
fn task_word(entry: &TaskEntry<'_>) -> Option<TaskWord> {
    match entry {
        TaskEntry::Result(result) => Some(TaskWord {
            task: result.parent_taskid,
            succeeded: result.succeeded(),
            info: result.info.clone().into_owned(),
        }),
        TaskEntry::CheckNow(_)
        | TaskEntry::Data(_)
        | TaskEntry::RemoteCommand(_)
        | TaskEntry::Unknown { .. } => None,
    }
}

fn agent_upload(data: AgentData<'_>, replaced: bool, bench: &Bench<'_>) -> AgentUpload {
    let first_host = data.rows.rows.iter().find_map(|row| match &row.item {
        ItemRef::Key { host, .. } => Some(host.as_ref().to_owned()),
        ItemRef::Id(_) => None,
    });
    let host = data.host.map(|host| host.into_owned()).or(first_host);
    let mut rows = Vec::with_capacity(data.rows.rows.len());
    let mut failed = data.rows.bad;
    for row in &data.rows.rows {
        let entry = match &row.item {
            ItemRef::Id(number) => bench.index.by_number(*number),
            ItemRef::Key { host: of, key } if host.as_deref() == Some(of.as_ref()) => {
                bench.index.by_key(of, key)
            }
            // One identity, one host: another name in the same message is somebody else's.
            ItemRef::Key { .. } => None,
        };
        let entry = entry.filter(|entry| {
            entry.item_type == ItemType::AgentActive
                && entry.proxy.is_none()
                && host.as_deref() == Some(&*entry.host)
        });
        let (Some(entry), Some(clock)) = (entry, row.clock) else {
            failed = failed.saturating_add(1);
            continue;
        };
        let stamp = Stamp {
            clock,
            ns: row.ns.unwrap_or(0),
        };
        let told = Told {
            value: row.value.as_deref(),
            not_supported: row.not_supported,
            log: row.log.as_deref(),
            replaced,
        };
        if let Some(reading) = reading(entry, stamp, &told, bench.now) {
            rows.push(Row {
                id: row.id,
                reading,
            });
        }
    }
    AgentUpload {
        host_known: host
            .as_deref()
            .is_some_and(|host| bench.index.has_host(host)),
        host,
        session: data.session.map(|session| session.into_owned()),
        version: data.version.map(|version| version.into_owned()),
        muster: data.muster.as_deref().and_then(agent_id),
        rows,
        failed,
    }
}

fn sender_upload(data: SenderData<'_>, replaced: bool, bench: &Bench<'_>) -> SenderUpload {
    let mut rows = Vec::with_capacity(data.rows.rows.len());
    let mut failed = data.rows.bad;
    // Rows with a clock and no fraction are told apart by their order (contract, section 8.4).
    let mut order = 0_u32;
    for row in &data.rows.rows {
        let entry = match &row.item {
            ItemRef::Key { host, key } => bench.index.by_key(host, key),
            ItemRef::Id(_) => None,
        };
        let entry =
            entry.filter(|entry| entry.item_type == ItemType::Trapper && entry.proxy.is_none());
        let stamp = match (row.clock, row.ns) {
            (Some(clock), Some(ns)) => Stamp { clock, ns },
            (Some(clock), None) => {
                let ns = order;
                order = order.wrapping_add(1) % 1_000_000_000;
                Stamp { clock, ns }
            }
            (None, _) => Stamp::at(bench.now),
        };
        let told = Told {
            value: row.value.as_deref(),
            not_supported: row.not_supported,
            log: row.log.as_deref(),
            replaced,
        };
        let reading =
            entry.and_then(|entry| Some((entry, reading(entry, stamp, &told, bench.now)?)));
        match reading {
            Some((entry, reading)) => {
                rows.push((Arc::clone(&entry.allowed), Row { id: None, reading }));
            }
            None => failed = failed.saturating_add(1),
        }
    }
    SenderUpload { rows, failed }
}

#[derive(Clone, Copy)]
pub(super) struct Stamp {
    pub(super) clock: i64,
    pub(super) ns: u32,
}

impl Stamp {
    pub(super) fn at(now: Timestamp) -> Self {
        let ns = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
        Self {
            clock: now.as_second(),
            ns,
        }
    }
}

pub(super) struct Told<'a> {
    pub(super) value: Option<&'a str>,
    pub(super) not_supported: bool,
    pub(super) log: Option<&'a LogMeta<'a>>,
    /// Something in the message became U+FFFD.
    pub(super) replaced: bool,
}

/// A clock may be so far ahead of ours; beyond, the time of arrival counts.
const AHEAD_SECS: i64 = 86_400;

/// What is stored of a row; `None` for rows that only move an item's next check.
pub(super) fn reading(
    entry: &ItemEntry,
    stamp: Stamp,
    told: &Told<'_>,
    now: Timestamp,
) -> Option<Reading> {
    let text = told.value?;
    let mut flags = Flags::default();
    if told.replaced && text.contains('\u{fffd}') {
        flags = flags.with(Flags::REPLACED);
    }
    let stamp = if stamp.clock > now.as_second().saturating_add(AHEAD_SECS) {
        flags = flags.with(Flags::RESTAMPED);
        Stamp::at(now)
    } else {
        stamp
    };
    let too_long = match entry.value_type {
        ValueType::String => {
            text.len() > STRING_CHARS_MAX && text.chars().count() > STRING_CHARS_MAX
        }
        ValueType::Log | ValueType::Text => text.len() > TEXT_BYTES_MAX,
        ValueType::Float | ValueType::Unsigned => false,
    };
    if too_long || (told.not_supported && text.len() > ERROR_BYTES_MAX) {
        flags = flags.with(Flags::CUT);
    }
    let content = if told.not_supported {
        Content::NotSupported(cut(text, ERROR_BYTES_MAX).to_owned())
    } else {
        match Value::parse(entry.value_type, text) {
            Ok(value) => Content::Value(with_log(value, told.log)),
            Err(_) => Content::NotSupported(unsuitable(entry.value_type, text)),
        }
    };
    Some(Reading {
        item: entry.number,
        clock: stamp.clock,
        ns: stamp.ns,
        content,
        flags,
    })
}

fn with_log(value: Value, meta: Option<&LogMeta<'_>>) -> Value {
    match (value, meta) {
        (Value::Log(line), Some(meta)) => Value::Log(LogLine {
            source: cut(meta.source.as_deref().unwrap_or_default(), LOG_SOURCE_MAX).to_owned(),
            timestamp: meta.timestamp.unwrap_or(0),
            severity: meta
                .severity
                .and_then(|n| i32::try_from(n).ok())
                .unwrap_or(0),
            event_id: meta.eventid.unwrap_or(0),
            ..line
        }),
        (value, _) => value,
    }
}

/// Bytes of a log value's source that are kept, as in the real schema.
const LOG_SOURCE_MAX: usize = 64;
/// Bytes of the reason why an item is not supported that are kept, as in the real schema.
const ERROR_BYTES_MAX: usize = 2048;

/// The words of a real server for a value its item cannot have.
fn unsuitable(value_type: ValueType, text: &str) -> String {
    let wanted = match value_type {
        ValueType::Float => "Numeric (float)",
        ValueType::Log => "Log",
        ValueType::String => "Character",
        ValueType::Text => "Text",
        ValueType::Unsigned => "Numeric (unsigned)",
    };
    let shown = cut(text, 128);
    format!(
        "Value of type \"string\" is not suitable for value type \"{wanted}\". Value \"{shown}\""
    )
}

fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}
