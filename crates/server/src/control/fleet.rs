//! Hosts: what agents tell of machines, and what people declare to be monitored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::{SignedDuration, Timestamp};
use muster_core::agent::{Agent, AgentState, Wire};
use muster_core::host::{Evidence, Host, HostFacts, Source, SourceKind};
use muster_core::range::is_host_name;
use muster_core::sample::{Item, ItemType, Monitoring, ValueType};
use muster_core::{AgentId, HostId, ItemId};
use muster_store::{StoreError, Tx, agents, hosts};
use rand_chacha::ChaCha20Rng;

use super::error::{ControlError, Result, Trouble};
use super::{Control, lookup};

/// The first number given to a host or an item, above what a fresh Zabbix uses itself.
const FIRST_NUMBER: u64 = 10_001;
/// Counts what proxies should know.
pub(super) const REVISION: &str = "monitoring.revision";
/// The port of a Zabbix agent.
pub const ZABBIX_AGENT_PORT: u16 = 10_050;

/// What an agent tells of a machine.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Over which wire.
    pub wire: Wire,
    /// Which agent tells it.
    pub agent: AgentId,
    /// What kind of telling.
    pub what: SourceKind,
    /// The facts, as they came.
    pub facts: HostFacts,
    /// The whole inventory, JSON text, where there is one.
    pub inventory: Option<String>,
    /// Whether it is the machine the agent itself runs on.
    pub own: bool,
}

/// A host that a person declares to be monitored.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// The proxy that is to monitor it, by name or id; `None`: this server.
    pub proxy: Option<String>,
    /// Where its Zabbix agent listens; the name when `None`.
    pub address: Option<String>,
    /// The port there.
    pub port: Option<u16>,
}

/// An item that a person declares.
#[derive(Clone, Debug)]
pub struct NewItem {
    /// Its host, by name or id.
    pub host: String,
    /// What is sampled.
    pub key: String,
    /// How.
    pub item_type: ItemType,
    /// What its values are.
    pub value_type: ValueType,
    /// How often.
    pub delay: Option<SignedDuration>,
    /// For people.
    pub unit: String,
    /// For people; the key when `None`.
    pub name: Option<String>,
}

