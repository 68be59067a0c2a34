//! Objects as the admin API shows them (surface, section 5).
//!
//! These are promises to scripts: members are added, never renamed. Domain types are translated
//! here and never serialised themselves.

use std::collections::BTreeMap;

use jiff::Timestamp;
use muster_core::agent::{Agent, Capability, Wire};
use muster_core::host::{Host, Source};
use muster_core::run::{End, Progress, Run, RunState};
use muster_core::sample::{Item, Sample, Value as SampleValue};
use muster_core::schedule::{Schedule, Start};
use muster_core::task::Task;
use muster_core::time::format_duration;
use muster_store::runs::RunEvent;
use serde::Serialize;
use serde_json::{Number, Value};
use utoipa::ToSchema;

/// A counterpart that does work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentView {
    /// Our id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Name, unique.
    pub name: String,
    /// Wire of the last contact.
    pub wire: String,
    /// Every wire it was heard on.
    pub wires: Vec<String>,
    /// Its program, as it said.
    pub software: String,
    /// The program's version, as it said.
    pub version: String,
    /// pending, approved or disabled.
    pub state: String,
    /// What it can do.
    pub capabilities: Vec<CapabilityView>,
    /// Where it last spoke from.
    pub address: Option<String>,
    /// First contact.
    #[schema(format = DateTime)]
    pub first_seen: String,
    /// Last contact.
    #[schema(format = DateTime)]
    pub last_seen: String,
    /// Neither overdue nor gone.
    pub online: bool,
    /// The host it runs on.
    #[schema(format = "uuid")]
    pub host: Option<String>,
}

/// A kind of work an agent can do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CapabilityView {
    /// The kind.
    pub kind: String,
    /// Version of its module.
    pub version: String,
    /// True when it never said so and is believed for the time being.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub assumed: bool,
}

/// An intent to have work done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskView {
    /// Our id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Kind of work.
    pub kind: String,
    /// Where it came from: cli, api, pscheduler, zabbix or up.
    pub origin: String,
    /// What is to be done; what is secret is left out.
    #[schema(value_type = Object)]
    pub spec: Value,
    /// What to do it to.
    pub targets: Vec<String>,
    /// Targets at once.
    pub workers: Option<u32>,
    /// When.
    pub schedule: ScheduleView,
    /// By whom; empty for any that can.
    pub agents: Vec<String>,
    /// active, ended or cancelled.
    pub state: String,
    /// When it was submitted.
    #[schema(format = DateTime)]
    pub created: String,
    /// How many runs it has had.
    pub runs: u64,
}

/// When a task wants its runs; members that were not given are left out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ScheduleView {
    /// First start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// How late a run may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slip: Option<String>,
    /// Again after this long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat: Option<String>,
    /// Again at each match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_cron: Option<String>,
    /// No run from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// No more runs than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_runs: Option<u32>,
}

/// One execution of a task.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunView {
    /// Our id.
    #[schema(format = "uuid")]
    pub id: String,
    /// The task it executes.
    #[schema(format = "uuid")]
    pub task: String,
    /// Kind of work.
    pub kind: String,
    /// proposed, planned, offered, running, collecting, overdue or ended.
    pub state: String,
    /// succeeded, failed, refused, missed, expired, preempted or cancelled; null while it has not ended.
    pub end: Option<String>,
    /// In a sentence, where there is more to say.
    pub reason: Option<String>,
    /// Who does it.
    pub agents: Vec<AgentRef>,
    /// Planned start until it begins, then the actual one.
    #[schema(format = DateTime)]
    pub start: String,
    /// Planned end until it is over, then the actual one.
    #[schema(format = DateTime)]
    pub finish: String,
    /// Planned start.
    #[schema(format = DateTime)]
    pub planned_start: String,
    /// The last the agent said of how far it is.
    pub progress: Option<ProgressView>,
    /// What came out.
    #[schema(value_type = Option<Object>)]
    pub result: Option<Value>,
}

/// One run with all its moves and the hosts that its result is about.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunDetail {
    /// The run.
    #[serde(flatten)]
    pub run: RunView,
    /// Every move, oldest first; those that were refused or dropped too.
    pub events: Vec<EventView>,
    /// The hosts that its result is about.
    pub hosts: Vec<HostRef>,
}

/// One move of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventView {
    /// When.
    #[schema(format = DateTime)]
    pub at: String,
    /// The verb: offer, begin, close, ...
    pub verb: String,
    /// False for what was refused or dropped.
    pub ok: bool,
    /// In a sentence.
    pub detail: String,
}

