//! The commands of teeth: names in every spelling, parameters, reports of tasks.
//!
//! Names and required parameters are those of the contract, sections 5-7 and 9. Parsing happens once
//! here, into types that cannot be wrong; a missing or senseless parameter is a [`BadParams`] with
//! the text the original peers use. What a command does is not known here.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::json::Json;
use super::wire::{Command, Limits};

/// A known command with parameters that do not do. Not fatal: it becomes an error response (the
/// endpoint's handshake excepted).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParams {
    /// `image_ids` of `cache_images` is no list.
    #[error("\"image_ids\" must be a list")]
    ImageIdsNotList,
    /// Any other parameter that is out of its range or of the wrong kind.
    #[error("\"{name}\" must be {want}")]
    Invalid {
        /// The parameter.
        name: &'static str,
        /// What would do.
        want: &'static str,
    },
    /// A required parameter is absent; the first in declared order.
    #[error("missing parameter \"{name}\" in \"{method}\" command")]
    Missing {
        /// The parameter.
        name: &'static str,
        /// The method, as the peer spelled it.
        method: String,
    },
    /// A report with another state than the three.
    #[error("invalid task state")]
    TaskState,
}

fn missing(name: &'static str, method: &str) -> BadParams {
    BadParams::Missing {
        name,
        method: method.to_owned(),
    }
}

const INVALID_ID: BadParams = BadParams::Invalid {
    name: "id",
    want: "a non-empty string",
};
const INVALID_TASK_ID: BadParams = BadParams::Invalid {
    name: "task_id",
    want: "a string of 1 to 256 bytes",
};

/// Work that an agent may be told to do as a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `decom.disk_erase`: erase all attached block devices.
    DiskErase,
    /// `decom.firmware_secure`: bring firmware to wanted versions.
    FirmwareSecure,
    /// `decom.qc`: say what the machine is made of and compare it with a specification.
    Qc,
    /// `standbye.cache_images`.
    CacheImages,
    /// `standbye.prepare_image`.
    PrepareImage,
    /// `standbye.run_image`.
    RunImage,
    /// `muster.run`: any kind of work Muster knows, sent only to an agent that lists it.
    Run,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 7] = [
        Self::DiskErase,
        Self::FirmwareSecure,
        Self::Qc,
        Self::CacheImages,
        Self::PrepareImage,
        Self::RunImage,
        Self::Run,
    ];

    /// The method names it goes by, the one of the published text first. Three of them were renamed
    /// twice in the code (teeth contract, section 6).
    pub fn spellings(self) -> &'static [&'static str] {
        match self {
            Self::DiskErase => &["decom.disk_erase"],
            Self::FirmwareSecure => &["decom.firmware_secure"],
            Self::Qc => &["decom.qc"],
            Self::CacheImages => &[
                "standbye.cache_images",
                "standby.cache_images",
                "cache_images",
            ],
            Self::PrepareImage => &[
                "standbye.prepare_image",
                "standby.prepare_image",
                "prepare_image",
            ],
            Self::RunImage => &["standbye.run_image", "standby.run_image", "run_image"],
            Self::Run => &["muster.run"],
        }
    }

    /// The name in the published text.
    pub fn name(self) -> &'static str {
        self.spellings().first().copied().unwrap_or_default()
    }

    /// Reads any spelling.
    pub fn of(method: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|verb| verb.spellings().contains(&method))
    }

    /// Whether two of its kind must not run at once on one machine (teeth contract, rule 7.7).
    pub fn is_destructive(self) -> bool {
        match self {
            Self::DiskErase | Self::FirmwareSecure | Self::PrepareImage | Self::RunImage => true,
            Self::CacheImages | Self::Qc | Self::Run => false,
        }
    }
}

/// A task as the server orders it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskCall {
    /// The server's name for it: opaque, 1 to 256 bytes.
    pub task_id: String,
    /// What is to be done.
    pub verb: Verb,
    /// The spelling that was used.
    pub method: String,
    /// All parameters, `task_id` included.
    pub params: Json,
}