impl Control {
    /// Joins what an agent tells of a machine into its one record, making one if there is none.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn observe(&self, observation: Observation) -> Result<HostId> {
        let now = self.now();
        let rng = self.rng();
        let id = self
            .inner
            .store
            .write(move |tx| {
                let id = join(tx, &observation, now, &mut rng.clone())?;
                if observation.own {
                    agents::set_host(tx, observation.agent, id)?;
                }
                Ok(id)
            })
            .await?;
        Ok(id)
    }

    /// Declares a host to be monitored; a machine already known by that name becomes it.
    ///
    /// # Errors
    /// Invalid names; a conflict when a host of that name is monitored already; a proxy that is
    /// unknown or not approved.
    pub async fn declare_host(&self, declared: Declared) -> Result<Host> {
        let name = declared.name.trim().to_owned();
        if !is_monitored_name(&name) {
            return Err(ControlError::invalid(
                "BAD_HOST_NAME",
                format!(
                    "{:?} cannot be the name of a host",
                    name.chars().take(128).collect::<String>()
                ),
            )
            .because("a name has 1 to 128 characters of A-Z, a-z, 0-9, space, '.', '_' and '-'"));
        }
        let address = declared.address.clone().unwrap_or_else(|| name.clone());
        if address.parse::<IpAddr>().is_err() && !is_host_name(&address) {
            return Err(ControlError::invalid(
                "BAD_ADDRESS",
                format!(
                    "{:?} is neither an address nor a host name",
                    address.chars().take(128).collect::<String>()
                ),
            )
            .next("give the address of its Zabbix agent with --address"));
        }
        let port = declared.port.unwrap_or(ZABBIX_AGENT_PORT);
        if port == 0 {
            return Err(ControlError::invalid(
                "BAD_PORT",
                "port 0 is not a port a Zabbix agent can listen on",
            ));
        }
        let proxy = match &declared.proxy {
            Some(proxy) => Some(self.find_proxy(proxy).await?),
            None => None,
        };
        let now = self.now();
        let rng = self.rng();
        let host = self
            .inner
            .store
            .write(move |tx| {
                if let Some(host) = hosts::by_name(tx, &name)?
                    && host.monitoring.is_some()
                {
                    return Ok(Err(ControlError::new(
                        Trouble::Conflict,
                        "HOST_EXISTS",
                        format!("host {name:?} is monitored already"),
                    )
                    .next(format!("`muster host show {name}` shows it"))));
                }
                let mut facts = HostFacts {
                    name: Some(name.clone()),
                    ..HostFacts::default()
                };
                if let Ok(address) = address.parse::<IpAddr>() {
                    facts.addresses.insert(address);
                }
                let source = Source {
                    wire: None,
                    agent: None,
                    what: SourceKind::Monitoring,
                    at: now,
                    facts: facts.normalised(),
                };
                let id = join_source(tx, source, &name, now, &mut rng.clone())?;
                let Some(mut host) = hosts::by_id(tx, id)? else {
                    return Err(StoreError::Conflict {
                        what: format!("host {id}"),
                    });
                };
                let number = hosts::next_number(tx, "host.number", FIRST_NUMBER)?;
                host.facts.name = Some(name.clone());
                host.monitoring = Some(Monitoring {
                    number,
                    proxy,
                    address: address.clone(),
                    port,
                });
                hosts::put(tx, &host)?;
                hosts::next_number(tx, REVISION, 1)?;
                Ok(Ok(host))
            })
            .await??;
        self.items_changed().await?;
        Ok(host)
    }

    async fn find_proxy(&self, name: &str) -> Result<AgentId> {
        let view = self.find_agent(name).await?;
        if view.agent.state != AgentState::Approved {
            return Err(ControlError::new(
                Trouble::Refused,
                "AGENT_NOT_APPROVED",
                format!("agent {:?} cannot be given hosts", view.agent.name),
            )
            .because(format!("it is {}", view.agent.state.word()))
            .next(format!("muster agent approve {}", view.agent.name)));
        }
        if !view.agent.wires.contains(&Wire::Zabbix) {
            return Err(ControlError::new(
                Trouble::Refused,
                "AGENT_IS_NO_PROXY",
                format!("agent {:?} cannot monitor hosts", view.agent.name),
            )
            .because(format!(
                "it was never heard on the Zabbix wire; it can do: {}",
                lookup::kinds_of(&view.agent)
            ))
            .next("name a Zabbix proxy; `muster agent list` shows the agents and their wires"));
        }
        Ok(view.agent.id)
    }

    /// Declares an item of a monitored host.
    ///
    /// # Errors
    /// Unknown host; a host that is not monitored; a key that cannot be, or is there already.
    pub async fn declare_item(&self, new: NewItem) -> Result<Item> {
        let key = new.key.trim().to_owned();
        if key.is_empty() || key.chars().count() > 2048 || key.chars().any(char::is_control) {
            return Err(ControlError::invalid(
                "BAD_ITEM_KEY",
                "an item key has 1 to 2048 printable characters",
            ));
        }
        let polled = !matches!(new.item_type, ItemType::Trapper | ItemType::Dependent);
        if polled && new.delay.is_none() {
            return Err(ControlError::invalid(
                "ITEM_NEEDS_DELAY",
                format!(
                    "item {key:?} of type {} needs a delay",
                    new.item_type.word()
                ),
            )
            .next("say how often it is sampled: --delay 30s"));
        }
        let host = self.find_host(&new.host).await?;
        if host.monitoring.is_none() {
            return Err(ControlError::new(
                Trouble::Conflict,
                "HOST_NOT_MONITORED",
                format!("host {:?} is not monitored", new.host),
            )
            .next(format!("declare it: muster host create {}", new.host)));
        }
        let now = self.now();
        let id = ItemId::mint(&mut self.rng());
        let host_id = host.id;
        let item = self
            .inner
            .store
            .write(move |tx| {
                if hosts::item_by_key(tx, host_id, &key)?.is_some() {
                    return Ok(Err(ControlError::new(
                        Trouble::Conflict,
                        "ITEM_EXISTS",
                        format!("host {:?} has an item with key {key:?} already", new.host),
                    )));
                }
                let item = Item {
                    id,
                    number: hosts::next_number(tx, "item.number", FIRST_NUMBER)?,
                    host: host_id,
                    name: new.name.clone().unwrap_or_else(|| key.clone()),
                    key: key.clone(),
                    item_type: new.item_type,
                    value_type: new.value_type,
                    unit: new.unit.clone(),
                    delay: new.delay,
                    allowed: Vec::new(),
                };
                hosts::insert_item(tx, &item, now)?;
                hosts::next_number(tx, REVISION, 1)?;
                Ok(Ok(item))
            })
            .await??;
        self.items_changed().await?;
        Ok(item)
    }
}

/// Names the Zabbix wire allows (Zabbix contract, section 1.2).
fn is_monitored_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'.' | b'_' | b'-'))
}