/// A host by id and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(super) struct HostRef {
    /// Its name.
    pub name: String,
    /// Its id.
    #[schema(format = "uuid")]
    pub id: String,
}

/// An agent by id and name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct AgentRef {
    /// Its id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Its name.
    pub name: String,
}

/// How far a run is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProgressView {
    /// 0 to 100.
    pub percent: Option<f64>,
    /// Time left, as the agent estimates it; ISO 8601.
    pub eta: Option<String>,
}

/// A machine.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HostView {
    /// Our id.
    #[schema(format = "uuid")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Chassis serial number.
    pub serial: Option<String>,
    /// System UUID.
    pub uuid: Option<String>,
    /// MAC addresses.
    pub macs: Vec<String>,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Operating system.
    pub os: OsView,
    /// computer, networking, printer, storage, power, phone, video or kvm.
    #[serde(rename = "type")]
    pub device_type: Option<String>,
    /// Who told what, last.
    pub sources: Vec<SourceView>,
    /// How it is monitored, if it is declared.
    pub monitoring: Option<MonitoringView>,
    /// Its inventory; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub inventory: Option<Value>,
}

/// An operating system.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OsView {
    /// Its name.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
}

/// Who told what about a host.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SourceView {
    /// Over which wire; null for what a person declared.
    pub wire: Option<String>,
    /// Which agent; null for what a person declared.
    #[schema(format = "uuid")]
    pub agent: Option<String>,
    /// inventory, discovery, netinventory, monitoring, measurement or provisioning.
    pub what: String,
    /// When.
    #[schema(format = DateTime)]
    pub at: String,
}

/// How a declared host is monitored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MonitoringView {
    /// The proxy that monitors it; null for this server.
    #[schema(format = "uuid")]
    pub proxy: Option<String>,
    /// Where its Zabbix agent listens.
    pub address: String,
    /// The port there.
    pub port: u16,
    /// The number peers know it by.
    pub number: u64,
}

/// Something sampled on a host.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemView {
    /// Our id.
    #[schema(format = "uuid")]
    pub id: String,
    /// The host it is about.
    #[schema(format = "uuid")]
    pub host: String,
    /// The name of that host.
    pub host_name: String,
    /// For people.
    pub name: String,
    /// What is sampled.
    pub key: String,
    /// How: agent, agent_active, trapper, simple, snmp, http, dependent, internal, external or script.
    #[serde(rename = "type")]
    pub item_type: String,
    /// float, unsigned, string, log or text.
    pub value_type: String,
    /// Unit of the values.
    pub unit: String,
    /// How often; ISO 8601; null for items that are sent unasked.
    pub delay: Option<String>,
    /// The newest value.
    pub last: Option<SampleView>,
    /// normal or not_supported.
    pub state: String,
    /// Why it is not supported.
    pub error: Option<String>,
    /// The number peers know it by.
    pub number: u64,
}

/// A value at a time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SampleView {
    /// When.
    #[schema(format = DateTime)]
    pub time: String,
    /// A number for float and unsigned, else a string.
    #[schema(value_type = Value)]
    pub value: Value,
}

/// A kind of work.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KindView {
    /// Its name.
    pub kind: String,
    /// One line for people.
    pub title: String,
    /// What a policy must allow: observe, scan, measure, command, deploy, image or destroy; null for
    /// what this build does not know.
    pub class: Option<String>,
    /// How its runs share their agents.
    pub scheduling: String,
    /// The approved agents that can do it.
    pub agents: Vec<AgentRef>,
}

/// An enrolment key. The key itself is shown once, when it is made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EnrolKeyView {
    /// Our id.
    #[schema(format = "uuid")]
    pub id: String,
    /// The key; only where it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What it is for.
    pub label: String,
    /// Whether it enrols one agent only.
    pub once: bool,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created: String,
    /// When it stops enrolling.
    pub expires: Option<String>,
    /// How many agents it has enrolled.
    pub used: i64,
}

/// Why something happened, or did not.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExplanationView {
    /// What is explained.
    pub subject: SubjectView,
    /// The chain, in order.
    pub steps: Vec<StepView>,
    /// The answer in a sentence.
    pub verdict: String,
    /// What to do next; null when there is nothing to do.
    pub next: Option<String>,
}