/// A command for an agent, its parameters judged.
#[derive(Clone, Debug, PartialEq)]
pub enum ToAgent {
    /// `muster.cancel`: stop a task.
    Cancel {
        /// The task.
        task_id: String,
    },
    /// `ping`: echo the parameters.
    Ping,
    /// `status`: say how you are.
    Status,
    /// Any of the task commands.
    Task(TaskCall),
}

impl ToAgent {
    /// The method that stops a task, of Muster's own name space.
    pub const CANCEL: &'static str = "muster.cancel";

    /// Judges a command for an agent. `None`: no such method.
    ///
    /// # Errors
    /// The error response that bad parameters deserve.
    pub fn read(command: &Command, limits: &Limits) -> Result<Option<Self>, BadParams> {
        let Some(method) = command.method.as_text() else {
            return Ok(None);
        };
        Ok(Some(match method.as_str() {
            "ping" => Self::Ping,
            "status" => Self::Status,
            Self::CANCEL => Self::Cancel {
                task_id: task_id(&command.params, &method, limits)?,
            },
            _ => match Verb::of(&method) {
                Some(verb) => Self::Task(TaskCall::read(verb, method, &command.params, limits)?),
                None => return Ok(None),
            },
        }))
    }
}

impl TaskCall {
    fn read(verb: Verb, method: String, params: &Json, limits: &Limits) -> Result<Self, BadParams> {
        let task_id = task_id(params, &method, limits)?;
        match verb {
            Verb::DiskErase | Verb::FirmwareSecure | Verb::Qc => {}
            Verb::CacheImages => {
                let [ids] = params.members(["image_ids"]);
                let ids = ids.ok_or_else(|| missing("image_ids", &method))?;
                if !ids.as_str().starts_with('[') {
                    return Err(BadParams::ImageIdsNotList);
                }
            }
            Verb::PrepareImage | Verb::RunImage => {
                let [id, image, info] = params.members(["image_id", "image", "image_info"]);
                let image = id
                    .or(image)
                    .or(info)
                    .ok_or_else(|| missing("image_id", &method))?;
                if image.is_falsy() || !image.as_str().starts_with(['"', '{']) {
                    let want = "a string or an object";
                    return Err(BadParams::Invalid {
                        name: "image_id",
                        want,
                    });
                }
            }
            Verb::Run => {
                let [kind, spec] = params.members(["kind", "spec"]);
                let kind = kind.ok_or_else(|| missing("kind", &method))?;
                if kind.as_text().is_none_or(|kind| kind.is_empty()) {
                    return Err(BadParams::Invalid {
                        name: "kind",
                        want: "a non-empty string",
                    });
                }
                let spec = spec.ok_or_else(|| missing("spec", &method))?;
                if !spec.is_object() {
                    return Err(BadParams::Invalid {
                        name: "spec",
                        want: "an object",
                    });
                }
            }
        }
        Ok(Self {
            task_id,
            verb,
            method,
            params: params.clone(),
        })
    }
}

fn task_id(params: &Json, method: &str, limits: &Limits) -> Result<String, BadParams> {
    let [id] = params.members(["task_id"]);
    let id = id
        .ok_or_else(|| missing("task_id", method))?
        .as_text()
        .ok_or(INVALID_TASK_ID)?;
    if id.is_empty() || id.len() > limits.task_id_bytes {
        return Err(INVALID_TASK_ID);
    }
    Ok(id)
}

/// A command for a server, its parameters judged.
#[derive(Clone, Debug, PartialEq)]
pub enum FromAgent {
    /// `handshake`: who the agent is.
    Handshake(Hello),
    /// `log`: a line of the agent's log.
    Log(LogLine),
    /// `ping`: echo the parameters.
    Ping,
    /// `task_status`: news of a task.
    TaskStatus(Report),
}

impl FromAgent {
    /// Judges a command for a server. `None`: no such method.
    ///
    /// # Errors
    /// The error response that bad parameters deserve; for `handshake` it is fatal.
    pub fn read(command: &Command, limits: &Limits) -> Result<Option<Self>, BadParams> {
        Ok(match command.method.as_text().as_deref() {
            Some("handshake") => Some(Self::Handshake(Hello::read(&command.params, limits)?)),
            Some("log") => Some(Self::Log(LogLine::read(&command.params)?)),
            Some("ping") => Some(Self::Ping),
            Some("task_status") => Some(Self::TaskStatus(Report::read(&command.params, limits)?)),
            _ => None,
        })
    }
}

