//! `zabbix://` URLs: who the server is, and what this end is to it.

use std::fmt;
use std::str::FromStr;

use muster_net::dial::Endpoint;

/// What this end is to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Collects on its own machine.
    Agent,
    /// Polls the agents of other machines.
    #[default]
    Proxy,
}

/// Who opens the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// This end does.
    #[default]
    Active,
    /// The server does.
    Passive,
}

/// `zabbix://HOST[:PORT]?role=proxy|agent&mode=active|passive&name=N`.
///
/// HOST is the server. In active mode PORT is where it listens. In passive mode it has no port that
/// matters: PORT is where this end listens, on loopback when the server is there, else on every
/// address, and only connections from HOST are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// The server, and the port as above; when the URL names none it is the port of servers and
    /// proxies, of a passive agent the port of agents.
    pub endpoint: Endpoint,
    /// What this end is to it.
    pub role: Role,
    /// Who opens the connections.
    pub mode: Mode,
    /// The name to go by; the machine's when `None`.
    pub name: Option<String>,
}

/// Where servers and proxies listen.
const SERVER_PORT: u16 = 10_051;
/// Where agents listen.
const AGENT_PORT: u16 = 10_050;

/// Why a text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Not a URL of this wire.
    #[error("`{0}` is not zabbix://HOST[:PORT]?role=proxy|agent&mode=active|passive&name=N")]
    Form(String),
    /// Something in the query is unknown.
    #[error("`{0}` is not known in a zabbix:// URL; it takes role, mode and name")]
    Key(String),
}

impl FromStr for ServerUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl::Form(text.chars().take(200).collect());
        let rest = text.strip_prefix("zabbix://").ok_or_else(bad)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut role, mut mode, mut name) = (Role::default(), Mode::default(), None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("role", "agent") => role = Role::Agent,
                ("role", "proxy") => role = Role::Proxy,
                ("mode", "active") => mode = Mode::Active,
                ("mode", "passive") => mode = Mode::Passive,
                ("name", text) if !text.is_empty() => {
                    name = Some(text.replace('+', " ").replace("%20", " "));
                }
                _ => return Err(BadUrl::Key(pair.chars().take(64).collect())),
            }
        }
        let port = match (role, mode) {
            (Role::Agent, Mode::Passive) => AGENT_PORT,
            (Role::Agent, Mode::Active) | (Role::Proxy, _) => SERVER_PORT,
        };
        let place = place.trim_end_matches('/');
        let endpoint = match place.parse() {
            Ok(endpoint) => endpoint,
            Err(_) => format!("{place}:{port}").parse().map_err(|_| bad())?,
        };
        Ok(Self {
            endpoint,
            role,
            mode,
            name,
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Agent => "agent",
            Role::Proxy => "proxy",
        };
        write!(f, "zabbix://{}?role={role}", self.endpoint)?;
        if self.mode == Mode::Passive {
            f.write_str("&mode=passive")?;
        }
        match &self.name {
            Some(name) => write!(f, "&name={}", name.replace(' ', "+")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let good = [
            ("zabbix://127.0.0.1", "zabbix://127.0.0.1:10051?role=proxy"),
            ("zabbix://srv:20051/", "zabbix://srv:20051?role=proxy"),
            (
                "zabbix://srv?mode=passive",
                "zabbix://srv:10051?role=proxy&mode=passive",
            ),
            (
                "zabbix://srv?mode=passive&role=agent&name=n",
                "zabbix://srv:10050?role=agent&mode=passive&name=n",
            ),
            (
                "zabbix://[::1]:1?role=agent&mode=active&name=my+host",
                "zabbix://[::1]:1?role=agent&name=my+host",
            ),
        ];
        for (text, wanted) in good {
            assert_eq!(text.parse::<ServerUrl>().unwrap().to_string(), wanted);
        }
        let bad = [
            ("teeth://x", "is not zabbix://"),
            ("zabbix://", "is not zabbix://"),
            ("zabbix://a b", "is not zabbix://"),
            ("zabbix://x?role=server", "`role=server` is not known"),
            ("zabbix://x?mode=both", "`mode=both` is not known"),
            ("zabbix://x?psk=1", "`psk=1` is not known"),
        ];
        for (text, why) in bad {
            let error = text.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
