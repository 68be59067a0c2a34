//! The objects of the REST interface: limits, addresses, tasks, runs and refusals (contract,
//! sections 1, 3, 4 and 5).
//!
//! A posted task is read once into [`TaskSpec`]; [`TaskView`] and [`RunView`] are what a front fills
//! to be shown. Times are resolved by whoever has a clock.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::time::{IsoDuration, Stamp, Start, Until};
use crate::json::JsonLimits;

/// What bounds a peer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Any JSON, in bodies and in queries.
    pub json: JsonLimits,
    /// Bytes of a body: the limit of every HTTP wire.
    pub body_bytes_max: usize,
    /// Bytes of a task once read, as it is stored: far above what a specification with all its
    /// references needs, and a bound on what each task costs every listing.
    pub task_bytes_max: usize,
    /// Parameters in a query: the original has at most six for one call.
    pub parameters_max: usize,
    /// Longest duration in a task or schedule. Slip may be nothing, others may not.
    pub duration_max: IsoDuration,
    /// Most runs one task may ask for.
    pub runs_max: u64,
    /// Longest time a call may block: ten times what the original's clients ask for.
    pub wait_secs_max: u64,
    /// Bytes an answer of a peer may have: run diagnostics reach a hundred thousand.
    pub answer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            json: JsonLimits::default(),
            body_bytes_max: 16 << 20,
            task_bytes_max: 1 << 20,
            parameters_max: 100,
            duration_max: IsoDuration::from_secs(366 * 86_400),
            runs_max: 1_000_000,
            wait_secs_max: 300,
            answer_bytes_max: 4 << 20,
        }
    }
}

/// A class of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Where results go.
    Archiver,
    /// What a tool's process is put into.
    Context,
    /// What is measured.
    Test,
    /// What measures it.
    Tool,
}

impl Class {
    /// The word in an address.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Archiver => "archivers",
            Self::Context => "contexts",
            Self::Test => "tests",
            Self::Tool => "tools",
        }
    }

    /// The word in a text.
    #[must_use]
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Archiver => "archiver",
            Self::Context => "context",
            Self::Test => "test",
            Self::Tool => "tool",
        }
    }
}

/// The scheme a request came by, which is the scheme of the addresses it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// The plain listener.
    Http,
    /// The TLS listener.
    Https,
}

/// What every returned address begins with: the request's own scheme and host (contract, section
/// 19, quirk 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    scheme: Scheme,
    authority: String,
}

impl Base {
    /// Addresses below `SCHEME://AUTHORITY/pscheduler`.
    #[must_use]
    pub fn new(scheme: Scheme, authority: impl Into<String>) -> Self {
        Self {
            scheme,
            authority: authority.into(),
        }
    }