/// The credential of a handshake. Shown by no formatter.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a secret.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret, for comparing by digest or for sending.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What an agent says of itself in `handshake`. The first two are all a real agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The primary MAC address; real agents all say `a:b:c:d`.
    pub id: String,
    /// The agent's version; real agents all say `0.1-dev`.
    pub version: String,
    /// A credential, where the agent was given one.
    pub token: Option<Token>,
    /// The methods it serves; `None` for a real agent (teeth contract, section 5, extension).
    pub methods: Option<Vec<String>>,
    /// `STANDBY` or `DECOM`, in any case.
    pub mode: Option<String>,
    /// Changes when the machine was rebooted.
    pub boot_id: Option<String>,
    /// Name and version of the program.
    pub agent: Option<String>,
    /// The id our own agents say on every wire.
    pub agent_id: Option<String>,
    /// The machine's name.
    pub hostname: Option<String>,
    /// Kinds of work that `muster.run` may name, with the versions of their tools.
    pub kinds: BTreeMap<String, String>,
}

impl Hello {
    fn read(params: &Json, limits: &Limits) -> Result<Self, BadParams> {
        let [id, version, token, methods, mode, boot_id, agent] = params.members([
            "id", "version", "token", "methods", "mode", "boot_id", "agent",
        ]);
        let [agent_id, hostname, kinds] = params.members(["agent_id", "hostname", "kinds"]);
        let id = id.ok_or_else(|| missing("id", "handshake"))?;
        let version = version.ok_or_else(|| missing("version", "handshake"))?;
        let id = id
            .as_text()
            .and_then(|id| name(&id, limits))
            .ok_or(INVALID_ID)?;
        let text = |json: Option<Json>| {
            json.filter(|json| !json.is_falsy())
                .and_then(|json| name(&json.to_text(), limits))
        };
        Ok(Self {
            id,
            version: text(Some(version)).unwrap_or_default(),
            token: token.and_then(|token| token.as_text()).map(Token),
            methods: methods.and_then(|methods| method_list(&methods, limits)),
            mode: text(mode),
            boot_id: text(boot_id),
            agent: text(agent),
            agent_id: text(agent_id),
            hostname: text(hostname),
            kinds: kinds
                .and_then(|kinds| kind_map(&kinds, limits))
                .unwrap_or_default(),
        })
    }

    /// The parameters of the handshake.
    pub fn to_params(&self) -> Json {
        let mut params = Map::new();
        params.insert("id".to_owned(), self.id.as_str().into());
        params.insert("version".to_owned(), self.version.as_str().into());
        if let Some(methods) = &self.methods {
            params.insert("methods".to_owned(), methods.clone().into());
        }
        for (name, value) in [
            ("token", self.token.as_ref().map(Token::expose)),
            ("mode", self.mode.as_deref()),
            ("boot_id", self.boot_id.as_deref()),
            ("agent", self.agent.as_deref()),
            ("agent_id", self.agent_id.as_deref()),
            ("hostname", self.hostname.as_deref()),
        ] {
            if let Some(value) = value {
                params.insert(name.to_owned(), value.into());
            }
        }
        if !self.kinds.is_empty() {
            let kinds = self.kinds.iter();
            let kinds = kinds.map(|(kind, version)| (kind.clone(), version.as_str().into()));
            params.insert("kinds".to_owned(), Value::Object(kinds.collect()));
        }
        Json::from(Value::Object(params))
    }

    /// Whether this agent said it serves the method.
    pub fn lists(&self, method: &str) -> bool {
        self.methods
            .as_ref()
            .is_some_and(|list| list.iter().any(|listed| listed == method))
    }
}

/// What a server says in the result of `handshake`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// The name of this connection.
    pub connection_id: Option<String>,
    /// Where the real endpoint's bridge is; a real endpoint always says it.
    pub endpoint_rpc_host: Option<String>,
    /// The port of that bridge.
    pub endpoint_rpc_port: Option<u16>,
    /// The methods the server serves; `None` for a real endpoint.
    pub methods: Option<Vec<String>>,
    /// Name and version of the program.
    pub server: Option<String>,
}

