//! JSON Schemas of pScheduler's documents, and validation with its texts.
//!
//! Schemas are draft 7 and written out in full, without references, so that the place an error
//! points at can be looked up for its own message (`x-invalid-message`, as the original has it).
//! Messages are Python's: peers' people know them. What a document means is not decided here.

use std::sync::OnceLock;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::{Value, json};

use super::json::{python_quote, python_repr};

/// One schema, compiled when it is first used.
#[derive(Debug)]
pub struct Schema {
    source: Value,
    compiled: OnceLock<Result<Validator, String>>,
}

impl Schema {
    /// A schema from its JSON.
    #[must_use]
    pub const fn new(source: Value) -> Self {
        Self {
            source,
            compiled: OnceLock::new(),
        }
    }

    /// Checks a document against the schema.
    ///
    /// # Errors
    /// The error the original would name: the shallowest, and of equal ones a missing member before
    /// an unexpected one (contract, section 13).
    pub fn check(&self, instance: &Value) -> Result<(), Misfit> {
        self.check_below("", instance)
    }

    /// The same for a member of a larger document: `prefix` is its path, such as `/schedule`.
    ///
    /// # Errors
    /// As [`Schema::check`].
    pub fn check_below(&self, prefix: &str, instance: &Value) -> Result<(), Misfit> {
        let compiled = self.compiled.get_or_init(|| {
            jsonschema::draft7::options()
                .should_validate_formats(true)
                .with_pattern_options(PatternOptions::regex())
                .build(&self.source)
                .map_err(|error| error.to_string())
        });
        let validator = match compiled {
            Ok(validator) => validator,
            Err(error) => return Err(Misfit::at("", format!("schema does not compile: {error}"))),
        };
        let mut left = VALUES_COMPARED;
        let chosen = if has_more_values_than(instance, &mut left) {
            validator.validate(instance).err()
        } else {
            validator.iter_errors(instance).min_by_key(|error| {
                let depth = error.instance_path().as_str().matches('/').count();
                (depth, rank(error.kind()))
            })
        };
        match chosen {
            None => Ok(()),
            Some(error) => {
                let path = format!("{prefix}{}", error.instance_path().as_str());
                let mut misfit = if path.split('/').any(|name| name.starts_with('_')) {
                    Misfit::at(&path, "The value is not valid.".to_owned())
                } else {
                    Misfit::at(&path, self.message(&error))
                };
                if let Some(member) = member_of(error.kind()) {
                    let member = member.replace('~', "~0").replace('/', "~1");
                    misfit.path = format!("{path}/{member}");
                }
                Err(misfit)
            }
        }
    }

    fn message(&self, error: &ValidationError<'_>) -> String {
        let place = error.schema_path().as_str();
        let parent = place.rsplit_once('/').map_or("", |(parent, _)| parent);
        let own = self
            .source
            .pointer(parent)
            .and_then(|schema| schema.get("x-invalid-message"))
            .and_then(Value::as_str);
        match (own, error.instance().as_str()) {
            (Some(own), Some(text)) => own.replace("%s", text),
            _ => python_text(error),
        }
    }
}

/// What is wrong with a document, and where. Displayed as the original says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub struct Misfit {
    /// JSON pointer to the member that does not fit, is missing, or is one too many; empty for the
    /// document itself.
    pub path: String,
    /// What is wrong with it. Nothing below a member that begins with `_` is repeated here.
    pub text: String,
    said: String,
}

impl Misfit {
    /// In the words of the validator: `At /PATH: TEXT`.
    #[must_use]
    pub fn at(path: &str, text: String) -> Self {
        let shown = path
            .trim_start_matches('/')
            .replace("~1", "/")
            .replace("~0", "~");
        let said = short(format!("At /{shown}: {text}"));
        Self {
            path: path.to_owned(),
            text: short(text),
            said,
        }
    }