/// What is explained.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubjectView {
    /// agent, task, run, host or item.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// One check of an explanation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StepView {
    /// When it was decided.
    pub at: Option<String>,
    /// What was looked at.
    pub check: String,
    /// Whether it held; null where it was not looked at.
    pub ok: Option<bool>,
    /// In a sentence.
    pub detail: String,
}

/// What the server is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusView {
    /// Version of the server.
    pub version: String,
    /// When this process began.
    #[schema(format = DateTime)]
    pub started: String,
    /// Agents by state, and how many are online.
    pub agents: BTreeMap<String, u64>,
    /// Tasks that are active.
    pub tasks: BTreeMap<String, u64>,
    /// Runs that have not ended, by state.
    pub runs: BTreeMap<String, u64>,
    /// Hosts.
    pub hosts: BTreeMap<String, u64>,
    /// Items.
    pub items: BTreeMap<String, u64>,
    /// The last activation of each reconciler.
    pub reconcilers: Vec<ReconcilerView>,
    /// The latest refusals of peers.
    pub refusals: Vec<RefusalView>,
}

/// The last activation of a reconciler.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReconcilerView {
    /// Its name.
    pub name: String,
    /// When it last began.
    pub at: Option<String>,
    /// How long that took, in milliseconds.
    pub duration_ms: f64,
    /// How many things it moved.
    pub moved: u64,
    /// How often it has run.
    pub times: u64,
    /// Why the last activation failed, if it did.
    pub error: Option<String>,
}

/// What a peer was refused, counted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RefusalView {
    /// The wire.
    pub wire: String,
    /// Where it came from.
    pub address: String,
    /// The stable word of the reason.
    pub reason: String,
    /// The name it used.
    pub peer: String,
    /// In a sentence.
    pub detail: String,
    /// How often.
    pub times: u64,
    /// Last time.
    #[schema(format = DateTime)]
    pub last: String,
}

/// An agent.
pub(super) fn agent(agent: &Agent, online: bool) -> AgentView {
    AgentView {
        id: agent.id.to_string(),
        name: agent.name.clone(),
        wire: agent.wire.word().to_owned(),
        wires: agent
            .wires
            .iter()
            .map(|wire| wire.word().to_owned())
            .collect(),
        software: agent.software.clone(),
        version: agent.version.clone(),
        state: agent.state.word().to_owned(),
        capabilities: agent.capabilities.iter().map(capability).collect(),
        address: agent.address.map(|address| address.to_string()),
        first_seen: time(agent.first_seen),
        last_seen: time(agent.last_seen),
        online,
        host: agent.host.map(|host| host.to_string()),
    }
}

fn capability(capability: &Capability) -> CapabilityView {
    CapabilityView {
        kind: capability.kind.to_string(),
        version: capability.version.clone(),
        assumed: capability.assumed,
    }
}

/// A task; its spec must be the one that may be shown.
pub(super) fn task(task: &Task, runs: u64) -> TaskView {
    TaskView {
        id: task.id.to_string(),
        kind: task.kind.to_string(),
        origin: task.origin.word().to_owned(),
        spec: shown(task.spec.expose()),
        targets: task.targets.clone(),
        workers: task.workers.map(std::num::NonZeroU32::get),
        schedule: schedule(&task.schedule),
        agents: task
            .assignee
            .agents()
            .iter()
            .map(ToString::to_string)
            .collect(),
        state: task.state.word().to_owned(),
        created: time(task.created),
        runs,
    }
}

/// A spec without what is secret, whoever stored it.
fn shown(json: &str) -> Value {
    let mut value = document(json).unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    if let Value::Object(members) = &mut value {
        members.retain(|name, _| !name.starts_with('_'));
    }
    value
}

fn schedule(schedule: &Schedule) -> ScheduleView {
    ScheduleView {
        start: match schedule.start {
            Start::At(at) => Some(time(at)),
            Start::Soonest => None,
        },
        slip: schedule.slip.map(format_duration),
        repeat: schedule.repeat.map(format_duration),
        repeat_cron: schedule.cron.as_ref().map(|cron| cron.as_str().to_owned()),
        until: schedule.until.map(time),
        max_runs: schedule.max_runs,
    }
}