impl Welcome {
    /// Reads any result: later real agents read nothing of it, so nothing of it is required.
    pub fn read(result: &Json, limits: &Limits) -> Self {
        let [id, host, port, methods, server] = result.members([
            "id",
            "endpoint_rpc_host",
            "endpoint_rpc_port",
            "methods",
            "server",
        ]);
        let text = |json: Option<Json>| {
            json.and_then(|json| json.as_text())
                .and_then(|text| name(&text, limits))
        };
        Self {
            connection_id: text(id),
            endpoint_rpc_host: text(host),
            endpoint_rpc_port: port.and_then(|port| port.decode().ok()),
            methods: methods.and_then(|methods| method_list(&methods, limits)),
            server: text(server),
        }
    }

    /// The result of the handshake of the agent `id`.
    pub fn to_result(&self, id: &str) -> Json {
        let mut result = Map::new();
        result.insert("primary_mac_address".to_owned(), id.into());
        let text = |value: &Option<String>| value.clone().map(Value::from);
        for (name, value) in [
            ("id", text(&self.connection_id)),
            ("endpoint_rpc_host", text(&self.endpoint_rpc_host)),
            ("endpoint_rpc_port", self.endpoint_rpc_port.map(Value::from)),
            ("methods", self.methods.clone().map(Value::from)),
            ("server", text(&self.server)),
        ] {
            if let Some(value) = value {
                result.insert(name.to_owned(), value);
            }
        }
        Json::from(Value::Object(result))
    }

    /// Whether the server is known to end the connection at a `task_status`: a real endpoint, known
    /// by its bridge and by saying no methods (teeth contract, section 9).
    pub fn kills_reports(&self) -> bool {
        self.endpoint_rpc_host.is_some() && self.methods.is_none()
    }
}

/// A line of an agent's log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// What is logged; not a string in the hands of a careless peer, then its JSON.
    pub message: String,
    /// Unix seconds.
    pub time: f64,
    /// All parameters with whatever else the agent added.
    pub fields: Json,
}

impl LogLine {
    /// A line of our own.
    pub fn new(message: &str, time: f64, mut fields: Map<String, Value>) -> Self {
        fields.insert("message".to_owned(), message.into());
        fields.insert("time".to_owned(), time.into());
        Self {
            message: message.to_owned(),
            time,
            fields: Json::from(Value::Object(fields)),
        }
    }

    fn read(params: &Json) -> Result<Self, BadParams> {
        let [message, time] = params.members(["message", "time"]);
        let message = message.ok_or_else(|| missing("message", "log"))?.to_text();
        let time = time
            .ok_or_else(|| missing("time", "log"))?
            .as_number()
            .ok_or(BadParams::Invalid {
                name: "time",
                want: "a number",
            })?;
        Ok(Self {
            message,
            time,
            fields: params.clone(),
        })
    }
}

/// The state of a task on the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    /// Done. Terminal.
    Complete,
    /// Failed, cancelled or cut short. Terminal.
    Error {
        /// Why, for people.
        msg: String,
    },
    /// Under way.
    Running {
        /// Seconds of work left.
        eta: f64,
        /// Work done, 0 to 100.
        percent: f64,
    },
}

impl TaskState {
    /// Whether nothing comes after it.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Complete | Self::Error { .. } => true,
            Self::Running { .. } => false,
        }
    }
}

/// One `task_status`.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The task, as the server named it.
    pub task_id: String,
    /// Its state.
    pub state: TaskState,
    /// What came out, an object; usually with `complete`.
    pub result: Option<Json>,
    /// What the task is doing.
    pub step: Option<String>,
    /// Counts the reports of a task.
    pub seq: Option<u64>,
}