    /// In the words of the original's code around the validator, which name no place.
    pub(super) fn plain(path: &str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            path: path.to_owned(),
            said: text.clone(),
            text,
        }
    }
}

impl From<Misfit> for String {
    fn from(misfit: Misfit) -> Self {
        misfit.said
    }
}

/// The member an error of an object is about: the validator points at the object.
fn member_of(kind: &ValidationErrorKind) -> Option<&str> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is the validator's and grows"
    )]
    match kind {
        ValidationErrorKind::Required { property } => property.as_str(),
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().min().map(String::as_str)
        }
        _ => None,
    }
}

/// Values in a document up to which all its errors are made to choose one from. Of a larger one, each
/// value of which may be wrong, the first error has to do.
const VALUES_COMPARED: u32 = 10_000;

/// Whether there are more values than are left.
fn has_more_values_than(value: &Value, left: &mut u32) -> bool {
    let Some(less) = left.checked_sub(1) else {
        return true;
    };
    *left = less;
    match value {
        Value::Array(elements) => elements
            .iter()
            .any(|element| has_more_values_than(element, left)),
        Value::Object(members) => members
            .values()
            .any(|member| has_more_values_than(member, left)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Most characters of a message: it quotes what the peer sent, which may be megabytes.
const MESSAGE_MAX: usize = 1000;

/// A message cut to what a person reads.
#[must_use]
pub(super) fn short(text: String) -> String {
    match text.char_indices().nth(MESSAGE_MAX) {
        None => text,
        Some((at, _)) => format!("{} ...", text.get(..at).unwrap_or("")),
    }
}

fn rank(kind: &ValidationErrorKind) -> u8 {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is the validator's and grows"
    )]
    match kind {
        ValidationErrorKind::Type { .. } => 0,
        ValidationErrorKind::Required { .. } => 1,
        ValidationErrorKind::AdditionalProperties { .. } => 3,
        ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::OneOfNotValid { .. } => 4,
        _ => 2,
    }
}

/// The message of Python's validator for the same error.
fn python_text(error: &ValidationError<'_>) -> String {
    let instance = error.instance();
    let shown = || python_repr(instance);
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is the validator's and grows"
    )]
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            format!("{} is a required property", python_repr(property))
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let mut names = unexpected.clone();
            names.sort();
            let quoted: Vec<_> = names.iter().map(|name| python_quote(name)).collect();
            let verb = if names.len() == 1 { "was" } else { "were" };
            format!(
                "Additional properties are not allowed ({} {verb} unexpected)",
                quoted.join(", ")
            )
        }
        ValidationErrorKind::Type { kind } => {
            let names: Vec<_> = match kind {
                TypeKind::Single(name) => vec![python_quote(&name.to_string())],
                TypeKind::Multiple(names) => names
                    .iter()
                    .map(|name| python_quote(&name.to_string()))
                    .collect(),
            };
            format!("{} is not of type {}", shown(), names.join(", "))
        }
        ValidationErrorKind::Enum { options } => {
            format!("{} is not one of {}", shown(), python_repr(options))
        }
        ValidationErrorKind::Constant { expected_value } => {
            format!("{} was expected", python_repr(expected_value))
        }
        ValidationErrorKind::Pattern { pattern } => {
            format!("{} does not match {}", shown(), python_quote(pattern))
        }
        ValidationErrorKind::Format { format } => format!("{} is not a '{format}'", shown()),
        ValidationErrorKind::Minimum { limit } => {
            format!("{} is less than the minimum of {limit}", shown())
        }
        ValidationErrorKind::Maximum { limit } => {
            format!("{} is greater than the maximum of {limit}", shown())
        }
        ValidationErrorKind::ExclusiveMinimum { limit } => {
            format!(
                "{} is less than or equal to the minimum of {limit}",
                shown()
            )
        }
        ValidationErrorKind::ExclusiveMaximum { limit } => {
            format!(
                "{} is greater than or equal to the maximum of {limit}",
                shown()
            )
        }
        ValidationErrorKind::MinLength { .. } | ValidationErrorKind::MinItems { .. } => {
            format!("{} is too short", shown())
        }
        ValidationErrorKind::MaxLength { .. } | ValidationErrorKind::MaxItems { .. } => {
            format!("{} is too long", shown())
        }
        ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::OneOfNotValid { .. } => {
            format!("{} is not valid under any of the given schemas", shown())
        }
        _ => error.to_string(),
    }
}

