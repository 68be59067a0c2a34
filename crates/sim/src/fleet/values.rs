//! What became of values: whatever was accepted is stored, once, and nothing else is.
//!
//! Agents of ours keep a value in their spool until the server has said `success`, so the spools are
//! looked at after each step; the actors count what they send themselves ([`World::values`]).

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use muster_agent::links::zabbix::Role;
use muster_core::sample::{ItemType, Sample, ValueType};
use muster_server::Control;
use muster_server::control::{Declared, HistoryRange, NewItem};
use serde_json::Value;

use super::agents::{MACHINE_PORT, Worker};
use super::world::World;

/// The steps between two looks at what is stored.
const LOOK_EVERY: u64 = 10;
/// How old a value may be that waits although nothing goes wrong any more.
const PENDING_MAX: SignedDuration = SignedDuration::from_secs(30);
/// Samples of an item that are read at most: more than a story makes.
const SAMPLES_MAX: usize = 100_000;
/// Key and interval of what agents collect on their own machines.
const OWN: [(&str, ValueType, i64); 2] = [
    ("system.cpu.load", ValueType::Float, 2),
    ("system.localtime", ValueType::Unsigned, 3),
];
/// What the proxy's machine is asked.
const POLLED: &str = "sim.polled";

/// Declares a host with an item.
pub(super) async fn declare(
    control: &Control,
    host: Declared,
    items: Vec<NewItem>,
) -> Result<(), String> {
    let declared = control.declare_host(host).await;
    declared.map_err(|error| error.chain())?;
    for item in items {
        let declared = control.declare_item(item).await;
        declared.map_err(|error| error.chain())?;
    }
    Ok(())
}

pub(super) fn item(
    host: &str,
    key: &str,
    item_type: ItemType,
    value_type: ValueType,
    delay: i64,
) -> NewItem {
    NewItem {
        host: host.to_owned(),
        key: key.to_owned(),
        item_type,
        value_type,
        delay: Some(SignedDuration::from_secs(delay)),
        unit: String::new(),
        name: None,
    }
}

/// One value, by what it is known by for good: item, second, nanosecond.
type Name = (u64, i64, u32);

/// The queue of values of one agent.
#[derive(Default)]
struct Queue {
    /// Whether there is something to collect.
    declared: bool,
    /// Every value that was seen in it, by id.
    seen: BTreeMap<u64, (Name, String)>,
    waiting: BTreeSet<u64>,
}

/// The queues of all agents, by their number.
#[derive(Default)]
pub(super) struct Values {
    queues: BTreeMap<String, Queue>,
    steps: u64,
}

impl Values {
    /// Looks at the spools, and now and then at what is stored.
    pub(super) async fn look(&mut self, world: &World, workers: &[Worker]) -> Result<(), String> {
        self.steps += 1;
        for worker in workers {
            worker.measure(self.steps)?;
            let Some(role) = worker.role() else { continue };
            let queue = self.queues.entry(worker.name()).or_default();
            if !queue.declared
                && let Some(control) = world.control()
            {
                // Of a proxy that the server has not heard of yet nothing can be declared.
                queue.declared = declare_for(&control, worker, role).await.is_ok();
            }
            queue.look(worker).await?;
            if self.steps.is_multiple_of(LOOK_EVERY)
                && let Some(control) = world.control()
            {
                queue.compare(&control).await?;
            }
        }
        Ok(())
    }

    /// At the end, with the agents ended: all is stored but what still waits. Returns what is stored.
    pub(super) async fn check(
        &mut self,
        world: &World,
        workers: &[Worker],
    ) -> Result<Vec<(String, Vec<String>)>, String> {
        let control = world.control().ok_or("the server is down")?;
        let mut told = Vec::new();
        for worker in workers.iter().filter(|worker| worker.role().is_some()) {
            let queue = self.queues.entry(worker.name()).or_default();
            queue.look(worker).await?;
            let (spool, name) = worker.values();
            let state = spool.queue(&name, &mut world.entropy.rng()).await;
            let state = state.map_err(|error| error.to_string())?;
            let stored = queue.compare(&control).await?;
            let (least, most) = (state.last - state.entries, state.last);
            let count = stored.len() as u64;
            if !(least..=most).contains(&count) || state.dropped > 0 {
                return Err(format!(
                    "{}: {count} values are stored of {most}, of which {} wait",
                    worker.name(),
                    state.entries
                ));
            }
            let now = world.clock.now().as_second();
            let old = queue.waiting.iter().filter_map(|id| queue.seen.get(id));
            if let Some((value, _)) = old
                .into_iter()
                .find(|((_, clock, _), _)| now - clock > PENDING_MAX.as_secs())
            {
                return Err(format!("{}: {value:?} still waits", worker.name()));
            }
            told.push((worker.name(), stored));
        }
        Ok(told)
    }
}

