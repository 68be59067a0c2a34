//! P1, the published task scheduling protocol: what an agent asks and what it is told.
//!
//! FusionInventory contract, section 1. Written as strict JSON; read leniently where older pages
//! disagree (booleans as strings, numbers as versions). One bad job or target does not spoil its
//! siblings: it is kept as an error to be reported for that job or target (1.3, rules 6 and 7).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::json::{self, Fields, JsonError};
use super::snmp::{Credential, DeviceType, Network};
use super::wire::{BadName, Limits, PeerName, short};

/// `GET {base}/api/tasks`: an agent advertises itself and what it can do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TasksQuery {
    /// The agent's name for itself.
    pub agent: PeerName,
    /// Version per module, names in lower case.
    pub modules: BTreeMap<String, String>,
    /// The name people know it by: `name`, sent by Muster's agents, whose id is a UUID.
    pub name: Option<String>,
}

/// Why a query is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QueryError {
    /// No agent id, or one outside the grammar.
    #[error("agentid is missing or {0}")]
    AgentId(BadName),
    /// Too long or too many modules.
    #[error("more than {limit} {what}")]
    TooMuch {
        /// What there was too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl TasksQuery {
    /// Reads the query part of a target, raw or percent-encoded, in any order; the last of several
    /// equal keys counts.
    ///
    /// # Errors
    /// [`QueryError`].
    pub fn parse(query: &str, limits: &Limits) -> Result<Self, QueryError> {
        if query.len() > limits.query_bytes {
            return Err(QueryError::TooMuch {
                what: "bytes of query",
                limit: limits.query_bytes,
            });
        }
        let (mut agent, mut label) = (Err(BadName), None);
        let mut modules = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if key == "agentid" {
                agent = PeerName::parse(&value);
            } else if key == "name" {
                label = PeerName::parse(&value)
                    .ok()
                    .map(|name| short(name.as_str()));
            } else if let Some(name) = module_name(&key) {
                modules.insert(name, short(&value));
                if modules.len() > limits.modules {
                    return Err(QueryError::TooMuch {
                        what: "modules",
                        limit: limits.modules,
                    });
                }
            }
        }
        Ok(Self {
            agent: agent.map_err(QueryError::AgentId)?,
            modules,
            name: label,
        })
    }

    /// The query as an agent sends it: keys in the quoted form, percent-encoded.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("agentid", self.agent.as_str());
        if let Some(name) = &self.name {
            query.append_pair("name", name);
        }
        for (name, version) in &self.modules {
            query.append_pair(&format!("module['{name}']"), version);
        }
        query.finish()
    }
}

/// The name in `module['x']`, `module["x"]` or `module[x]`, in lower case.
fn module_name(key: &str) -> Option<String> {
    let inner = key.strip_prefix("module[")?.strip_suffix(']')?;
    let inner = ['\'', '"']
        .iter()
        .find_map(|quote| inner.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(inner);
    let name = inner.to_ascii_lowercase();
    let good = !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    good.then_some(name)
}

/// The answer: tasks in order, and when to ask again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TaskList {
    /// Tasks, to be done one after another.
    pub tasks: Vec<Task>,
    /// Unix time in seconds of the agent's next request.
    pub next_contact: i64,
}

/// Jobs, to be done one after another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Task {
    /// The server's name for it.
    pub id: String,
    /// Jobs in order.
    pub jobs: Vec<Job>,
}

/// One job.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// Comes back with the results.
    pub id: String,
    /// How many targets at once; absent, one after another.
    pub workers: Option<u32>,
    /// What to do.
    pub work: Work,
}

/// A target that could be read, or why not.
pub type Readable<T> = Result<T, JsonError>;