impl Report {
    fn read(params: &Json, limits: &Limits) -> Result<Self, BadParams> {
        const METHOD: &str = "task_status";
        let task_id = task_id(params, METHOD, limits)?;
        let [state, eta, percent, msg, result, step, seq] =
            params.members(["state", "eta", "percent", "msg", "result", "step", "seq"]);
        let state = state.ok_or_else(|| missing("state", METHOD))?;
        let state = match state.as_text().as_deref() {
            Some("complete") => TaskState::Complete,
            Some("error") => {
                let msg = msg.ok_or_else(|| missing("msg", METHOD))?.to_text();
                TaskState::Error { msg }
            }
            Some("running") => {
                let eta = eta.ok_or_else(|| missing("eta", METHOD))?;
                let percent = percent.ok_or_else(|| missing("percent", METHOD))?;
                let eta = eta.as_number().filter(|eta| *eta >= 0.0);
                let percent = percent.as_number().filter(|p| (0.0..=100.0).contains(p));
                TaskState::Running {
                    eta: eta.ok_or(BadParams::Invalid {
                        name: "eta",
                        want: "a number of seconds, not negative",
                    })?,
                    percent: percent.ok_or(BadParams::Invalid {
                        name: "percent",
                        want: "a number from 0 to 100",
                    })?,
                }
            }
            _ => return Err(BadParams::TaskState),
        };
        Ok(Self {
            task_id,
            state,
            result: result.filter(Json::is_object),
            step: step
                .and_then(|step| step.as_text())
                .and_then(|step| name(&step, limits)),
            seq: seq.and_then(|seq| seq.decode().ok()),
        })
    }

    /// Reads what [`Report::to_params`] wrote, for a report that was kept on disk.
    pub fn from_params(params: &Json, limits: &Limits) -> Option<Self> {
        Self::read(params, limits).ok()
    }

    /// The parameters of `task_status`.
    pub fn to_params(&self) -> Json {
        let mut params = Map::new();
        params.insert("task_id".to_owned(), self.task_id.as_str().into());
        let state = match &self.state {
            TaskState::Complete => "complete",
            TaskState::Error { msg } => {
                params.insert("msg".to_owned(), msg.as_str().into());
                "error"
            }
            TaskState::Running { eta, percent } => {
                params.insert("eta".to_owned(), (*eta).into());
                params.insert("percent".to_owned(), (*percent).into());
                "running"
            }
        };
        params.insert("state".to_owned(), state.into());
        if let Some(step) = &self.step {
            params.insert("step".to_owned(), step.as_str().into());
        }
        if let Some(seq) = self.seq {
            params.insert("seq".to_owned(), seq.into());
        }
        if let Some(result) = self
            .result
            .as_ref()
            .and_then(|result| result.to_value().ok())
        {
            params.insert("result".to_owned(), result);
        }
        Json::from(Value::Object(params))
    }
}

/// Which spelling of a verb each kind of old agent understands: an unknown one costs a reconnect, so
/// it is tried once (teeth contract, section 9).
#[derive(Clone, Debug, Default)]
pub struct Spellings {
    known: BTreeMap<(String, String, Verb), Learned>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Learned {
    failed: usize,
    works: Option<&'static str>,
}

impl Spellings {
    /// How many (version, id, verb) are remembered; beyond that the first in order is forgotten.
    const MAX: usize = 4096;

    /// What to call the verb for this agent; `None` when it has no name for it: the agent lists its
    /// methods without any spelling of it, or every spelling was refused.
    pub fn choose(&self, hello: &Hello, verb: Verb) -> Option<&'static str> {
        if hello.methods.is_some() {
            return verb
                .spellings()
                .iter()
                .copied()
                .find(|spelling| hello.lists(spelling));
        }
        // Muster's own methods exist only where they are listed.
        if verb == Verb::Run {
            return None;
        }
        let learned = self
            .known
            .get(&key(hello, verb))
            .copied()
            .unwrap_or_default();
        learned.works.or_else(|| trials(verb).nth(learned.failed))
    }

    /// The agent ended the connection over this spelling.
    pub fn failed(&mut self, hello: &Hello, verb: Verb, spelling: &str) {
        let learned = self.learned(hello, verb);
        learned.works = None;
        if let Some(at) = trials(verb).position(|trial| trial == spelling) {
            learned.failed = learned.failed.max(at.saturating_add(1));
        }
    }

    /// The agent answered this spelling.
    pub fn worked(&mut self, hello: &Hello, verb: Verb, spelling: &str) {
        let found = trials(verb).find(|trial| *trial == spelling);
        self.learned(hello, verb).works = found;
    }