/// `duration`: weeks to seconds, no months.
#[must_use]
pub fn duration() -> Value {
    json!({
        "type": "string",
        "pattern": r"^P(?:\d+(?:\.\d+)?W)?(?:\d+(?:\.\d+)?D)?(?:T(?:\d+(?:\.\d+)?H)?(?:\d+(?:\.\d+)?M)?(?:\d+(?:\.\d+)?S)?)?$",
        "x-invalid-message": "'%s' is not a valid ISO 8601 duration."
    })
}

/// A host name or address.
#[must_use]
pub fn host() -> Value {
    json!({ "anyOf": [
        {
            "type": "string", "minLength": 1, "maxLength": 255,
            "pattern": r"^[A-Za-z0-9_][A-Za-z0-9\-]{0,62}(\.[A-Za-z0-9][A-Za-z0-9\-]{0,62})*\.?$"
        },
        { "type": "string", "format": "ipv4" },
        { "type": "string", "format": "ipv6" }
    ] })
}

/// A host name or address with an optional port; IPv6 in brackets.
#[must_use]
pub fn url_host_port() -> Value {
    json!({ "anyOf": [
        {
            "type": "string", "maxLength": 262,
            "pattern": r"^(([a-zA-Z0-9_]|[a-zA-Z0-9_][a-zA-Z0-9\-]*[a-zA-Z0-9])\.)*([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9\-]*[A-Za-z0-9])(:[0-9]+)?$"
        },
        {
            "type": "string", "maxLength": 80,
            "pattern": r"^\[[0-9A-Fa-f:.]{2,45}(%[0-9A-Za-z]{1,15})?\](:[0-9]+)?$"
        }
    ] })
}

/// A time, a duration from now, or `@` and a duration; `soonest` as the server itself takes it.
#[must_use]
pub fn start() -> Value {
    time_of(&["soonest"])
}

/// A time or duration, or one of the words for never.
#[must_use]
pub fn until() -> Value {
    time_of(&["forever", "infinity", "doomsday"])
}

fn time_of(words: &[&str]) -> Value {
    json!({ "anyOf": [
        { "type": "string", "pattern": r"^\d{4}(-?\d{2}(-?\d{2})?|-?\d{3}|-?W\d{2}(-?\d)?)([Tt ]\d{2}(:?\d{2}(:?\d{2})?)?([.,]\d+)?([Zz]|[+-]\d{2}(:?\d{2})?)?)?$" },
        duration(),
        { "type": "string", "pattern": r"^@P(?:\d+(?:\.\d+)?W)?(?:\d+(?:\.\d+)?D)?(?:T(?:\d+(?:\.\d+)?H)?(?:\d+(?:\.\d+)?M)?(?:\d+(?:\.\d+)?S)?)?$" },
        { "type": "string", "enum": words }
    ] })
}

/// An integer from 1.
#[must_use]
pub fn cardinal() -> Value {
    json!({ "type": "integer", "minimum": 1 })
}

/// An integer from 0.
#[must_use]
pub fn cardinal_zero() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

/// 4 or 6.
#[must_use]
pub fn ip_version() -> Value {
    json!({ "type": "integer", "enum": [4, 6] })
}

