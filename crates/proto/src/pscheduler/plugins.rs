//! What a server offers: tests, and the tools that can run them.
//!
//! A [`Catalogue`] is the fixed set of both, built once. It describes, validates and converts
//! specifications, and picks the tool for a task (contract, sections 3, 14 and 15). It runs nothing
//! and knows no agent: kinds of work beyond the original's tests are added by name.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::builtin;
use super::cli::{self, CliOption};
use super::schemas::{Misfit, Schema};
use super::text::{self, Form, Medium};
use super::time::IsoDuration;
use super::tools::Tool;
use super::wire::{Base, Limits, Reject, TaskSpec};

/// How runs of a test share time with others (contract, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulingClass {
    /// Any number at once.
    Background,
    /// Any number at once, each run with many results.
    BackgroundMulti,
    /// Alone.
    Exclusive,
    /// Beside others, not beside exclusive ones.
    Normal,
}

impl SchedulingClass {
    /// The word in an enumeration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Background => "background",
            Self::BackgroundMulti => "background-multi",
            Self::Exclusive => "exclusive",
            Self::Normal => "normal",
        }
    }

    /// Whether runs may lie at any time, whatever else is there.
    #[must_use]
    pub const fn anytime(self) -> bool {
        matches!(self, Self::Background | Self::BackgroundMulti)
    }

    /// Whether a run wants the host for itself.
    #[must_use]
    pub const fn exclusive(self) -> bool {
        matches!(self, Self::Exclusive)
    }

    /// Whether one run has many results.
    #[must_use]
    pub const fn multi_result(self) -> bool {
        matches!(self, Self::BackgroundMulti)
    }
}

/// Who takes part in a test.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// The host named by the first of these members, else the server; the second text is the reason
    /// and the third the member that carries it.
    Named(&'static [&'static str], &'static str, &'static str),
    /// Any agent that can do it.
    AnyAgent,
}

/// Where a target that is named beside the specification belongs in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// In this member; each target is a piece of work of its own.
    Each(&'static str),
    /// In the list that this member is, with the others.
    Listed(&'static str),
    /// Nowhere: it names a machine, and the specification says nothing of machines.
    Outside,
}

/// The hosts of a test. A leading `None` is the server that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participants {
    /// One entry for each participant.
    pub hosts: Vec<Option<String>>,
    /// Why the first is the server: the member's name and its text.
    pub reason: Option<(&'static str, &'static str)>,
}

impl Participants {
    /// The answer of `/tests/N/participants`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut answer = json!({ "participants": self.hosts });
        if let (Some((member, text)), Some(answer)) = (self.reason, answer.as_object_mut()) {
            answer.insert(member.to_owned(), Value::from(text));
        }
        answer
    }
}

/// One test.
#[derive(Debug)]
pub struct Test {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) version: String,
    pub(super) class: SchedulingClass,
    pub(super) schemas: Vec<Schema>,
    pub(super) options: &'static [CliOption],
    pub(super) examples: String,
    pub(super) rule: Rule,
    pub(super) target: Target,
    pub(super) form: Form,
}

impl Test {
    /// The name, which is the kind of work.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its class.
    #[must_use]
    pub const fn class(&self) -> SchedulingClass {
        self.class
    }

    /// Whether it is a kind of work of this server rather than one of the original's tests.
    #[must_use]
    pub const fn is_own_kind(&self) -> bool {
        matches!(self.rule, Rule::AnyAgent)
    }