/// What a job is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Work {
    /// The agent's own inventory.
    Inventory(InventoryOptions),
    /// Look for devices.
    NetDiscovery(Vec<Readable<DiscoveryTarget>>),
    /// Read known devices.
    NetInventory(Vec<Readable<DeviceTarget>>),
    /// Any further kind the agent advertised: `spec` and `targets` as JSON texts.
    Other {
        /// The type, in lower case.
        kind: String,
        /// The `spec` member, an object.
        spec: Option<String>,
        /// The items of `targets`.
        targets: Vec<String>,
    },
    /// A job whose own fields make no sense; reported as failed.
    Unusable {
        /// The type, in lower case.
        kind: String,
        /// What is wrong.
        error: JsonError,
    },
    /// Wake machines.
    WakeOnLan(Vec<Readable<WakeTarget>>),
}

impl Work {
    /// The `type` of the job.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Inventory(_) => "inventory",
            Self::NetDiscovery(_) => "netdiscovery",
            Self::NetInventory(_) => "netinventory",
            Self::Other { kind, .. } | Self::Unusable { kind, .. } => kind,
            Self::WakeOnLan(_) => "wakeonlan",
        }
    }
}

/// Options of an inventory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InventoryOptions {
    /// Look into home directories.
    pub scan_homedirs: bool,
    /// Look into user profiles.
    pub scan_profiles: bool,
    /// Seconds per inventory module.
    pub timeout: Option<u32>,
    /// Categories left out (section 8.1).
    pub no_category: Vec<String>,
    /// A file whose content is added.
    pub additional_content: Option<String>,
}

/// A block of addresses to look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiscoveryTarget {
    /// The block.
    pub network: Network,
    /// How many addresses at once; absent, one after another.
    pub workers: Option<u32>,
    /// Seconds to wait for an answer.
    pub timeout: Option<u32>,
    /// Tried in order until one answers.
    pub credentials: Vec<Credential>,
}

/// A device to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceTarget {
    /// Address or name.
    pub host: String,
    /// What it is, where known.
    pub kind: Option<DeviceType>,
    /// The one credential.
    pub credential: Option<Credential>,
}

/// A machine to wake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WakeTarget {
    /// MAC address.
    pub address: String,
    /// By an Ethernet frame.
    pub ethernet: bool,
    /// By a broadcast datagram.
    pub udp: bool,
}

impl TaskList {
    /// The strict JSON of the answer.
    #[must_use]
    pub fn to_json(&self) -> String {
        let tasks: Vec<Value> = self
            .tasks
            .iter()
            .map(|task| {
                let jobs: Vec<Value> = task.jobs.iter().map(Job::to_json).collect();
                json!({"id": task.id, "jobs": jobs})
            })
            .collect();
        json!({"tasks": tasks, "nextContactTime": self.next_contact}).to_string()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`JsonError`] when the document as a whole is no plan: no JSON, no `tasks`, no
    /// `nextContactTime`, a task or job without an id. The agent then keeps the plan it has (1.5).
    pub fn parse(body: &[u8], limits: &Limits) -> Result<Self, JsonError> {
        let document = Fields::of(json::check(body, limits)?, "")?;
        let next_contact = document
            .integer("nextContactTime")?
            .ok_or_else(|| document.wrong("nextContactTime", "an integer"))?;
        let mut tasks = Vec::new();
        let listed = document.items("tasks", |index, item, path| {
            within(index, limits)?;
            let task = Fields::of(item, path)?;
            let mut jobs = Vec::new();
            let listed = task.items("jobs", |index, item, path| {
                within(index, limits)?;
                jobs.push(Job::parse(&Fields::of(item, path)?, limits)?);
                Ok(())
            })?;
            if !listed {
                return Err(task.wrong("jobs", "an array"));
            }
            tasks.push(Task {
                id: task.required_text("id")?,
                jobs,
            });
            Ok(())
        })?;
        match listed {
            true => Ok(Self {
                tasks,
                next_contact,
            }),
            false => Err(document.wrong("tasks", "an array")),
        }
    }
}

