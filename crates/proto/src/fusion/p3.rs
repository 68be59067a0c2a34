//! P3: the JSON that GLPI agents POST, and what they are answered.
//!
//! FusionInventory contract, section 4. Served here: the first PROLOG that carries an agent id,
//! `contact` and the inventory of the sender. Other actions are refused as GLPI refuses them (501).

use serde_json::{Map, Value, json};

use super::inventory::Inventory;
use super::json::{self, Fields, JsonError};
use super::wire::{BadName, Limits, PeerName, short};

/// A message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Who speaks (`deviceid`).
    pub device: PeerName,
    /// What it says.
    pub content: Content,
}

/// What a message says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// I am here, and this is what I can do.
    Contact(Contact),
    /// An inventory.
    Inventory(Inventory),
    /// An action that is not served, by name.
    Other(String),
}

/// Members of a message that are read.
const KEYS: [&str; 10] = [
    "action",
    "content",
    "deviceid",
    "enabled-tasks",
    "installed-tasks",
    "itemtype",
    "name",
    "partial",
    "tag",
    "version",
];

/// The `contact` message. The HTTP server's plugins are not read: they may hold its secret token.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Contact {
    /// Name of the software.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Tasks it has.
    pub installed: Vec<String>,
    /// Tasks it may run.
    pub enabled: Vec<String>,
    /// The operator's tag.
    pub tag: Option<String>,
}

/// Why a message is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// No deviceid, or one outside the grammar.
    #[error("deviceid is missing or {0}")]
    DeviceId(BadName),
    /// The JSON itself.
    #[error("JSON does not validate. {0}")]
    Json(#[from] JsonError),
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, MessageError> {
        let document = Fields::some(json::check(bytes, limits)?, "", &KEYS)?;
        let device = PeerName::parse(&document.text("deviceid")?.unwrap_or_default())
            .map_err(MessageError::DeviceId)?;
        let action = document
            .text("action")?
            .unwrap_or_else(|| "inventory".to_owned());
        let content = match action.trim().to_ascii_lowercase().as_str() {
            "contact" => Content::Contact(Contact {
                name: document.text("name")?.map(|t| short(&t)),
                version: document.text("version")?.map(|t| short(&t)),
                installed: task_names(&document, "installed-tasks")?,
                enabled: task_names(&document, "enabled-tasks")?,
                tag: document.text("tag")?.map(|t| short(&t)),
            }),
            "inventory" => {
                let itemtype = document
                    .text("itemtype")?
                    .unwrap_or_else(|| "Computer".to_owned());
                if !itemtype.eq_ignore_ascii_case("computer") {
                    return Ok(Self {
                        device,
                        content: Content::Other(short(&format!("inventory of {itemtype}"))),
                    });
                }
                let content = document
                    .raw("content")
                    .ok_or_else(|| document.wrong("content", "an object"))?;
                Fields::some(content, "content", &["versionclient"])?
                    .required_text("versionclient")?;
                Content::Inventory(Inventory {
                    content: content.to_owned(),
                    partial: document.boolean("partial")?.unwrap_or(false),
                    tag: document.text("tag")?.map(|t| short(&t)),
                })
            }
            other => Content::Other(short(other)),
        };
        Ok(Self { device, content })
    }

    /// Writes a message.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = Map::new();
        out.insert("deviceid".to_owned(), self.device.as_str().into());
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(key.to_owned(), value);
            }
        };
        match &self.content {
            Content::Contact(contact) => {
                put("action", Some("contact".into()));
                put("name", contact.name.clone().map(Value::from));
                put("version", contact.version.clone().map(Value::from));
                put("installed-tasks", Some(contact.installed.clone().into()));
                put("enabled-tasks", Some(contact.enabled.clone().into()));
                put("tag", contact.tag.clone().map(Value::from));
            }
            Content::Inventory(inventory) => {
                put("action", Some("inventory".into()));
                put("itemtype", Some("Computer".into()));
                put("content", serde_json::from_str(&inventory.content).ok());
                put("partial", inventory.partial.then(|| true.into()));
                put("tag", inventory.tag.clone().map(Value::from));
            }
            Content::Other(action) => put("action", Some(action.clone().into())),
        }
        Value::from(out).to_string()
    }
}