fn join(
    tx: &mut Tx<'_>,
    observation: &Observation,
    now: Timestamp,
    rng: &mut ChaCha20Rng,
) -> Result<HostId, StoreError> {
    let mut facts = observation.facts.clone().normalised();
    let teller = agents::by_id(tx, observation.agent)?.map(|enrolled| enrolled.agent);
    if facts.is_anonymous()
        && let Some(address) = facts.addresses.first().copied()
    {
        // A loopback address is the machine of the agent that saw it; elsewhere the address is all
        // the name there is.
        let own = teller.as_ref().and_then(|agent| agent.host);
        match own.filter(|_| address.is_loopback()) {
            Some(host) => {
                let source = Source {
                    wire: Some(observation.wire),
                    agent: Some(observation.agent),
                    what: observation.what,
                    at: now,
                    facts,
                };
                hosts::put_source(tx, host, &source)?;
                return Ok(host);
            }
            None if address.is_loopback() => {
                facts.name = Some(loopback_name(address, teller.as_ref(), observation.agent));
            }
            None => facts.name = Some(address.to_string()),
        }
    }
    let wanted = match (
        &facts.name,
        facts.serial.as_ref(),
        facts.macs.first(),
        facts.addresses.first(),
    ) {
        (Some(name), ..) => name.clone(),
        (None, Some(serial), ..) => serial.clone(),
        (None, None, Some(mac), _) => mac.clone(),
        (None, None, None, Some(address)) => address.to_string(),
        (None, None, None, None) => "unnamed".to_owned(),
    };
    let source = Source {
        wire: Some(observation.wire),
        agent: Some(observation.agent),
        what: observation.what,
        at: now,
        facts,
    };
    let id = join_source(tx, source, &wanted, now, rng)?;
    if let Some(inventory) = &observation.inventory {
        hosts::put_inventory(tx, id, inventory, now)?;
    }
    if observation.own {
        // What was seen on loopback before the machine told of itself was the machine.
        for address in [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ] {
            let name = loopback_name(address, teller.as_ref(), observation.agent);
            if let Some(seen) = hosts::by_name(tx, &name)?
                && seen.id != id
                && seen.monitoring.is_none()
            {
                hosts::merge(tx, seen.id, id)?;
            }
        }
    }
    Ok(id)
}

/// The name of a machine of which only a loopback address is known: whose loopback it is.
fn loopback_name(address: IpAddr, agent: Option<&Agent>, id: AgentId) -> String {
    match agent {
        Some(agent) => format!("{address}@{}", agent.name),
        None => format!("{address}@{id}"),
    }
}

/// Finds the host a source is about, or makes it; two records that the source shows to be one
/// machine become one, the older.
fn join_source(
    tx: &mut Tx<'_>,
    source: Source,
    wanted_name: &str,
    now: Timestamp,
    rng: &mut ChaCha20Rng,
) -> Result<HostId, StoreError> {
    let mut matches: Vec<(Evidence, Host)> = hosts::candidates(tx, &source.facts)?
        .into_iter()
        .filter_map(|host| {
            host.facts
                .same_machine(&source.facts)
                .map(|evidence| (evidence, host))
        })
        .collect();
    matches.sort_by(|(a, x), (b, y)| b.cmp(a).then(x.created.cmp(&y.created)));
    let mut matches = matches.into_iter();
    let mut host = match matches.next() {
        Some((_, host)) => host,
        None => Host {
            id: HostId::mint(rng),
            facts: HostFacts {
                name: Some(free_name(tx, wanted_name, None)?),
                ..HostFacts::default()
            },
            sources: Vec::new(),
            monitoring: None,
            created: now,
        },
    };
    for (_, other) in matches {
        // Names alone do not make two existing records one unless nothing speaks against it.
        if host.facts.same_machine(&other.facts).is_none() && conflicting(&host.facts, &other.facts)
        {
            continue;
        }
        host.facts.absorb(&other.facts);
        if host.monitoring.is_none() {
            host.monitoring.clone_from(&other.monitoring);
            if other.monitoring.is_some() {
                // The declared name is the one people use.
                host.facts.name.clone_from(&other.facts.name);
            }
        }
        hosts::merge(tx, other.id, host.id)?;
    }
    host.facts.absorb(&source.facts);
    hosts::put(tx, &host)?;
    hosts::put_source(tx, host.id, &source)?;
    Ok(host.id)
}

/// Whether strong evidence says that the two are different machines.
fn conflicting(a: &HostFacts, b: &HostFacts) -> bool {
    let differ = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if !a.eq_ignore_ascii_case(b));
    differ(&a.serial, &b.serial)
        || differ(&a.uuid, &b.uuid)
        || (!a.macs.is_empty() && !b.macs.is_empty() && a.macs.is_disjoint(&b.macs))
}

fn free_name(tx: &mut Tx<'_>, wanted: &str, own: Option<HostId>) -> Result<String, StoreError> {
    let mut name = wanted.to_owned();
    let mut n = 2;
    while let Some(other) = hosts::by_name(tx, &name)? {
        if Some(other.id) == own {
            break;
        }
        name = format!("{wanted} ({n})");
        n += 1;
    }
    Ok(name)
}