async fn declare_for(control: &Control, worker: &Worker, role: Role) -> Result<(), String> {
    let (host, items) = match role {
        Role::Agent => {
            let name = worker.name();
            let own = |(key, value_type, delay): &(&str, ValueType, i64)| {
                item(&name, key, ItemType::AgentActive, *value_type, *delay)
            };
            let items = OWN.iter().map(own).collect();
            (
                Declared {
                    name,
                    proxy: None,
                    address: Some("127.0.0.1".to_owned()),
                    port: None,
                },
                items,
            )
        }
        Role::Proxy => {
            let name = format!("behind-{}", worker.name());
            let polled = item(&name, POLLED, ItemType::Agent, ValueType::Unsigned, 2);
            let host = Declared {
                name,
                proxy: Some(worker.name()),
                address: Some("127.0.0.1".to_owned()),
                port: Some(MACHINE_PORT),
            };
            (host, vec![polled])
        }
    };
    declare(control, host, items).await
}

impl Queue {
    async fn look(&mut self, worker: &Worker) -> Result<(), String> {
        let (spool, name) = worker.values();
        let waiting = spool.peek(&name, SAMPLES_MAX, usize::MAX).await;
        let waiting = waiting.map_err(|error| error.to_string())?;
        self.waiting = waiting.iter().map(|entry| entry.id).collect();
        for entry in &waiting {
            let body: Value = serde_json::from_slice(&entry.body).map_err(|e| e.to_string())?;
            let value = body["v"].as_str().unwrap_or_default().to_owned();
            if body["x"] == true {
                return Err(format!("{name}: an item has no value: {value}"));
            }
            let number = |member: &str| body[member].as_u64().unwrap_or_default();
            let name = (number("i"), number("c") as i64, number("n") as u32);
            let known = self
                .seen
                .entry(entry.id)
                .or_insert_with(|| (name, value.clone()));
            if (&known.0, &known.1) != (&name, &value) {
                return Err(format!(
                    "entry {} changed from {known:?} to {body}",
                    entry.id
                ));
            }
        }
        Ok(())
    }

    /// Whatever does not wait any more was accepted: it is stored, once. Returns all that is stored.
    async fn compare(&self, control: &Control) -> Result<Vec<String>, String> {
        let items: BTreeSet<u64> = self.seen.values().map(|((item, _, _), _)| *item).collect();
        let mut stored: BTreeMap<Name, String> = BTreeMap::new();
        for item in items {
            for sample in history(control, item).await? {
                let value = sample.value.to_string();
                let name = (item, sample.clock, sample.ns);
                if stored.insert(name, value).is_some() {
                    return Err(format!("{name:?} is stored twice"));
                }
            }
        }
        for (id, (name, value)) in &self.seen {
            let found = stored.get(name);
            let accepted = !self.waiting.contains(id);
            match found {
                None if accepted => return Err(format!("{name:?} was accepted and is not stored")),
                Some(found) if found.parse::<f64>() != value.parse::<f64>() => {
                    return Err(format!("{name:?} was {value} and is stored as {found}"));
                }
                None | Some(_) => {}
            }
        }
        Ok(stored
            .into_iter()
            .map(|((item, clock, ns), value)| format!("{item} {clock}.{ns:09} {value}"))
            .collect())
    }
}

pub(super) async fn history(control: &Control, item: u64) -> Result<Vec<Sample>, String> {
    let range = HistoryRange {
        from: None,
        to: None,
        limit: SAMPLES_MAX,
    };
    let history = control.history(item, range).await;
    history.map_err(|error| error.chain())
}