    fn learned(&mut self, hello: &Hello, verb: Verb) -> &mut Learned {
        let key = key(hello, verb);
        if self.known.len() >= Self::MAX && !self.known.contains_key(&key) {
            self.known.pop_first();
        }
        self.known.entry(key).or_default()
    }
}

fn key(hello: &Hello, verb: Verb) -> (String, String, Verb) {
    (hello.version.clone(), hello.id.clone(), verb)
}

/// The order of trials for an agent that lists nothing: the last real code first, then the text,
/// then the bare name.
fn trials(verb: Verb) -> impl Iterator<Item = &'static str> {
    let spellings = verb.spellings();
    let order: &'static [usize] = if spellings.len() == 1 {
        &[0]
    } else {
        &[1, 0, 2]
    };
    order.iter().filter_map(|at| spellings.get(*at).copied())
}

/// A name a peer gives itself: printable, not empty, cut to the limit.
fn name(text: &str, limits: &Limits) -> Option<String> {
    let clean: String = text
        .chars()
        .filter(|c| !is_unprintable(*c))
        .take(limits.name_chars)
        .collect();
    if clean.trim().is_empty() {
        None
    } else {
        Some(clean)
    }
}

/// Controls, line separators and the characters that turn the reading direction.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The strings of a list, within the limits; `None` when it is no list.
fn method_list(json: &Json, limits: &Limits) -> Option<Vec<String>> {
    struct Methods<'l>(&'l Limits);
    impl<'de> Visitor<'de> for Methods<'_> {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut methods = Vec::new();
            while let Some(item) = seq.next_element::<&'de RawValue>()? {
                if methods.len() < self.0.methods
                    && item.get().len() <= self.0.method_bytes
                    && let Some(method) = Json::from_checked(item.get()).as_text()
                {
                    methods.push(method);
                }
            }
            Ok(methods)
        }
    }
    serde_json::Deserializer::from_str(json.as_str())
        .deserialize_seq(Methods(limits))
        .ok()
}