fn within(index: usize, limits: &Limits) -> Result<(), JsonError> {
    match index < limits.list_items {
        true => Ok(()),
        false => Err(JsonError::TooMuch {
            what: "items of a list",
            limit: limits.list_items,
        }),
    }
}

impl Job {
    fn to_json(&self) -> Value {
        let mut out = Map::new();
        out.insert("id".to_owned(), self.id.clone().into());
        out.insert("type".to_owned(), self.work.kind().into());
        if let Some(workers) = self.workers {
            out.insert("workers".to_owned(), workers.into());
        }
        let targets: Vec<Value> = match &self.work {
            Work::Inventory(options) => {
                options.put_json(&mut out);
                return out.into();
            }
            Work::Unusable { .. } => return out.into(),
            Work::NetDiscovery(targets) => targets
                .iter()
                .flatten()
                .map(DiscoveryTarget::to_json)
                .collect(),
            Work::NetInventory(targets) => targets
                .iter()
                .flatten()
                .map(DeviceTarget::to_json)
                .collect(),
            Work::WakeOnLan(targets) => targets
                .iter()
                .flatten()
                .map(|t| json!({"address": t.address, "ethernet": t.ethernet, "udp": t.udp}))
                .collect(),
            Work::Other { spec, targets, .. } => {
                if let Some(spec) = spec.as_deref().and_then(|s| serde_json::from_str(s).ok()) {
                    out.insert("spec".to_owned(), spec);
                }
                if targets.is_empty() {
                    return out.into();
                }
                targets
                    .iter()
                    .filter_map(|t| serde_json::from_str(t).ok())
                    .collect()
            }
        };
        out.insert("targets".to_owned(), targets.into());
        out.into()
    }

    fn parse(fields: &Fields<'_>, limits: &Limits) -> Result<Self, JsonError> {
        let id = fields.required_text("id")?;
        let kind = fields.required_text("type")?.trim().to_ascii_lowercase();
        let (workers, work) = match Self::parse_work(&kind, fields, limits) {
            Ok(read) => read,
            Err(error) => (None, Work::Unusable { kind, error }),
        };
        Ok(Self { id, workers, work })
    }

    fn parse_work(
        kind: &str,
        fields: &Fields<'_>,
        limits: &Limits,
    ) -> Result<(Option<u32>, Work), JsonError> {
        let workers = workers(fields, limits)?;
        let work = match kind {
            "inventory" => Work::Inventory(InventoryOptions::parse(fields)?),
            "netdiscovery" => Work::NetDiscovery(targets(fields, limits, |target| {
                DiscoveryTarget::parse(target, limits)
            })?),
            "netinventory" => Work::NetInventory(targets(fields, limits, DeviceTarget::parse)?),
            "wakeonlan" => Work::WakeOnLan(targets(fields, limits, |target| {
                Ok(WakeTarget {
                    address: target.required_text("address")?,
                    ethernet: target.boolean("ethernet")?.unwrap_or(false),
                    udp: target.boolean("udp")?.unwrap_or(false),
                })
            })?),
            other => {
                let mut targets = Vec::new();
                fields.items("targets", |index, item, _| {
                    within(index, limits)?;
                    targets.push(item.to_owned());
                    Ok(())
                })?;
                fields.object("spec")?;
                Work::Other {
                    kind: other.to_owned(),
                    spec: fields.raw("spec").map(str::to_owned),
                    targets,
                }
            }
        };
        Ok((workers, work))
    }
}

/// `workers`: below one is one, above the limit is the limit.
fn workers(fields: &Fields<'_>, limits: &Limits) -> Result<Option<u32>, JsonError> {
    let workers = fields.integer("workers")?;
    Ok(workers.map(|n| {
        u32::try_from(n.max(1))
            .unwrap_or(u32::MAX)
            .min(limits.workers)
    }))
}

