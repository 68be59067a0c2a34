//! Hosts and their items.

use jiff::Timestamp;
use muster_core::host::Host;
use muster_core::sample::{ItemType, Monitoring};

use super::{Chain, Explanation, Subject, times};
use crate::control::error::Result;
use crate::control::{Control, ItemView};

impl Control {
    pub(super) async fn explain_host(&self, name: &str) -> Result<Explanation> {
        let host = self.find_host(name).await?;
        let mut chain = Chain::new();
        chain.note(
            Some(host.created),
            "known",
            Some(true),
            format!(
                "serial {}, uuid {}, {} MAC addresses, {} addresses",
                host.facts.serial.as_deref().unwrap_or("unknown"),
                host.facts.uuid.as_deref().unwrap_or("unknown"),
                host.facts.macs.len(),
                host.facts.addresses.len()
            ),
        );
        for source in &host.sources {
            let by = match source.agent {
                Some(id) => self
                    .agent(id)
                    .await
                    .map_or_else(|_| id.to_string(), |view| view.agent.name),
                None => "a person".into(),
            };
            chain.note(
                Some(source.at),
                source.what.word(),
                Some(true),
                format!(
                    "by {by}{}",
                    source
                        .wire
                        .map(|wire| format!(" over {wire}"))
                        .unwrap_or_default()
                ),
            );
        }
        if let Some(monitoring) = &host.monitoring {
            if !self.proxy_link(&mut chain, monitoring).await? {
                chain.note(None, "proxy", None, "this server monitors it");
                self.polled_link(&mut chain, &host).await?;
            }
            let items = self.items(Some(host.id), None, 1000).await?.rows;
            let silent = items
                .iter()
                .filter(|view| view.last.as_ref().is_none_or(|last| last.value.is_none()))
                .count();
            chain.link(None, "items", if items.is_empty() {
                Err(("it is monitored but has no items".into(), format!("muster item create --host {name} --key agent.ping --type agent --value-type unsigned --delay 30s")))
            } else if silent == items.len() {
                let first = items.first().map(|view| view.item.id.to_string()).unwrap_or_default();
                Err((format!("none of its {silent} items has a value yet"), format!("muster explain item {first}")))
            } else {
                Ok(format!("{} items, {silent} without a value", items.len()))
            });
        }
        let shown = host.facts.name.clone().unwrap_or_default();
        let next = format!("muster host show {shown}");
        Ok(chain.end(
            Subject::Host,
            host.id.to_string(),
            shown,
            "everything that tells of it is in one record",
            &next,
        ))
    }

    pub(super) async fn explain_item(&self, name: &str) -> Result<Explanation> {
        let view: ItemView = self.find_item(name).await?;
        let mut chain = Chain::new();
        let item = &view.item;
        chain.note(
            None,
            "declared",
            Some(true),
            format!(
                "{} on {}, {} of {}",
                item.key,
                view.host,
                item.item_type.word(),
                item.value_type.word()
            ),
        );
        let host = self.find_host(&item.host.to_string()).await?;
        let by_proxy = match &host.monitoring {
            Some(monitoring) => self.proxy_link(&mut chain, monitoring).await?,
            None => false,
        };
        if !by_proxy {
            match item.item_type {
                ItemType::AgentActive | ItemType::Trapper => {
                    chain.note(None, "proxy", None, "its values come to this server directly");
                }
                ItemType::Agent => {
                    chain.note(None, "proxy", None, "this server asks the agent for it");
                    self.polled_link(&mut chain, &host).await?;
                }
                ItemType::Simple
                | ItemType::Snmp
                | ItemType::Http
                | ItemType::Dependent
                | ItemType::Internal
                | ItemType::External
                | ItemType::Script => chain.link(None, "proxy", Err((
                    format!("items of type {} are sampled by a proxy, and the host has none", item.item_type.word()),
                    format!("connect a Zabbix proxy and declare the host with `muster host create {} --proxy NAME`", view.host),
                ))),
            }
        }
        if let Some(not_supported) = view
            .last
            .as_ref()
            .and_then(|last| last.not_supported.as_ref())
        {
            chain.link(
                Timestamp::from_second(not_supported.clock).ok(),
                "supported",
                Err((
                    format!("the agent says: {}", not_supported.error),
                    "correct the key, or what the agent may read, on the monitored host".into(),
                )),
            );
        }
        let host = &view.host;
        let awaited = if item.item_type == ItemType::Trapper {
            format!("muster send --host {host} --key {} --value VALUE", item.key)
        } else {
            format!(
                "wait for one delay after who samples it was told; then `muster explain host {host}`"
            )
        };
        chain.link(
            view.last
                .as_ref()
                .and_then(|last| last.value.as_ref())
                .and_then(|value| Timestamp::from_second(value.clock).ok()),
            "value",
            match view.last.as_ref().and_then(|last| last.value.as_ref()) {
                Some(sample) => Ok(format!(
                    "the newest value is {}",
                    sample
                        .value
                        .to_string()
                        .chars()
                        .take(80)
                        .collect::<String>()
                )),
                None => Err(("no value has arrived".into(), awaited)),
            },
        );
        let next = format!("muster item history {}", item.id);
        Ok(chain.end(
            Subject::Item,
            item.id.to_string(),
            format!("{}:{}", view.host, item.key),
            "its values arrive",
            &next,
        ))
    }

    /// The proxy that monitors a host; false where there is none.
    async fn proxy_link(&self, chain: &mut Chain, monitoring: &Monitoring) -> Result<bool> {
        let Some(proxy) = monitoring.proxy else {
            return Ok(false);
        };
        match self.agent(proxy).await {
            Ok(view) => self.agent_links(chain, &view, self.now()).await?,
            Err(_) => chain.link(
                None,
                "proxy",
                Err((
                    "the proxy that is to monitor it was removed".into(),
                    "declare the host again with another --proxy".into(),
                )),
            ),
        }
        Ok(true)
    }

    /// Whether the agent of a host that this server asks itself has answered of late.
    async fn polled_link(&self, chain: &mut Chain, host: &Host) -> Result<()> {
        let name = host.facts.name.as_deref().unwrap_or_default();
        let refusals = self.refusals_of(name).await?;
        let unreachable = refusals
            .iter()
            .find(|refusal| refusal.reason == "agent_unreachable" && refusal.peer == name);
        if let Some(refusal) = unreachable {
            chain.link(
                Some(refusal.last),
                "agent asked",
                Err((
                    format!(
                        "the Zabbix agent at {} did not answer, {}: {}",
                        refusal.address,
                        times(refusal.times),
                        refusal.detail
                    ),
                    format!(
                        "see that a Zabbix agent listens at {} and that its Server= lists this server",
                        refusal.address
                    ),
                )),
            );
        }
        Ok(())
    }
}