/// The members of an object whose values are strings, within the limits of [`method_list`].
fn kind_map(json: &Json, limits: &Limits) -> Option<BTreeMap<String, String>> {
    struct Kinds<'l>(&'l Limits);
    impl<'de> Visitor<'de> for Kinds<'_> {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut kinds = BTreeMap::new();
            while let Some((kind, version)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
                let fits = kind.get().len() <= self.0.method_bytes
                    && version.get().len() <= self.0.method_bytes;
                if kinds.len() < self.0.methods
                    && fits
                    && let Some(kind) = Json::from_checked(kind.get()).as_text()
                    && let Some(version) = Json::from_checked(version.get()).as_text()
                {
                    kinds.insert(kind, version);
                }
            }
            Ok(kinds)
        }
    }
    serde_json::Deserializer::from_str(json.as_str())
        .deserialize_map(Kinds(limits))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(method: &str, params: &str) -> Command {
        Command {
            id: Json::parse("\"1\"").unwrap(),
            version: Json::parse("\"v1\"").unwrap(),
            method: Json::from(Value::from(method)),
            params: Json::parse(params).unwrap(),
        }
    }

    fn to_agent(method: &str, params: &str) -> Result<Option<ToAgent>, String> {
        ToAgent::read(&command(method, params), &Limits::default()).map_err(|e| e.to_string())
    }

    fn from_agent(method: &str, params: &str) -> Result<Option<FromAgent>, String> {
        FromAgent::read(&command(method, params), &Limits::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn parameters_are_checked_in_declared_order() {
        for (method, params, text) in [
            (
                "standby.prepare_image",
                "{}",
                "missing parameter \"task_id\" in \"standby.prepare_image\" command",
            ),
            (
                "standbye.run_image",
                r#"{"task_id":"t"}"#,
                "missing parameter \"image_id\" in \"standbye.run_image\" command",
            ),
            (
                "prepare_image",
                r#"{"image_id":"i"}"#,
                "missing parameter \"task_id\" in \"prepare_image\" command",
            ),
            (
                "standby.cache_images",
                r#"{"task_id":"t","images":["a"]}"#,
                "missing parameter \"image_ids\" in \"standby.cache_images\" command",
            ),
            (
                "standby.cache_images",
                r#"{"task_id":"t","image_ids":"a"}"#,
                "\"image_ids\" must be a list",
            ),
            (
                "standby.run_image",
                r#"{"task_id":"t","image_id":5}"#,
                "\"image_id\" must be a string or an object",
            ),
            (
                "decom.qc",
                r#"{"task_id":""}"#,
                "\"task_id\" must be a string of 1 to 256 bytes",
            ),
            (
                "decom.qc",
                r#"{"task_id":7}"#,
                "\"task_id\" must be a string of 1 to 256 bytes",
            ),
            (
                "muster.run",
                r#"{"task_id":"t"}"#,
                "missing parameter \"kind\" in \"muster.run\" command",
            ),
            (
                "muster.run",
                r#"{"task_id":"t","kind":"rtt"}"#,
                "missing parameter \"spec\" in \"muster.run\" command",
            ),
            (
                "muster.run",
                r#"{"task_id":"t","kind":"rtt","spec":1}"#,
                "\"spec\" must be an object",
            ),
        ] {
            assert_eq!(
                to_agent(method, params),
                Err(text.to_owned()),
                "{method} {params}"
            );
        }
        let long = format!(r#"{{"task_id":"{}"}}"#, "x".repeat(257));
        assert!(to_agent("decom.qc", &long).is_err());
        assert_eq!(to_agent("handshake", "{}"), Ok(None));
        assert_eq!(to_agent("", "{}"), Ok(None));
    }

    #[test]
    fn every_spelling_of_every_verb_is_read() {
        for verb in Verb::ALL {
            for spelling in verb.spellings() {
                assert_eq!(Verb::of(spelling), Some(verb));
            }
        }
        for params in [
            r#"{"task_id":"t","image_id":"i"}"#,
            r#"{"task_id":"t","image_id":{"id":"i"}}"#,
            r#"{"task_id":"t","image":{"id":"i"}}"#,
            r#"{"task_id":"t","image_info":{"id":"i"}}"#,
        ] {
            assert!(matches!(
                to_agent("prepare_image", params),
                Ok(Some(ToAgent::Task(_)))
            ));
        }
    }

    #[test]
    fn reports_are_judged() {
        for (params, text) in [
            (
                r#"{"state":"running"}"#,
                "missing parameter \"task_id\" in \"task_status\" command",
            ),
            (
                r#"{"task_id":"t"}"#,
                "missing parameter \"state\" in \"task_status\" command",
            ),
            (
                r#"{"task_id":"t","state":"starting"}"#,
                "invalid task state",
            ),
            (r#"{"task_id":"t","state":5}"#, "invalid task state"),
            (
                r#"{"task_id":"t","state":"running","percent":1}"#,
                "missing parameter \"eta\" in \"task_status\" command",
            ),
            (
                r#"{"task_id":"t","state":"running","eta":1}"#,
                "missing parameter \"percent\" in \"task_status\" command",
            ),
            (
                r#"{"task_id":"t","state":"running","eta":-1,"percent":1}"#,
                "\"eta\" must be a number of seconds, not negative",
            ),
            (
                r#"{"task_id":"t","state":"running","eta":1,"percent":100.5}"#,
                "\"percent\" must be a number from 0 to 100",
            ),
            (
                r#"{"task_id":"t","state":"running","eta":null,"percent":1}"#,
                "\"eta\" must be a number of seconds, not negative",
            ),
            (
                r#"{"task_id":"t","state":"error"}"#,
                "missing parameter \"msg\" in \"task_status\" command",
            ),
        ] {
            assert_eq!(
                from_agent("task_status", params),
                Err(text.to_owned()),
                "{params}"
            );
        }
        let good = r#"{"task_id":"t","state":"complete","result":{"n":1},"step":"s","seq":3}"#;
        let Ok(Some(FromAgent::TaskStatus(report))) = from_agent("task_status", good) else {
            panic!("a good report was refused");
        };
        assert_eq!(report.result.unwrap().as_str(), r#"{"n":1}"#);
        assert_eq!((report.step.as_deref(), report.seq), (Some("s"), Some(3)));
    }

    #[test]
    fn handshakes_are_judged_and_cut() {
        for (params, text) in [
            ("{}", "missing parameter \"id\" in \"handshake\" command"),
            (
                r#"{"version":"1"}"#,
                "missing parameter \"id\" in \"handshake\" command",
            ),
            (
                r#"{"id":"m"}"#,
                "missing parameter \"version\" in \"handshake\" command",
            ),
            (
                r#"{"id":"","version":"1"}"#,
                "\"id\" must be a non-empty string",
            ),
            (
                r#"{"id":["m"],"version":"1"}"#,
                "\"id\" must be a non-empty string",
            ),
        ] {
            assert_eq!(
                from_agent("handshake", params),
                Err(text.to_owned()),
                "{params}"
            );
        }
        let id = "x".repeat(300);
        let methods: Vec<String> = (0..500).map(|n| format!("\"m{n}\"")).collect();
        let params = format!(
            r#"{{"id":"a\u202eb{id}","version":5,"token":"s3cret","methods":[1,{}]}}"#,
            methods.join(",")
        );
        let Ok(Some(FromAgent::Handshake(hello))) = from_agent("handshake", &params) else {
            panic!("a good handshake was refused");
        };
        assert_eq!(hello.id.chars().count(), 128);
        assert!(hello.id.starts_with("abx"));
        assert_eq!(hello.version, "5");
        assert_eq!(hello.methods.as_ref().unwrap().len(), 128);
        assert!(!format!("{hello:?}").contains("s3cret"));
    }

    #[test]
    fn kinds_are_read_with_their_versions() {
        let params = r#"{"id":"m","version":"1","kinds":{"rtt":"0.1.0","x":5,"a\u002eb":"2"}}"#;
        let Ok(Some(FromAgent::Handshake(hello))) = from_agent("handshake", params) else {
            panic!("a good handshake was refused");
        };
        let kinds: Vec<_> = hello
            .kinds
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(kinds, [("a.b", "2"), ("rtt", "0.1.0")]);
    }

    #[test]
    fn log_needs_message_then_time() {
        for (params, text) in [
            ("{}", "missing parameter \"message\" in \"log\" command"),
            (
                r#"{"message":"m"}"#,
                "missing parameter \"time\" in \"log\" command",
            ),
            (r#"{"message":"m","time":"x"}"#, "\"time\" must be a number"),
        ] {
            assert_eq!(from_agent("log", params), Err(text.to_owned()));
        }
    }

    #[test]
    fn spellings_are_tried_in_order_and_remembered() {
        let old = Hello {
            id: "a:b:c:d".into(),
            version: "0.1-dev".into(),
            ..Hello::default()
        };
        let mut spellings = Spellings::default();
        let mut tried = Vec::new();
        while let Some(spelling) = spellings.choose(&old, Verb::RunImage) {
            tried.push(spelling);
            spellings.failed(&old, Verb::RunImage, spelling);
        }
        assert_eq!(
            tried,
            ["standby.run_image", "standbye.run_image", "run_image"]
        );
        spellings.worked(&old, Verb::PrepareImage, "prepare_image");
        assert_eq!(
            spellings.choose(&old, Verb::PrepareImage),
            Some("prepare_image")
        );
        assert_eq!(spellings.choose(&old, Verb::Run), None);
        let new = Hello {
            methods: Some(vec!["standby.run_image".into()]),
            ..old
        };
        assert_eq!(
            spellings.choose(&new, Verb::RunImage),
            Some("standby.run_image")
        );
        assert_eq!(spellings.choose(&new, Verb::Qc), None);
    }

    #[test]
    fn a_real_endpoint_is_known_by_its_bridge() {
        let limits = Limits::default();
        let read = |text: &str| Welcome::read(&Json::parse(text).unwrap(), &limits);
        assert!(
            read(r#"{"id":"c","endpoint_rpc_host":"h","endpoint_rpc_port":8082}"#).kills_reports()
        );
        assert!(!read(r#"{"id":"c","endpoint_rpc_host":"h","methods":["ping"]}"#).kills_reports());
        assert!(!read("null").kills_reports());
        assert!(!read(r#"{"id":"conn-1"}"#).kills_reports());
    }
}