/// The task object of one schema version, save its schedule and archives, which have versions of
/// their own (contract, section 4).
#[must_use]
pub fn task(version: u8) -> Value {
    let mut properties = json!({
        "schema": if version == 1 { json!({ "type": "integer", "enum": [1] }) }
                  else { json!({ "type": "integer", "enum": [version] }) },
        "test": {
            "type": "object",
            "properties": {
                "type": { "type": "string", "maxLength": 128 },
                "spec": {}
            },
            "additionalProperties": false,
            "required": ["type", "spec"]
        },
        "schedule": { "type": "object" },
        "tools": { "type": "array", "items": { "type": "string" }, "maxItems": 256 },
        "tool": { "type": "string" },
        "archives": { "type": "array", "items": { "type": "object" }, "maxItems": 32 },
        "reference": {},
        "lead-bind": host(),
        "_key": { "type": "string", "maxLength": 1024 },
        "participants": { "type": "array", "items": { "type": "string" }, "maxItems": 32 }
    });
    let mut later = |name: &str, since: u8, schema: Value| {
        if version >= since
            && let Some(properties) = properties.as_object_mut()
        {
            properties.insert(name.to_owned(), schema);
        }
    };
    later("contexts", 2, contexts());
    later(
        "priority",
        3,
        json!({ "type": "integer", "minimum": -2_147_483_648_i64, "maximum": 2_147_483_647_i64 }),
    );
    later("debug", 4, json!({ "type": "boolean" }));
    later("keep-after-archive", 5, duration());
    let required = if version == 1 {
        json!(["test"])
    } else {
        json!(["schema", "test"])
    };
    json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "required": required
    })
}

fn contexts() -> Value {
    json!({
        "type": "object",
        "properties": {
            "schema": { "type": "integer", "enum": [1] },
            "contexts": {
                "type": "array",
                "items": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": { "context": { "type": "string" }, "data": {} },
                        "additionalProperties": false,
                        "required": ["context", "data"]
                    }
                }
            }
        },
        "additionalProperties": false,
        "required": ["contexts"]
    })
}

/// The schedule object of one schema version.
#[must_use]
pub fn schedule(version: u8) -> Value {
    let mut properties = json!({
        "schema": { "type": "integer", "enum": [version] },
        "start": start(),
        "slip": duration(),
        "sliprand": { "type": "boolean" },
        "repeat": duration(),
        "until": until(),
        "max-runs": cardinal()
    });
    if version >= 2
        && let Some(properties) = properties.as_object_mut()
    {
        let cron = json!({
            "type": "string",
            "maxLength": 1024,
            "pattern": r"^[0-9*,\-]+(\s+[0-9*,\-]+){4}$",
            "x-invalid-message": "'%s' is not a valid cron specification."
        });
        properties.insert("repeat-cron".to_owned(), cron);
    }
    let required = if version >= 2 {
        json!(["schema"])
    } else {
        json!([])
    };
    json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "required": required
    })
}

