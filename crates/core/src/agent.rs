//! Agents: the counterparts that do work, and what they said they can do.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;

use crate::id::{AgentId, HostId};
use crate::kind::Kind;

/// The four wires an agent can be heard on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wire {
    /// FusionInventory task protocol and its relatives, over HTTP.
    Fusion,
    /// JSON lines over TCP or TLS.
    Teeth,
    /// pScheduler REST.
    Pscheduler,
    /// Zabbix server-proxy protocol.
    Zabbix,
}

impl Wire {
    /// All of them, in the order of the surface page.
    pub const ALL: [Self; 4] = [Self::Fusion, Self::Teeth, Self::Pscheduler, Self::Zabbix];

    /// The word used in JSON, in the database and on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fusion => "fusion",
            Self::Teeth => "teeth",
            Self::Pscheduler => "pscheduler",
            Self::Zabbix => "zabbix",
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A word that is none of those a type knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a {what}; expected one of {expected}")]
pub struct UnknownWord {
    /// What kind of word was expected.
    pub what: &'static str,
    /// What was found, cut to 64 characters.
    pub found: String,
    /// The words that would have done, comma separated.
    pub expected: String,
}

impl UnknownWord {
    /// Builds the error for `found` among `expected`.
    pub fn new(what: &'static str, found: &str, expected: &[&str]) -> Self {
        Self {
            what,
            found: found.chars().take(64).collect(),
            expected: expected.join(", "),
        }
    }
}

impl FromStr for Wire {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|wire| wire.word() == text)
            .ok_or_else(|| UnknownWord::new("wire", text, &Self::ALL.map(Self::word)))
    }
}

/// Whether an agent may get work and have its word count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// Known, waiting for a person or a key. Gives and gets nothing.
    Pending,
    /// May work.
    Approved,
    /// A person took its approval away.
    Disabled,
}

impl AgentState {
    /// The word used in JSON and in the database.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Disabled => "disabled",
        }
    }
}

impl FromStr for AgentState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "pending" => Ok(Self::Pending),
            "approved" => Ok(Self::Approved),
            "disabled" => Ok(Self::Disabled),
            other => Err(UnknownWord::new(
                "agent state",
                other,
                &["pending", "approved", "disabled"],
            )),
        }
    }
}

/// A kind of work an agent can do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    /// The kind.
    pub kind: Kind,
    /// The version of the agent's module for it, as the agent said it.
    pub version: String,
    /// The agent never said so; it is believed until it has done one or let one lapse.
    pub assumed: bool,
}

/// A counterpart that does work.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Our id.
    pub id: AgentId,
    /// The name a person uses; unique.
    pub name: String,
    /// The wire of the last contact.
    pub wire: Wire,
    /// Every wire it was heard on, sorted.
    pub wires: Vec<Wire>,
    /// The program, as it said: `fusioninventory-agent`, `zabbix_proxy`, `muster`.
    pub software: String,
    /// Its version, as it said.
    pub version: String,
    /// Whether it may work.
    pub state: AgentState,
    /// What it can do, sorted by kind.
    pub capabilities: Vec<Capability>,
    /// Where it last spoke from.
    pub address: Option<IpAddr>,
    /// First contact.
    pub first_seen: Timestamp,
    /// Last contact.
    pub last_seen: Timestamp,
    /// Until when silence is no news: the next contact it was told, plus grace.
    pub expected_by: Timestamp,
    /// The host it runs on, once known.
    pub host: Option<HostId>,
}

impl Agent {
    /// Whether it is neither overdue nor gone.
    pub fn is_online(&self, now: Timestamp) -> bool {
        now <= self.expected_by
    }

    /// Whether it said, or is assumed, to do this kind of work.
    pub fn can(&self, kind: &Kind) -> bool {
        self.capabilities
            .iter()
            .any(|capability| capability.kind == *kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for wire in Wire::ALL {
            assert_eq!(wire.word().parse(), Ok(wire));
        }
        for state in [
            AgentState::Pending,
            AgentState::Approved,
            AgentState::Disabled,
        ] {
            assert_eq!(state.word().parse(), Ok(state));
        }
        assert!(
            "http"
                .parse::<Wire>()
                .expect_err("unknown")
                .to_string()
                .contains("fusion, teeth")
        );
    }
}
