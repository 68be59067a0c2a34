//! Agents: the counterparts that do work, and what they said they can do.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::id::{AgentId, HostId};
use crate::kind::Kind;
use crate::words;

words! {
    /// The four wires an agent can be heard on.
    pub enum Wire("wire") {
        /// FusionInventory task protocol and its relatives, over HTTP.
        Fusion = "fusion",
        /// JSON lines over TCP or TLS.
        Teeth = "teeth",
        /// pScheduler REST.
        Pscheduler = "pscheduler",
        /// Zabbix server-proxy protocol.
        Zabbix = "zabbix",
    }
}

words! {
    /// Whether an agent may get work and have its word count.
    pub enum AgentState("agent state") {
        /// Known, waiting for a person or a key. Gives and gets nothing.
        Pending = "pending",
        /// May work.
        Approved = "approved",
        /// A person took its approval away.
        Disabled = "disabled",
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