/// A run, with its kind, the agents that do it, and its result as JSON text.
pub(super) fn run(run: &Run, kind: &str, agents: Vec<AgentRef>, result: Option<&str>) -> RunView {
    let (end, reason) = match &run.state {
        RunState::Ended(End { kind, reason, .. }) => (Some(kind.word().to_owned()), reason.clone()),
        RunState::Proposed
        | RunState::Planned
        | RunState::Offered { .. }
        | RunState::Running { .. }
        | RunState::Collecting { .. }
        | RunState::Overdue { .. } => (None, None),
    };
    let progress = match &run.state {
        RunState::Running {
            progress: Some(Progress { percent, eta }),
            ..
        } => Some(ProgressView {
            percent: *percent,
            eta: eta.map(format_duration),
        }),
        RunState::Proposed
        | RunState::Planned
        | RunState::Offered { .. }
        | RunState::Running { progress: None, .. }
        | RunState::Collecting { .. }
        | RunState::Overdue { .. }
        | RunState::Ended(_) => None,
    };
    RunView {
        id: run.id.to_string(),
        task: run.task.to_string(),
        kind: kind.to_owned(),
        state: run.state.word().to_owned(),
        end,
        reason,
        agents,
        start: time(run.start()),
        finish: time(run.finish()),
        planned_start: time(run.window.start),
        progress,
        result: result.and_then(document),
    }
}

/// A run with its moves and hosts.
pub(super) fn run_detail(run: RunView, events: &[RunEvent], hosts: Vec<HostRef>) -> RunDetail {
    let events = events.iter().map(|event| EventView {
        at: time(event.at),
        verb: event.verb.clone(),
        ok: event.ok,
        detail: event.detail.clone(),
    });
    RunDetail {
        run,
        events: events.collect(),
        hosts,
    }
}

/// A host; its inventory as JSON text, where it is to be shown.
pub(super) fn host(host: &Host, inventory: Option<Option<&str>>) -> HostView {
    let facts = &host.facts;
    HostView {
        id: host.id.to_string(),
        name: facts.name.clone().unwrap_or_default(),
        serial: facts.serial.clone(),
        uuid: facts.uuid.clone(),
        macs: facts.macs.iter().cloned().collect(),
        addresses: facts.addresses.iter().map(ToString::to_string).collect(),
        os: OsView {
            name: facts.os_name.clone(),
            version: facts.os_version.clone(),
        },
        device_type: facts.device_type.clone(),
        sources: host.sources.iter().map(source).collect(),
        monitoring: host.monitoring.as_ref().map(|monitoring| MonitoringView {
            proxy: monitoring.proxy.map(|proxy| proxy.to_string()),
            address: monitoring.address.clone(),
            port: monitoring.port,
            number: monitoring.number,
        }),
        inventory: inventory.map(|text| text.and_then(document).unwrap_or(Value::Null)),
    }
}

fn source(source: &Source) -> SourceView {
    SourceView {
        wire: source.wire.map(Wire::word).map(str::to_owned),
        agent: source.agent.map(|agent| agent.to_string()),
        what: source.what.word().to_owned(),
        at: time(source.at),
    }
}

/// An item with its newest value and whether it is supported.
pub(super) fn item(
    item: &Item,
    host_name: &str,
    last: Option<&Sample>,
    error: Option<&str>,
) -> ItemView {
    ItemView {
        id: item.id.to_string(),
        host: item.host.to_string(),
        host_name: host_name.to_owned(),
        name: item.name.clone(),
        key: item.key.clone(),
        item_type: item.item_type.word().to_owned(),
        value_type: item.value_type.word().to_owned(),
        unit: item.unit.clone(),
        delay: item.delay.map(format_duration),
        last: last.map(sample),
        state: if error.is_some() {
            "not_supported"
        } else {
            "normal"
        }
        .to_owned(),
        error: error.map(str::to_owned),
        number: item.number,
    }
}

/// A sample.
pub(super) fn sample(sample: &Sample) -> SampleView {
    let at = i32::try_from(sample.ns)
        .ok()
        .and_then(|ns| Timestamp::new(sample.clock, ns).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH);
    SampleView {
        time: time(at),
        value: match &sample.value {
            SampleValue::Float(number) => {
                Number::from_f64(*number).map_or(Value::Null, Value::Number)
            }
            SampleValue::Log(line) => Value::String(line.text.clone()),
            SampleValue::Text(text) => Value::String(text.clone()),
            SampleValue::Unsigned(number) => Value::Number((*number).into()),
        },
    }
}

/// RFC 3339 in UTC.
pub(super) fn time(time: Timestamp) -> String {
    time.to_string()
}

/// JSON text of the database as a document; what is none is shown as the text it is.
fn document(text: &str) -> Option<Value> {
    if text.is_empty() {
        return None;
    }
    Some(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())))
}