    /// The enumeration, without `href`.
    #[must_use]
    pub fn enumeration(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "version": self.version,
            "maintainer": maintainer(),
            "scheduling-class": self.class.as_str(),
            "schema": 1
        })
    }

    /// Checks a specification against its own schema version.
    ///
    /// # Errors
    /// What stands in `error` of `is-valid` (contract, section 13).
    pub fn check(&self, spec: &Value) -> Result<(), Misfit> {
        let Some(members) = spec.as_object() else {
            return Err(Misfit::plain("", "JSON provided must be a dictionary."));
        };
        let highest = self.schemas.len();
        let version = match members.get("schema") {
            None => 1,
            Some(schema) => schema
                .as_i64()
                .ok_or_else(|| Misfit::plain("/schema", "Schema value must be an integer."))?,
        };
        let at = usize::try_from(version)
            .ok()
            .and_then(|version| version.checked_sub(1));
        match at.and_then(|at| self.schemas.get(at)) {
            Some(schema) => schema.check(spec),
            None => Err(Misfit::plain(
                "/schema",
                format!("Schema version {version} is not supported (highest is {highest})."),
            )),
        }
    }

    /// The same for a specification that leaves out what `targets` say, as those of tasks that do not
    /// come over pScheduler do.
    ///
    /// # Errors
    /// As [`Test::check`]; the path is that of the member that a target belongs in.
    pub fn check_with_targets(&self, spec: &Value, targets: &[String]) -> Result<(), Misfit> {
        let (Some(members), false) = (spec.as_object(), targets.is_empty()) else {
            return self.check(spec);
        };
        let with = |member: &str, value: Value| {
            let mut whole = members.clone();
            whole.insert(member.to_owned(), value);
            self.check(&Value::Object(whole))
        };
        match self.target {
            Target::Outside => self.check(spec),
            Target::Each(member) => targets
                .iter()
                .try_for_each(|target| with(member, Value::from(target.as_str()))),
            Target::Listed(member) => {
                let own = members.get(member).and_then(Value::as_array);
                let own = own.into_iter().flatten().cloned();
                let all = own.chain(targets.iter().map(|target| Value::from(target.as_str())));
                with(member, all.collect())
            }
        }
    }

    /// Turns command line arguments into a specification.
    ///
    /// # Errors
    /// What the option parser writes, help included.
    pub fn spec_of_args(&self, args: &[String]) -> Result<Value, String> {
        let mut spec = cli::to_spec(self.options, &self.examples, args)?;
        builtin::finish_spec(&self.name, &mut spec)?;
        Ok(Value::Object(spec))
    }

    /// Turns a specification into arguments, without the test's name.
    #[must_use]
    pub fn args_of_spec(&self, spec: &Value) -> Vec<String> {
        cli::from_spec(self.options, spec)
    }

    /// Who takes part.
    #[must_use]
    pub fn participants(&self, spec: &Value) -> Participants {
        match self.rule {
            Rule::AnyAgent => Participants {
                hosts: vec![None],
                reason: Some(("null-reason", "Any agent that can do it")),
            },
            Rule::Named(members, reason, member) => {
                let named = members.iter().find_map(|name| spec.get(*name));
                let hosts = match named {
                    Some(Value::Array(several)) => several
                        .iter()
                        .map(|host| host.as_str().map(str::to_owned))
                        .collect(),
                    Some(one) => vec![one.as_str().map(str::to_owned)],
                    None => vec![None],
                };
                let reason = hosts
                    .first()
                    .is_none_or(Option::is_none)
                    .then_some((member, reason));
                Participants { hosts, reason }
            }
        }
    }

    /// The result in words.
    #[must_use]
    pub fn render(&self, medium: Medium, merged: &Value) -> String {
        text::render(self.form, medium, merged)
    }
}

/// Who answers for the plugins of this server.
pub(super) fn maintainer() -> Value {
    json!({ "name": "Muster" })
}

/// A kind of work that becomes a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: String,
    /// One line on what it does.
    pub description: String,
    /// The version its capability is spoken of in.
    pub version: String,
}

/// All tests and tools of a server.
#[derive(Debug)]
pub struct Catalogue {
    tests: BTreeMap<String, Test>,
    tools: BTreeMap<&'static str, Tool>,
    task_schemas: Vec<Schema>,
    schedule_schemas: Vec<Schema>,
    archive_schemas: Vec<Schema>,
}

/// What a posted task comes to, once everything that can be decided without a clock is.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The chosen tool.
    pub tool: &'static str,
    /// How long the tool takes, whole seconds.
    pub duration: IsoDuration,
    /// Who takes part.
    pub participants: Participants,
    /// Arguments of the specification, without the test's name.
    pub cli: Vec<String>,
}