/// The archive object of one schema version (contract, section 11).
#[must_use]
pub fn archive(version: u8) -> Value {
    let mut properties = json!({
        "schema": { "type": "integer", "enum": [version] },
        "archiver": { "type": "string" },
        "data": {},
        "transform": {
            "type": "object",
            "properties": {
                "script": { "anyOf": [
                    { "type": "string" },
                    { "type": "array", "items": { "type": "string" } }
                ] },
                "output-raw": { "type": "boolean" },
                "args": {}
            },
            "additionalProperties": false,
            "required": ["script"]
        },
        "ttl": duration()
    });
    if let Some(properties) = properties.as_object_mut() {
        if version >= 2 {
            properties.insert(
                "runs".to_owned(),
                json!({ "type": "string", "enum": ["all", "succeeded", "failed"] }),
            );
            properties.insert("uri-host".to_owned(), url_host_port());
        }
        if version >= 3 {
            properties.insert("label".to_owned(), json!({ "type": "string" }));
        }
    }
    let required = if version == 1 {
        json!(["archiver", "data"])
    } else {
        json!(["schema", "archiver", "data"])
    };
    json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "required": required
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_compiles() {
        let fits = |schema: Value, instance: Value| {
            assert_eq!(Schema::new(schema).check(&instance), Ok(()), "{instance}");
        };
        fits(task(1), json!({"test": {"type": "idle", "spec": {}}}));
        for version in 2..=5 {
            fits(
                task(version),
                json!({"schema": version, "test": {"type": "x", "spec": 1}}),
            );
        }
        fits(
            schedule(1),
            json!({"start": "@PT1H", "until": "forever", "slip": "PT5M"}),
        );
        fits(
            schedule(2),
            json!({"schema": 2, "repeat-cron": "*/5 * * * *".replace("*/5", "0,30")}),
        );
        for version in 1..=3 {
            fits(
                archive(version),
                json!({"schema": version, "archiver": "http", "data": {}}),
            );
        }
        fits(url_host_port(), json!("[fe80::1]:8443"));
    }

    #[test]
    fn texts_are_those_of_the_original() {
        let spec = || {
            Schema::new(json!({
                "type": "object",
                "properties": {
                    "count": cardinal(), "duration": duration(), "dest": host(), "ip-version": ip_version(),
                    "tos": {"type": "integer", "minimum": 0, "maximum": 255},
                    "list": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                    "fail": {"type": "number"}, "_secret": {"type": "string"}
                },
                "additionalProperties": false,
                "required": ["dest"]
            }))
        };
        for (instance, want) in [
            (json!({"bad": 1}), "At /: 'dest' is a required property"),
            (
                json!({"dest": "b", "foo": 1}),
                "At /: Additional properties are not allowed ('foo' was unexpected)",
            ),
            (
                json!({"dest": "b", "foo": 1, "bar": 1}),
                "At /: Additional properties are not allowed ('bar', 'foo' were unexpected)",
            ),
            (
                json!({"dest": "b", "count": -1}),
                "At /count: -1 is less than the minimum of 1",
            ),
            (
                json!({"dest": "b", "tos": 300}),
                "At /tos: 300 is greater than the maximum of 255",
            ),
            (
                json!({"dest": "b", "count": "5"}),
                "At /count: '5' is not of type 'integer'",
            ),
            (
                json!({"dest": "b", "duration": "xx"}),
                "At /duration: 'xx' is not a valid ISO 8601 duration.",
            ),
            (
                json!({"dest": "b", "duration": 5}),
                "At /duration: 5 is not of type 'string'",
            ),
            (
                json!({"dest": "b", "ip-version": 5}),
                "At /ip-version: 5 is not one of [4, 6]",
            ),
            (
                json!({"dest": "-rf"}),
                "At /dest: '-rf' is not valid under any of the given schemas",
            ),
            (
                json!({"dest": "b", "list": []}),
                "At /list: [] is too short",
            ),
            (
                json!({"dest": "b", "list": [""]}),
                "At /list/0: '' is too short",
            ),
            (json!([]), "At /: [] is not of type 'object'"),
            (
                json!({"dest": "b", "_secret": 5}),
                "At /_secret: The value is not valid.",
            ),
            (
                json!({"dest": {"_secret": "s3cret"}}),
                "At /dest: {'_secret': None} is not valid under any of the given schemas",
            ),
        ] {
            let said = spec().check(&instance).map_err(|misfit| misfit.to_string());
            assert_eq!(said, Err(want.to_owned()), "{instance}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        let schema = Schema::new(host());
        for good in [
            "b",
            "ps1.example.net",
            "ps1.example.net.",
            "10.0.0.1",
            "fe80::1",
            "_x.y",
        ] {
            assert_eq!(schema.check(&json!(good)), Ok(()), "{good}");
        }
        for bad in ["", "-x", "a b", "a;b", "http://x", "a..b", "x\n", "\u{e9}"] {
            assert!(schema.check(&json!(bad)).is_err(), "{bad}");
        }
    }
}