fn targets<T>(
    fields: &Fields<'_>,
    limits: &Limits,
    parse: impl Fn(&Fields<'_>) -> Result<T, JsonError>,
) -> Result<Vec<Readable<T>>, JsonError> {
    let mut targets = Vec::new();
    let listed = fields.items("targets", |index, item, path| {
        within(index, limits)?;
        targets.push(Fields::of(item, path).and_then(|target| parse(&target)));
        Ok(())
    })?;
    match listed {
        true => Ok(targets),
        false => Err(fields.wrong("targets", "an array")),
    }
}

fn seconds(fields: &Fields<'_>) -> Result<Option<u32>, JsonError> {
    Ok(fields
        .integer("timeout")?
        .and_then(|t| u32::try_from(t).ok())
        .filter(|t| *t > 0))
}

impl InventoryOptions {
    fn parse(fields: &Fields<'_>) -> Result<Self, JsonError> {
        Ok(Self {
            scan_homedirs: fields.boolean("scan-homedirs")?.unwrap_or(false),
            scan_profiles: fields.boolean("scan-profiles")?.unwrap_or(false),
            timeout: seconds(fields)?,
            no_category: fields.words("no-category")?,
            additional_content: fields.text("additional-content")?,
        })
    }

    fn put_json(&self, out: &mut Map<String, Value>) {
        let mut put = |key: &str, value: Value| {
            out.insert(key.to_owned(), value);
        };
        if self.scan_homedirs {
            put("scan-homedirs", true.into());
        }
        if self.scan_profiles {
            put("scan-profiles", true.into());
        }
        if let Some(timeout) = self.timeout {
            put("timeout", timeout.into());
        }
        if !self.no_category.is_empty() {
            put("no-category", self.no_category.clone().into());
        }
        if let Some(content) = &self.additional_content {
            put("additional-content", content.clone().into());
        }
    }
}

impl DiscoveryTarget {
    fn parse(fields: &Fields<'_>, limits: &Limits) -> Result<Self, JsonError> {
        let network = Network::parse(&fields.required_text("network")?)
            .map_err(|_| fields.wrong("network", "a.b.c.d/n, first-last or an address"))?;
        let mut credentials = Vec::new();
        let is_one = fields
            .raw("credentials")
            .is_some_and(|raw| raw.starts_with('{'));
        if is_one {
            // One object where a list belongs: what it means is plain.
            if let Some(one) = fields.object("credentials")? {
                credentials.push(Credential::from_json(&one)?);
            }
        } else {
            fields.items("credentials", |index, item, path| {
                within(index, limits)?;
                credentials.push(Credential::from_json(&Fields::of(item, path)?)?);
                Ok(())
            })?;
        }
        Ok(Self {
            network,
            workers: workers(fields, limits)?,
            timeout: seconds(fields)?,
            credentials,
        })
    }

    /// The target as the list writes it, credentials included.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        out.insert("network".to_owned(), self.network.as_str().into());
        if let Some(workers) = self.workers {
            out.insert("workers".to_owned(), workers.into());
        }
        if let Some(timeout) = self.timeout {
            out.insert("timeout".to_owned(), timeout.into());
        }
        let credentials: Vec<Value> = self.credentials.iter().map(Credential::to_json).collect();
        out.insert("credentials".to_owned(), credentials.into());
        out.into()
    }
}

impl DeviceTarget {
    fn parse(fields: &Fields<'_>) -> Result<Self, JsonError> {
        let host = fields.required_text("host")?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.starts_with('-') || host.len() > 253 || !host.chars().all(good) {
            return Err(fields.wrong("host", "an address or name"));
        }
        let kind = match fields.text("type")? {
            None => None,
            Some(word) => Some(
                DeviceType::parse(&word).ok_or_else(|| fields.wrong("type", "a device type"))?,
            ),
        };
        let credential = fields.object("credentials")?;
        let credential = credential.as_ref().map(Credential::from_json).transpose()?;
        Ok(Self {
            host,
            kind,
            credential,
        })
    }

