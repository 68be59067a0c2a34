//! `handshake`: what the two ends say of themselves.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::super::json::Json;
use super::super::wire::Limits;
use super::{BadParams, missing};

const INVALID_ID: BadParams = BadParams::Invalid {
    name: "id",
    want: "a non-empty string",
};

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
    pub(super) fn read(params: &Json, limits: &Limits) -> Result<Self, BadParams> {
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

/// A name a peer gives itself: printable, not empty, cut to the limit.
pub(super) fn name(text: &str, limits: &Limits) -> Option<String> {
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