impl Catalogue {
    /// The tests this server has with built-in tools: `clock`, `idle`, `idleex`, `inventory`,
    /// `netdiscovery`, `noop` and `rtt`, and any other kinds of work it is told of.
    #[must_use]
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let mut tests: BTreeMap<_, _> = builtin::tests()
            .into_iter()
            .map(|test| (test.name.clone(), test))
            .collect();
        for kind in kinds {
            tests
                .entry(kind.name.clone())
                .or_insert_with(|| builtin::open_kind(kind));
        }
        Self {
            tests,
            tools: super::tools::ALL
                .iter()
                .map(|tool| (tool.name, *tool))
                .collect(),
            task_schemas: (1..=super::TASK_SCHEMA_MAX)
                .map(|version| Schema::new(super::schemas::task(version)))
                .collect(),
            schedule_schemas: (1..=2)
                .map(|version| Schema::new(super::schemas::schedule(version)))
                .collect(),
            archive_schemas: (1..=3)
                .map(|version| Schema::new(super::schemas::archive(version)))
                .collect(),
        }
    }

    /// The test of a name.
    ///
    /// # Errors
    /// The 404 of a test that is not there.
    pub fn test(&self, name: &str) -> Result<&Test, Reject> {
        self.tests
            .get(name)
            .ok_or_else(|| Reject::no_plugin("test", name))
    }

    /// The tests in order of name.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.tests.values()
    }

    /// The tool of a name.
    ///
    /// # Errors
    /// The 404 of a tool that is not there.
    pub fn tool(&self, name: &str) -> Result<&Tool, Reject> {
        self.tools
            .get(name)
            .ok_or_else(|| Reject::no_plugin("tool", name))
    }

    /// The tools in order of name.
    pub fn tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools.values()
    }

    /// The enumeration of a tool, without `href`.
    #[must_use]
    pub fn tool_enumeration(&self, tool: &Tool) -> Value {
        let tests: Vec<_> = match tool.tests {
            Some(tests) => tests.iter().map(|test| (*test).to_owned()).collect(),
            None => self.own_kinds(),
        };
        json!({
            "name": tool.name,
            "description": tool.description,
            "version": "1.0",
            "tests": tests,
            "preference": tool.preference,
            "maintainer": maintainer(),
            "schema": 1
        })
    }

    fn own_kinds(&self) -> Vec<String> {
        self.tests()
            .filter(|test| test.is_own_kind())
            .map(|test| test.name.clone())
            .collect()
    }

    /// The tools that list a test, most preferred first, then by name.
    #[must_use]
    pub fn tools_for(&self, test: &str) -> Vec<&Tool> {
        let own = self.tests.get(test).is_some_and(Test::is_own_kind);
        let lists = |tool: &Tool| tool.tests.map_or(own, |tests| tests.contains(&test));
        let mut tools: Vec<_> = self.tools().filter(|tool| lists(tool)).collect();
        tools.sort_by_key(|tool| (std::cmp::Reverse(tool.preference), tool.name));
        tools
    }

    /// The answer of `/tools?test=`, in the form of an API level (contract, section 3).
    #[must_use]
    pub fn offers(&self, test: &str, spec: &Value, api: u32) -> Value {
        let mut answers = Vec::new();
        for tool in self.tools_for(test) {
            let refusals = tool.refusals(test, spec);
            if api >= 6 {
                let mut can_run = json!({ "can-run": refusals.is_empty() });
                if let (false, Some(can_run)) = (refusals.is_empty(), can_run.as_object_mut()) {
                    can_run.insert("reasons".to_owned(), json!(refusals));
                }
                answers.push(json!({ "can-run": can_run, "tool": self.tool_enumeration(tool) }));
            } else if refusals.is_empty() {
                answers.push(self.tool_enumeration(tool));
            }
        }
        Value::Array(answers)
    }

    /// A listing of plugins as URLs or, expanded, as enumerations with their `href`.
    #[must_use]
    pub fn listing(&self, base: &Base, class: super::wire::Class, expanded: bool) -> Value {
        use super::wire::Class;
        let all: Vec<Value> = match class {
            Class::Test => self.tests().map(Test::enumeration).collect(),
            Class::Tool => self
                .tools()
                .map(|tool| self.tool_enumeration(tool))
                .collect(),
            Class::Archiver | Class::Context => Vec::new(),
        };
        list(base, class, all, expanded)
    }

    /// The tools of a test as URLs or enumerations.
    #[must_use]
    pub fn tool_listing(&self, base: &Base, test: &str, expanded: bool) -> Value {
        let tools = self
            .tools_for(test)
            .into_iter()
            .map(|tool| self.tool_enumeration(tool));
        list(base, super::wire::Class::Tool, tools.collect(), expanded)
    }

    /// Checks the shape of a posted task against the version it names.
    ///
    /// # Errors
    /// The text that follows `Invalid task specification: `.
    pub fn check_task(&self, document: &Value) -> Result<(), String> {
        let version = match document.get("schema") {
            None => 1,
            Some(schema) => schema
                .as_i64()
                .ok_or_else(|| "Schema value must be an integer.".to_owned())?,
        };
        let highest = super::TASK_SCHEMA_MAX;
        if version > i64::from(highest) {
            return Err(format!(
                "Schema version {version} is not supported (highest is {highest})"
            ));
        }
        let at = usize::try_from(version)
            .ok()
            .and_then(|version| version.checked_sub(1));
        let schema = at.and_then(|at| self.task_schemas.get(at));
        let (Some(schema), Some(_)) = (schema, document.get("test")) else {
            // No version takes it: the original tries all of them and names none.
            let shown = super::json::python_repr(document);
            return Err(super::schemas::short(format!(
                "At /: {shown} is not valid under any of the given schemas"
            )));
        };
        schema.check(document)?;
        if let Some(schedule) = document.get("schedule") {
            let version = usize::from(schedule.get("schema").is_some_and(|schema| schema == 2));
            if let Some(schema) = self.schedule_schemas.get(version) {
                schema.check_below("/schedule", schedule)?;
            }
        }
        let archives = document.get("archives").and_then(Value::as_array);
        for (at, archive) in archives.into_iter().flatten().enumerate() {
            let version = archive.get("schema").and_then(Value::as_u64).unwrap_or(1);
            let version = usize::try_from(version)
                .ok()
                .and_then(|version| version.checked_sub(1));
            match version.and_then(|version| self.archive_schemas.get(version)) {
                Some(schema) => schema.check_below(&format!("/archives/{at}"), archive)?,
                None => {
                    let shown = super::json::python_repr(archive);
                    return Err(super::schemas::short(format!(
                        "At /archives/{at}: {shown} is not valid under any of the given schemas"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Decides what can be decided about a posted task without knowing the time or the fleet: steps
    /// 3, 5, 8 and 10 of the contract's list (section 3), for a server whose own name is `host`.
    ///
    /// # Errors
    /// The refusal in the protocol's words.
    pub fn accept(&self, task: &TaskSpec, host: &str, limits: &Limits) -> Result<Accepted, Reject> {
        let Some(test) = self.tests.get(&task.kind) else {
            return Err(Reject::new(
                404,
                format!(
                    "Unable to validate test spec: Unknown test plugin '{}'",
                    shown(&task.kind)
                ),
            ));
        };
        test.check(&task.spec)
            .map_err(|error| Reject::new(400, format!("Invalid test specification: {error}")))?;
        check_durations(&task.spec, limits)
            .map_err(|error| Reject::new(400, format!("Invalid test specification: {error}")))?;
        if let Some(archive) = task.archives.first() {
            let name = archive
                .get("archiver")
                .and_then(Value::as_str)
                .unwrap_or("");
            let text = format!(
                "Invalid archiver data: No archiver \"{}\" is available.",
                shown(name)
            );
            return Err(Reject::new(400, text));
        }
        let participants = test.participants(&task.spec);
        self.check_contexts(task, participants.hosts.len())?;
        let tool = self.choose(task, test, host)?;
        if participants.hosts.len() > 1 {
            return Err(Reject::new(
                422,
                "Unable to complete request: Tests with more than one participant are not \
                 supported by this server."
                    .to_owned(),
            ));
        }
        let duration = IsoDuration::from_secs(tool.duration(&task.spec).secs_up().max(1));
        if duration > limits.duration_max {
            let text = format!("Invalid test specification: A run would take {duration}.");
            return Err(Reject::new(400, text));
        }
        Ok(Accepted {
            tool: tool.name,
            duration,
            participants,
            cli: test.args_of_spec(&task.spec),
        })
    }

    fn check_contexts(&self, task: &TaskSpec, participants: usize) -> Result<(), Reject> {
        let Some(lists) = task
            .contexts
            .as_ref()
            .and_then(|contexts| contexts.get("contexts"))
        else {
            return Ok(());
        };
        let lists = lists.as_array().map_or(&[][..], Vec::as_slice);
        if lists.len() != participants {
            return Err(Reject::new(
                400,
                "Number of contexts must match number of participants.".to_owned(),
            ));
        }
        let first = lists.iter().filter_map(Value::as_array).flatten().next();
        match first
            .and_then(|entry| entry.get("context"))
            .and_then(Value::as_str)
        {
            None => Ok(()),
            Some(name) => Err(Reject::new(
                400,
                format!(
                    "Invalid context data: No context \"{}\" is available.",
                    shown(name)
                ),
            )),
        }
    }

    fn choose(&self, task: &TaskSpec, test: &Test, host: &str) -> Result<&Tool, Reject> {
        let mut offered = Vec::new();
        let mut declined = Vec::new();
        for tool in self.tools_for(&test.name) {
            match tool.refusals(&test.name, &task.spec) {
                reasons if reasons.is_empty() => offered.push(tool),
                reasons => declined.push((tool, reasons)),
            }
        }
        let chosen = match &task.tools {
            None => offered.first().copied(),
            Some(wanted) => wanted
                .iter()
                .find_map(|name| offered.iter().find(|tool| tool.name == name).copied()),
        };
        if let Some(tool) = chosen {
            return Ok(tool);
        }
        let mut text = format!(
            "Unable to complete request: None of the participants could run this test:\n\n{host}:\n\n"
        );
        if offered.is_empty() {
            text.push_str("  Offered nothing.\n");
        } else {
            text.push_str("  Offered\n");
            for tool in &offered {
                text.push_str(&format!("    {}\n", tool.name));
            }
        }
        if !declined.is_empty() {
            text.push_str("  Declined\n");
            for (tool, reasons) in &declined {
                text.push_str(&format!("    {}\n", tool.name));
                for reason in reasons {
                    text.push_str(&format!("      - {reason}\n"));
                }
            }
        }
        Err(Reject::new(422, text))
    }
}

/// Refuses lengths of time that no schema can: nothing at all, save for waits, and too much (threat
/// model, section 4).
fn check_durations(spec: &Value, limits: &Limits) -> Result<(), String> {
    for (member, may_be_nothing) in [
        ("deadline", false),
        ("duration", false),
        ("interval", false),
        ("timeout", true),
    ] {
        let Some(text) = spec.get(member).and_then(Value::as_str) else {
            continue;
        };
        let duration =
            IsoDuration::parse(text).map_err(|error| format!("At /{member}: {error}"))?;
        let most = limits.duration_max;
        if duration > most || duration == IsoDuration::ZERO && !may_be_nothing {
            return Err(super::schemas::short(format!(
                "At /{member}: '{text}' is not a duration up to {most}."
            )));
        }
    }
    Ok(())
}

fn list(base: &Base, class: super::wire::Class, all: Vec<Value>, expanded: bool) -> Value {
    let entries = all.into_iter().map(|mut entry| {
        let name = entry.get("name").and_then(Value::as_str).unwrap_or("");
        let href = base.url(&format!("/{}/{name}", class.plural()));
        if !expanded {
            return Value::from(href);
        }
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("href".to_owned(), Value::from(href));
        }
        entry
    });
    Value::Array(entries.collect())
}

/// At most 64 characters of a peer's word, without controls.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Puts the members that `tool/NAME/run` answers around a merged result: what a run shows as its own
/// participant's `result` (contract, section 8).
#[must_use]
pub fn participant_result(test: &str, merged: &Value) -> Value {
    let member = |name: &str| merged.get(name).cloned();
    let succeeded = member("succeeded")
        .and_then(|value| value.as_bool())
        .unwrap_or(false);
    let own = if succeeded {
        match test {
            "idle" | "idleex" => json!({ "time-slept": member("duration") }),
            "noop" => member("data").unwrap_or(Value::Null),
            _ => {
                let mut own: Map<String, Value> = merged.as_object().cloned().unwrap_or_default();
                own.remove("diags");
                own.remove("error");
                Value::Object(own)
            }
        }
    } else {
        Value::Null
    };
    json!({
        "succeeded": succeeded,
        "diags": member("diags").unwrap_or_else(|| Value::from("")),
        "error": member("error").unwrap_or_else(|| Value::from("")),
        "result": own,
        "schema": 1
    })
}