    /// The target as the list writes it, credential included.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        out.insert("host".to_owned(), self.host.clone().into());
        if let Some(kind) = self.kind {
            out.insert("type".to_owned(), kind.as_lower().into());
        }
        if let Some(credential) = &self.credential {
            out.insert("credentials".to_owned(), credential.to_json());
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<TasksQuery, QueryError> {
        TasksQuery::parse(query, &Limits::default())
    }

    #[test]
    fn every_spelling_of_the_module_key() {
        let want = BTreeMap::from([
            ("inventory".to_owned(), "2.4.0".to_owned()),
            ("netinventory".to_owned(), "2 5".to_owned()),
        ]);
        for query in [
            "agentid=xyz&module['inventory']=2.4.0&module['netinventory']=2+5",
            "module[\"inventory\"]=2.4.0&module[\"netinventory\"]=2%205&agentid=xyz",
            "agentid=xyz&module[inventory]=2.4.0&module[NetInventory]=2+5",
            "agentid=xyz&module%5B%27inventory%27%5D=2.4.0&module%5b%27netinventory%27%5d=2+5",
            "agentid=xyz&module%5B%22INVENTORY%22%5D=2.4.0&module%5Bnetinventory%5D=2+5",
            "agentid=abc&agentid=xyz&module[inventory]=1&module['inventory']=2.4.0&module[netinventory]=2+5",
        ] {
            let got = parse(query).unwrap();
            assert_eq!(got.agent.as_str(), "xyz", "{query}");
            assert_eq!(got.modules, want, "{query}");
        }
        let sent = TasksQuery {
            agent: PeerName::parse("xyz").unwrap(),
            modules: want,
            name: Some("lab 7".to_owned()),
        };
        assert!(
            sent.to_query()
                .contains("module%5B%27inventory%27%5D=2.4.0")
        );
        assert_eq!(parse(&sent.to_query()).unwrap(), sent);
    }

    #[test]
    fn queries_that_are_refused() {
        for bad in [
            "",
            "agentid=",
            "agentid=a%2Fb",
            "agentid=%3Cb%3E",
            "agentid=%00",
            "AGENTID=x",
        ] {
            assert!(matches!(parse(bad), Err(QueryError::AgentId(_))), "{bad}");
        }
        let many: String = (0..65).map(|n| format!("&module[m{n}]=1")).collect();
        assert!(matches!(
            parse(&format!("agentid=x{many}")),
            Err(QueryError::TooMuch { .. })
        ));
        let long = format!("agentid=x&a={}", "y".repeat(70_000));
        assert!(matches!(parse(&long), Err(QueryError::TooMuch { .. })));
        let odd = parse("agentid=x&module[]=1&module['a]=2&module=3&module[a/b]=4").unwrap();
        assert!(odd.modules.is_empty(), "{:?}", odd.modules);
    }

    fn list(text: &str) -> Result<TaskList, JsonError> {
        TaskList::parse(text.as_bytes(), &Limits::default())
    }

    fn job(text: &str) -> Job {
        let text =
            format!(r#"{{"tasks":[{{"id":"t","jobs":[{text}]}}],"nextContactTime":1424763734}}"#);
        list(&text).unwrap().tasks.remove(0).jobs.remove(0)
    }

    #[test]
    fn workers_are_at_least_one() {
        for (text, want) in [
            ("0", 1),
            ("-3", 1),
            ("1", 1),
            ("\"10\"", 10),
            ("7.0", 7),
            ("99999999999", 1024),
        ] {
            let job = job(&format!(
                r#"{{"id":"j","type":"netdiscovery","workers":{text},
                    "targets":[{{"network":"10.0.0.1","workers":{text}}}]}}"#
            ));
            assert_eq!(job.workers, Some(want), "{text}");
            let Work::NetDiscovery(targets) = job.work else {
                panic!("{text}")
            };
            assert_eq!(targets[0].as_ref().unwrap().workers, Some(want), "{text}");
        }
        assert_eq!(
            job(r#"{"id":"j","type":"netdiscovery","targets":[]}"#).workers,
            None
        );
    }

    #[test]
    fn a_bad_target_or_job_does_not_spoil_its_siblings() {
        let discovery = job(r#"{"id":"j","type":"netdiscovery","targets":[
                {"network":"nonsense"},{"network":"10.0.0.0/30"},
                {"network":"10.0.0.1","credentials":[{"version":"9"}]}, 7]}"#);
        let Work::NetDiscovery(targets) = discovery.work else {
            panic!()
        };
        let good: Vec<bool> = targets.iter().map(Result::is_ok).collect();
        assert_eq!(good, [false, true, false, false]);
        let error = targets[2].as_ref().unwrap_err().to_string();
        assert!(
            error.starts_with("tasks[0].jobs[0].targets[2].credentials[0].version"),
            "{error}"
        );

        let unusable = job(r#"{"id":"j","type":"netdiscovery"}"#);
        assert!(matches!(unusable.work, Work::Unusable { .. }));
        assert_eq!(unusable.work.kind(), "netdiscovery");
        let unknown = job(r#"{"id":"j","type":"Brew","spec":{"cups":2},"targets":[1,"a"]}"#);
        assert_eq!(
            unknown.work,
            Work::Other {
                kind: "brew".to_owned(),
                spec: Some(r#"{"cups":2}"#.to_owned()),
                targets: vec!["1".to_owned(), "\"a\"".to_owned()],
            }
        );
    }

    #[test]
    fn booleans_of_older_pages() {
        let inventory = job(
            r#"{"id":"j","type":"inventory","scan-homedirs":"true","scan-profiles":"false",
                "timeout":30,"no-category":"printer, process","additional-content":"/x.xml"}"#,
        );
        assert_eq!(
            inventory.work,
            Work::Inventory(InventoryOptions {
                scan_homedirs: true,
                scan_profiles: false,
                timeout: Some(30),
                no_category: vec!["printer".to_owned(), "process".to_owned()],
                additional_content: Some("/x.xml".to_owned()),
            })
        );
        let wake = job(r#"{"id":"j","type":"wakeonlan","targets":[
                {"address":"02:aa:00:00:00:01","ethernet":"true","udp":false}]}"#);
        let Work::WakeOnLan(targets) = wake.work else {
            panic!()
        };
        let target = targets[0].as_ref().unwrap();
        assert!(target.ethernet && !target.udp);
    }

    #[test]
    fn documents_that_are_no_plan() {
        for (text, what) in [
            ("", "not JSON"),
            ("{'tasks': []}", "not JSON"),
            ("[]", "document: an object wanted"),
            (r#"{"tasks":[]}"#, "nextContactTime"),
            (r#"{"tasks":[],"nextContactTime":null}"#, "nextContactTime"),
            (
                r#"{"tasks":[],"nextContactTime":"soon"}"#,
                "nextContactTime",
            ),
            (r#"{"nextContactTime":1}"#, "tasks: an array wanted"),
            (
                r#"{"tasks":{},"nextContactTime":1}"#,
                "tasks: an array wanted",
            ),
            (
                r#"{"tasks":[{"id":"a"}],"nextContactTime":1}"#,
                "tasks[0].jobs",
            ),
            (
                r#"{"tasks":[{"jobs":[]}],"nextContactTime":1}"#,
                "tasks[0].id",
            ),
            (
                r#"{"tasks":[{"id":"a","jobs":[{"type":"x"}]}],"nextContactTime":1}"#,
                "tasks[0].jobs[0].id",
            ),
            (
                r#"{"tasks":[{"id":"a","jobs":[{"id":"x"}]}],"nextContactTime":1}"#,
                "tasks[0].jobs[0].type",
            ),
        ] {
            let error = list(text).unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
        assert_eq!(
            list(r#"{"tasks":[],"nextContactTime":5}"#)
                .unwrap()
                .next_contact,
            5
        );
    }
}