fn task_names(document: &Fields<'_>, key: &str) -> Result<Vec<String>, JsonError> {
    let mut words = document.words(key)?;
    words.truncate(64);
    Ok(words
        .iter()
        .map(|w| short(w).to_ascii_lowercase())
        .filter(|w| !w.is_empty())
        .collect())
}

/// How long an answer holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expiration {
    /// Zero: only with `pending` to a PROLOG, "use contact, now".
    Now,
    /// So many seconds, at least one.
    Seconds(u64),
}

impl Expiration {
    /// As written: hours as a number, else seconds or minutes with their letter.
    fn to_json(self) -> Value {
        match self {
            Self::Now => 0.into(),
            Self::Seconds(s) if s > 0 && s.is_multiple_of(3600) => (s / 3600).into(),
            Self::Seconds(s) if s > 0 && s.is_multiple_of(60) => format!("{}m", s / 60).into(),
            Self::Seconds(s) => format!("{}s", s.max(1)).into(),
        }
    }

    /// Reads `24` (hours), `30s`, `10m`, `6h`, `2d`; nothing else is valid.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, unit) = match text.as_bytes().last()? {
            b's' => (text.strip_suffix('s')?, 1),
            b'm' => (text.strip_suffix('m')?, 60),
            b'h' => (text.strip_suffix('h')?, 3600),
            b'd' => (text.strip_suffix('d')?, 86_400),
            _ => (text, 3600),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        match digits.parse::<u64>().ok()?.checked_mul(unit)? {
            0 => Some(Self::Now),
            seconds => Some(Self::Seconds(seconds)),
        }
    }
}

/// What a GLPI agent is answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Something is wrong.
    Error {
        /// What, shown in the agent's log.
        message: String,
    },
    /// Taken; for a contact or PROLOG with the plan.
    Ok(Option<Plan>),
    /// Come again later.
    Pending(Expiration),
}

/// What an agent should do until it comes again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// When to come again.
    pub expiration: Expiration,
    /// Tasks that run over P3 (`glpi`).
    pub native: Vec<String>,
    /// Tasks that run over P2 (`glpiinventory`): a PROLOG without agent id follows.
    pub legacy: Vec<String>,
    /// Tasks not to run.
    pub disabled: Vec<String>,
    /// For the agent's log.
    pub message: Option<String>,
    /// Version of the server.
    pub version: String,
}