    /// The address of a path such as `/tasks`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        format!("{scheme}://{}/pscheduler{path}", self.authority)
    }

    /// The host, without its port and brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        host_of(&self.authority)
    }
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`.
#[must_use]
pub fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => authority,
    }
}

/// A refusal: status and text. Texts are shown to people by the clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {text}")]
pub struct Reject {
    /// The HTTP status.
    pub status: u16,
    /// The text, without the newline that ends it on the wire.
    pub text: String,
    /// Methods to name in `Allow`, with 405.
    pub allow: Option<&'static str>,
}

impl Reject {
    /// A refusal without `Allow`.
    #[must_use]
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            allow: None,
        }
    }

    /// 404 for whatever is not there.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(404, "Resource not found.")
    }

    /// 403 without a reason.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(403, "Forbidden")
    }

    /// 404 for a plugin of a class.
    #[must_use]
    pub fn no_plugin(class: &str, name: &str) -> Self {
        Self::new(
            404,
            format!(
                "No {class} \"{}\" is available.",
                super::plugins::shown(name)
            ),
        )
    }

    /// 501 for what this server does not do yet.
    #[must_use]
    pub fn not_supported(what: &str) -> Self {
        Self::new(501, format!("{what} is not supported by this server."))
    }
}

/// When a task runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The first start.
    pub start: Start,
    /// Whether the member was there at all.
    pub start_named: bool,
    /// How much later a run may begin.
    pub slip: Option<IsoDuration>,
    /// Whether the start is drawn at random from the free time.
    pub sliprand: bool,
    /// From one start to the next.
    pub repeat: Option<IsoDuration>,
    /// Minutes, hours, days, months and weekdays to start at.
    pub repeat_cron: Option<String>,
    /// The end of repeating.
    pub until: Option<Until>,
    /// The number of runs after which it ends.
    pub max_runs: Option<u64>,
}

/// The moments of a schedule, for a task taken at a certain time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The first start; `None` for as soon as possible.
    pub start: Option<Stamp>,
    /// The end of repeating; `None` for never.
    pub until: Option<Stamp>,
}

impl Schedule {
    /// Resolves relative times and refuses impossible ones. Without any repeat `until` is ignored
    /// save that it must lie ahead (contract, section 4).
    ///
    /// # Errors
    /// The text for a 400.
    pub fn times(&self, now: Stamp) -> Result<Times, String> {
        let start = self
            .start
            .resolve(now)
            .map_err(|error| format!("At /schedule/start: {error}"))?;
        let until = match self.until {
            None => None,
            Some(until) => until
                .resolve(now)
                .map_err(|error| format!("At /schedule/until: {error}"))?,
        };
        if let Some(until) = until {
            if until <= now {
                return Err("At /schedule/until: the time has passed.".to_owned());
            }
            if start.is_some_and(|start| until <= start) {
                return Err("At /schedule/until: the time is not after the start.".to_owned());
            }
        }
        Ok(Times { start, until })
    }

    /// Whether there is more than one run.
    #[must_use]
    pub const fn repeats(&self) -> bool {
        self.repeat.is_some() || self.repeat_cron.is_some()
    }
}

/// A task as it was posted.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// The test.
    pub kind: String,
    /// Its specification.
    pub spec: Value,
    /// When it runs.
    pub schedule: Schedule,
    /// Acceptable tools, most wanted first.
    pub tools: Option<Vec<String>>,
    /// Where results should go.
    pub archives: Vec<Value>,
    /// What the tools should be put into.
    pub contexts: Option<Value>,
    /// The local address to speak from.
    pub lead_bind: Option<String>,
    /// What secrets are shown for.
    pub key: Option<String>,
    /// The priority asked for.
    pub priority: Option<i32>,
    /// The whole object, without comments.
    pub document: Value,
}

impl TaskSpec {
    /// Reads a document that passed the task schema.
    ///
    /// # Errors
    /// The text that follows `Invalid task specification: `.
    pub fn of_document(mut document: Value, limits: &Limits) -> Result<Self, String> {
        let most = limits.task_bytes_max;
        if text_bytes(&document) > most {
            return Err(format!("The task is larger than {most} bytes."));
        }
        if let Some(members) = document.as_object_mut() {
            members.remove("participants");
            members.remove("tool");
            members.entry("schedule").or_insert_with(|| json!({}));
        }
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let test = |member: &str| document.get("test").and_then(|test| test.get(member));
        let schedule = read_schedule(document.get("schedule").unwrap_or(&Value::Null), limits)?;
        let strings = |value: &Value| {
            let entries = value.as_array()?;
            entries
                .iter()
                .map(|entry| entry.as_str().map(str::to_owned))
                .collect()
        };
        Ok(Self {
            kind: text(test("type")).unwrap_or_default(),
            spec: test("spec").cloned().unwrap_or_default(),
            schedule,
            tools: document.get("tools").and_then(strings),
            archives: document
                .get("archives")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            contexts: document.get("contexts").cloned(),
            lead_bind: text(document.get("lead-bind")),
            key: text(document.get("_key")),
            priority: document
                .get("priority")
                .and_then(Value::as_i64)
                .and_then(|priority| i32::try_from(priority).ok()),
            document,
        })
    }
}

/// The length of a value's text, which is not made for it.
fn text_bytes(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail, and a value has no names that are no texts.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

fn read_schedule(schedule: &Value, limits: &Limits) -> Result<Schedule, String> {
    let text = |member: &str| schedule.get(member).and_then(Value::as_str);
    let length = |member: &str, may_be_nothing: bool| {
        let Some(text) = text(member) else {
            return Ok(None);
        };
        let duration =
            IsoDuration::parse(text).map_err(|error| format!("At /schedule/{member}: {error}"))?;
        if duration > limits.duration_max || duration == IsoDuration::ZERO && !may_be_nothing {
            let most = limits.duration_max;
            return Err(format!(
                "At /schedule/{member}: '{text}' is not a duration up to {most}."
            ));
        }
        Ok(Some(duration))
    };
    let start = match text("start") {
        None => Start::Soonest,
        Some(text) => Start::parse(text).map_err(|error| format!("At /schedule/start: {error}"))?,
    };
    if let Start::In(duration) | Start::NextMultiple(duration) = start
        && duration > limits.duration_max
    {
        let most = limits.duration_max;
        return Err(format!(
            "At /schedule/start: {duration} is more than {most}."
        ));
    }
    let until = match text("until") {
        None => None,
        Some(text) => {
            Some(Until::parse(text).map_err(|error| format!("At /schedule/until: {error}"))?)
        }
    };
    let max_runs = schedule.get("max-runs").and_then(Value::as_u64);
    if max_runs.is_some_and(|runs| runs > limits.runs_max) {
        return Err(format!(
            "At /schedule/max-runs: {} is greater than the maximum of {}",
            max_runs.unwrap_or_default(),
            limits.runs_max
        ));
    }
    Ok(Schedule {
        start,
        start_named: text("start").is_some(),
        slip: length("slip", true)?,
        sliprand: schedule
            .get("sliprand")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        repeat: length("repeat", false)?,
        repeat_cron: text("repeat-cron").map(str::to_owned),
        until,
        max_runs,
    })
}

/// State of a run (contract, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Still being negotiated: never shown.
    Scheduling,
    /// Waiting for its time.
    Pending,
    /// Taken up, about to start.
    OnDeck,
    /// The tool runs.
    Running,
    /// The tool has ended, results are gathered.
    Cleanup,
    /// Ended well.
    Finished,
    /// Past its end and silent.
    Overdue,
    /// Never began.
    Missed,
    /// Ended badly.
    Failed,
    /// Lost to a higher priority.
    Preempted,
    /// Could not be scheduled.
    Nonstart,
    /// Called off.
    Canceled,
}

impl RunState {
    /// Every state, in the order of the contract.
    pub const ALL: [Self; 12] = [
        Self::Scheduling,
        Self::Pending,
        Self::OnDeck,
        Self::Running,
        Self::Cleanup,
        Self::Finished,
        Self::Overdue,
        Self::Missed,
        Self::Failed,
        Self::Preempted,
        Self::Nonstart,
        Self::Canceled,
    ];

    /// The word of the interface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduling => "scheduling",
            Self::Pending => "pending",
            Self::OnDeck => "on-deck",
            Self::Running => "running",
            Self::Cleanup => "cleanup",
            Self::Finished => "finished",
            Self::Overdue => "overdue",
            Self::Missed => "missed",
            Self::Failed => "failed",
            Self::Preempted => "preempted",
            Self::Nonstart => "nonstart",
            Self::Canceled => "canceled",
        }
    }

    /// The word people read.
    #[must_use]
    pub const fn display(self) -> &'static str {
        match self {
            Self::Scheduling => "Scheduling",
            Self::Pending => "Pending",
            Self::OnDeck => "On Deck",
            Self::Running => "Running",
            Self::Cleanup => "Cleanup",
            Self::Finished => "Finished",
            Self::Overdue => "Overdue",
            Self::Missed => "Missed",
            Self::Failed => "Failed",
            Self::Preempted => "Preempted",
            Self::Nonstart => "Non-Starter",
            Self::Canceled => "Canceled",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn of_str(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether nothing more of the tool's doing is to come.
    #[must_use]
    pub const fn finished(self) -> bool {
        match self {
            Self::Scheduling | Self::Pending | Self::OnDeck | Self::Running => false,
            Self::Cleanup
            | Self::Finished
            | Self::Overdue
            | Self::Missed
            | Self::Failed
            | Self::Preempted
            | Self::Nonstart
            | Self::Canceled => true,
        }
    }

    /// Whether `runs?upcoming` lists it.
    #[must_use]
    pub const fn upcoming(self) -> bool {
        matches!(
            self,
            Self::Pending | Self::OnDeck | Self::Running | Self::Nonstart
        )
    }
}

/// What a task object shows besides what was posted, with `detail`.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskDetail {
    /// When the task was taken.
    pub added: Stamp,
    /// The first start, computed once.
    pub start: Option<Stamp>,
    /// How much later a run may begin.
    pub slip: Option<IsoDuration>,
    /// How long a run takes.
    pub duration: IsoDuration,
    /// Arguments of the specification.
    pub cli: Vec<String>,
    /// What the limits said.
    pub diags: String,
    /// False once it was deleted.
    pub enabled: bool,
    /// Who posted it.
    pub requester: Option<String>,
    /// The address it was posted to.
    pub server: Option<String>,
    /// Hosts that take part.
    pub participants: Vec<String>,
    /// Runs scheduled so far.
    pub runs: u64,
    /// Runs that began.
    pub runs_started: u64,
    /// How runs share time.
    pub class: super::plugins::SchedulingClass,
}

/// A task to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// Its id.
    pub id: Uuid,
    /// What was posted.
    pub document: Value,
    /// The chosen tool.
    pub tool: String,
    /// The rest.
    pub detail: TaskDetail,
}

impl TaskView {
    /// The address.
    #[must_use]
    pub fn href(&self, base: &Base) -> String {
        base.url(&format!("/tasks/{}", self.id))
    }

    /// What `json=` is matched with: everything but addresses.
    #[must_use]
    pub fn searchable(&self) -> Value {
        let mut members = self.members();
        members.insert("detail".to_owned(), Value::Object(self.detail_members()));
        Value::Object(members)
    }

    /// The task object.
    #[must_use]
    pub fn to_json(&self, base: &Base, with_detail: bool) -> Value {
        let href = self.href(base);
        let mut members = self.members();
        members.insert("href".to_owned(), Value::from(href.clone()));
        if with_detail {
            let mut detail = self.detail_members();
            for (name, tail) in [
                ("href", ""),
                ("runs-href", "/runs"),
                ("first-run-href", "/runs/first"),
                ("next-run-href", "/runs/next"),
            ] {
                detail.insert(name.to_owned(), Value::from(format!("{href}{tail}")));
            }
            members.insert("detail".to_owned(), Value::Object(detail));
        }
        Value::Object(members)
    }

    fn members(&self) -> Map<String, Value> {
        let mut members = self.document.as_object().cloned().unwrap_or_default();
        members.remove("participants");
        members.insert("tool".to_owned(), Value::from(self.tool.as_str()));
        members
    }

    fn detail_members(&self) -> Map<String, Value> {
        let detail = &self.detail;
        let mut hints = Map::new();
        for (name, address) in [("requester", &detail.requester), ("server", &detail.server)] {
            if let Some(address) = address {
                hints.insert(name.to_owned(), Value::from(address.as_str()));
            }
        }
        let members = json!({
            "added": detail.added.seconds(),
            "anytime": detail.class.anytime(),
            "cli": detail.cli,
            "diags": detail.diags,
            "duration": detail.duration.to_string(),
            "enabled": detail.enabled,
            "exclusive": detail.class.exclusive(),
            "hints": hints,
            "multi-result": detail.class.multi_result(),
            "participant": 0,
            "participants": detail.participants,
            "post": "P0D",
            "runs": detail.runs,
            "runs-started": detail.runs_started,
            "slip": detail.slip.map(|slip| slip.to_string()),
            "start": detail.start.map(Stamp::seconds)
        });
        members.as_object().cloned().unwrap_or_default()
    }
}

/// A run to be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct RunView {
    /// Its id.
    pub id: Uuid,
    /// Its task's id.
    pub task: Uuid,
    /// The planned start, which never changes.
    pub start: Stamp,
    /// The planned end, or when it ended if that was earlier.
    pub end: Stamp,
    /// When it was planned.
    pub added: Stamp,
    /// Its state.
    pub state: RunState,
    /// Hosts that take part.
    pub participants: Vec<String>,
    /// What this participant's tool said.
    pub result: Option<Value>,
    /// The test-standard result.
    pub merged: Option<Value>,
    /// Why it did not start, or what the tool complained of.
    pub errors: Option<String>,
    /// The task's priority.
    pub priority: Option<i32>,
    /// What the limits said.
    pub limit_diags: String,
}

impl RunView {
    /// The address.
    #[must_use]
    pub fn href(&self, base: &Base) -> String {
        base.url(&format!("/tasks/{}/runs/{}", self.task, self.id))
    }

    /// The run object.
    #[must_use]
    pub fn to_json(&self, base: &Base) -> Value {
        let href = self.href(base);
        let (start, end) = (
            self.start.whole_secs(),
            self.end.whole_secs().max(self.start.whole_secs()),
        );
        json!({
            "added": self.added.seconds(),
            "duration": end.distance(start).to_string(),
            "end-time": end.seconds(),
            "errors": self.errors,
            "href": href,
            "limit-diags": self.limit_diags,
            "participant": 0,
            "participant-data": {},
            "participant-data-full": [{}],
            "participants": self.participants,
            "priority": self.priority,
            "result": self.result,
            "result-full": self.result.as_ref().filter(|_| self.merged.is_some()).map(|own| [own]),
            "result-href": format!("{href}/result"),
            "result-merged": self.merged,
            "start-time": start.seconds(),
            "state": self.state.as_str(),
            "state-display": self.state.display(),
            "task-href": base.url(&format!("/tasks/{}", self.task))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(document: Value) -> Result<TaskSpec, String> {
        TaskSpec::of_document(document, &Limits::default())
    }

    fn scheduled(schedule: Value) -> Result<TaskSpec, String> {
        spec(json!({"test": {"type": "idle", "spec": {"duration": "PT1S"}}, "schedule": schedule}))
    }

    #[test]
    fn a_task_without_a_schedule_has_an_empty_one() {
        let task = spec(json!({"test": {"type": "idle", "spec": {}}})).expect("task");
        assert_eq!(task.document.get("schedule"), Some(&json!({})));
        assert_eq!(task.schedule.start, Start::Soonest);
        assert!(!task.schedule.repeats());
    }

    #[test]
    fn a_task_has_a_largest_size() {
        let task = |bytes: usize| spec(json!({"test": {}, "reference": "x".repeat(bytes)}));
        assert!(task((1 << 20) - 100).is_ok());
        assert_eq!(
            task(1 << 20),
            Err("The task is larger than 1048576 bytes.".to_owned())
        );
    }

    #[test]
    fn impossible_schedules_are_refused_with_their_path() {
        for (schedule, want) in [
            (
                json!({"repeat": "PT0S"}),
                "At /schedule/repeat: 'PT0S' is not a duration up to P366D.",
            ),
            (
                json!({"slip": "P367D"}),
                "At /schedule/slip: 'P367D' is not a duration up to P366D.",
            ),
            (
                json!({"start": "P400D"}),
                "At /schedule/start: P400D is more than P366D.",
            ),
            (
                json!({"max-runs": 1_000_001}),
                "At /schedule/max-runs: 1000001 is greater than the maximum of 1000000",
            ),
        ] {
            assert_eq!(scheduled(schedule), Err(want.to_owned()));
        }
        let now = Stamp::parse("2026-11-21T19:00:00Z").expect("now");
        for schedule in [
            json!({"until": "2001-01-01T00:00:00Z"}),
            json!({"start": "PT10M", "until": "PT5M"}),
            json!({"start": "@PT0S"}),
        ] {
            let task = scheduled(schedule.clone()).expect("shape");
            assert!(task.schedule.times(now).is_err(), "{schedule}");
        }
        let task = scheduled(json!({"slip": "PT0S", "until": "forever", "start": "PT10S"}));
        let times = task.expect("task").schedule.times(now).expect("times");
        assert_eq!(
            times.start.map(Stamp::zulu).as_deref(),
            Some("2026-11-21T19:00:10Z")
        );
        assert_eq!(times.until, None);
    }

    #[test]
    fn authorities_lose_their_port_and_brackets() {
        for (authority, want) in [
            ("ps1.example.net", "ps1.example.net"),
            ("ps1.example.net:8443", "ps1.example.net"),
            ("[::1]:8443", "::1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
        ] {
            assert_eq!(host_of(authority), want);
        }
    }

    #[test]
    fn every_state_has_its_word() {
        for state in RunState::ALL {
            assert_eq!(RunState::of_str(state.as_str()), Some(state));
        }
        assert_eq!(RunState::of_str("last"), None);
        let finished: Vec<_> = RunState::ALL
            .into_iter()
            .filter(|state| state.finished())
            .map(RunState::as_str)
            .collect();
        assert_eq!(
            finished,
            [
                "cleanup",
                "finished",
                "overdue",
                "missed",
                "failed",
                "preempted",
                "nonstart",
                "canceled"
            ]
        );
    }
}