impl Answer {
    /// Writes the answer.
    #[must_use]
    pub fn to_json(&self) -> String {
        match self {
            Self::Error { message } => json!({"status": "error", "message": message}),
            Self::Ok(None) => json!({"status": "ok"}),
            Self::Pending(expiration) => {
                json!({"status": "pending", "expiration": expiration.to_json()})
            }
            Self::Ok(Some(plan)) => {
                let mut tasks = Map::new();
                for (names, server) in [(&plan.native, "glpi"), (&plan.legacy, "glpiinventory")] {
                    for name in names {
                        tasks.insert(
                            name.clone(),
                            json!({"server": server, "version": plan.version}),
                        );
                    }
                }
                let mut out = Map::new();
                out.insert("status".to_owned(), "ok".into());
                out.insert("expiration".to_owned(), plan.expiration.to_json());
                out.insert("tasks".to_owned(), tasks.into());
                if !plan.disabled.is_empty() {
                    out.insert("disabled".to_owned(), plan.disabled.clone().into());
                }
                if let Some(message) = &plan.message {
                    out.insert("message".to_owned(), message.clone().into());
                }
                out.into()
            }
        }
        .to_string()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`JsonError`], also for an `expiration` that is not one: agents then reject the whole
    /// answer (4.2).
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, JsonError> {
        let document = Fields::of(json::check(bytes, limits)?, "")?;
        let expiration = match document.text("expiration")? {
            None => None,
            Some(text) => Some(
                Expiration::parse(&text)
                    .ok_or_else(|| document.wrong("expiration", "24, 30s, 10m, 6h or 2d"))?,
            ),
        };
        match document.required_text("status")?.as_str() {
            "error" => Ok(Self::Error {
                message: short(&document.text("message")?.unwrap_or_default()),
            }),
            "pending" => expiration
                .map(Self::Pending)
                .ok_or_else(|| document.wrong("expiration", "24, 30s, 10m, 6h or 2d")),
            "ok" => {
                let (Some(expiration), tasks) = (expiration, document.object("tasks")?) else {
                    return Ok(Self::Ok(None));
                };
                let mut plan = Plan {
                    expiration,
                    native: Vec::new(),
                    legacy: Vec::new(),
                    disabled: document.words("disabled")?,
                    message: document.text("message")?.map(|t| short(&t)),
                    version: String::new(),
                };
                if let Some(tasks) = tasks {
                    for (name, text) in tasks.iter() {
                        let task = Fields::of(text, tasks.path(name))?;
                        if let Some(version) = task.text("version")? {
                            plan.version = version;
                        }
                        match task.text("server")?.as_deref() {
                            Some("glpiinventory") => plan.legacy.push(name.to_owned()),
                            Some(_) | None => plan.native.push(name.to_owned()),
                        }
                    }
                }
                Ok(Self::Ok(Some(plan)))
            }
            _ => Err(document.wrong("status", "ok, pending or error")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations() {
        for (text, want) in [
            ("24", Some(Expiration::Seconds(86_400))),
            ("30s", Some(Expiration::Seconds(30))),
            ("10m", Some(Expiration::Seconds(600))),
            ("6h", Some(Expiration::Seconds(21_600))),
            ("2d", Some(Expiration::Seconds(172_800))),
            ("0", Some(Expiration::Now)),
            ("24 h", None),
            ("-1", None),
            ("", None),
            ("h", None),
            ("99999999999999999999", None),
            ("9999999999999999999d", None),
        ] {
            assert_eq!(Expiration::parse(text), want, "{text}");
        }
        let written: Vec<String> = [
            Expiration::Now,
            Expiration::Seconds(86_400),
            Expiration::Seconds(600),
            Expiration::Seconds(10),
            Expiration::Seconds(0),
        ]
        .iter()
        .map(|e| e.to_json().to_string())
        .collect();
        assert_eq!(written, ["0", "24", "\"10m\"", "\"10s\"", "\"1s\""]);
    }

    #[test]
    fn messages_that_are_refused() {
        let limits = Limits::default();
        for (text, what) in [
            ("[]", "document: an object wanted"),
            ("{\"action\":\"contact\"}", "deviceid"),
            ("{\"deviceid\":\"a/b\"}", "deviceid"),
            ("{\"deviceid\":\"a\"}", "content: an object wanted"),
            (
                "{\"deviceid\":\"a\",\"content\":{}}",
                "content.versionclient",
            ),
            ("{\"deviceid\":\"a\",\"content\":[]}", "content"),
            ("nonsense", "not JSON"),
        ] {
            let error = Message::parse(text.as_bytes(), &limits)
                .unwrap_err()
                .to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
        for action in ["get_params", "netdiscovery", "register"] {
            let text = format!("{{\"deviceid\":\"a\",\"action\":\"{action}\"}}");
            let message = Message::parse(text.as_bytes(), &limits).unwrap();
            assert_eq!(message.content, Content::Other(action.to_owned()));
        }
    }

    #[test]
    fn the_secret_of_the_agents_server_is_not_kept() {
        let text = r#"{"action":"contact","deviceid":"a","httpd-plugins":{"inventory":{"token":"canary"}}}"#;
        let message = Message::parse(text.as_bytes(), &Limits::default()).unwrap();
        assert!(!format!("{message:?}").contains("canary"));
    }

    #[test]
    fn answers_come_back_as_sent() {
        let plan = Plan {
            expiration: Expiration::Seconds(10),
            native: vec!["inventory".to_owned()],
            legacy: vec!["netdiscovery".to_owned()],
            disabled: vec!["deploy".to_owned()],
            message: Some("hello".to_owned()),
            version: "0.1.0".to_owned(),
        };
        for answer in [
            Answer::Ok(None),
            Answer::Ok(Some(plan)),
            Answer::Pending(Expiration::Now),
            Answer::Pending(Expiration::Seconds(600)),
            Answer::Error {
                message: "no".to_owned(),
            },
        ] {
            let text = answer.to_json();
            assert_eq!(
                Answer::parse(text.as_bytes(), &Limits::default()).unwrap(),
                answer,
                "{text}"
            );
        }
        for bad in [
            r#"{"status":"odd"}"#,
            r#"{"status":"pending"}"#,
            r#"{"status":"ok","expiration":"24 h"}"#,
            "[]",
        ] {
            assert!(
                Answer::parse(bad.as_bytes(), &Limits::default()).is_err(),
                "{bad}"
            );
        }
    }
}
