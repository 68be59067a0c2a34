//! Rows of hosts, their evidence and their items.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use muster_core::agent::Wire;
use muster_core::host::{Host, HostFacts, Source};
use muster_core::sample::{Item, Monitoring};
use muster_core::{AgentId, HostId, ItemId};

use crate::error::StoreError;
use crate::params;
use crate::sql::{Row, Tx, Value};
use crate::tasks::micros;

/// Looks a host up by its id.
pub fn by_id(tx: &mut Tx<'_>, id: HostId) -> Result<Option<Host>, StoreError> {
    let row = tx.query_opt("SELECT * FROM hosts WHERE id = $1", params![id.uuid()])?;
    row.map(|row| read(tx, &row)).transpose()
}

/// Looks a host up by its name, in any case.
pub fn by_name(tx: &mut Tx<'_>, name: &str) -> Result<Option<Host>, StoreError> {
    let row = tx.query_opt(
        "SELECT h.* FROM hosts h JOIN host_keys k ON k.host = h.id WHERE k.kind = 'name' \
         AND k.value = $1 ORDER BY h.created, h.id LIMIT 1",
        params![name.to_lowercase()],
    )?;
    row.map(|row| read(tx, &row)).transpose()
}

/// Looks a host up by the number peers know it by.
pub fn by_number(tx: &mut Tx<'_>, number: u64) -> Result<Option<Host>, StoreError> {
    let row = tx.query_opt(
        "SELECT * FROM hosts WHERE number = $1",
        params![signed(number)],
    )?;
    row.map(|row| read(tx, &row)).transpose()
}

/// The ids that begin with `prefix`, at most `limit`.
pub fn ids_by_prefix(tx: &mut Tx<'_>, prefix: &str, limit: i64) -> Result<Vec<HostId>, StoreError> {
    crate::page::ids_by_prefix(tx, "hosts", prefix, limit)
}

/// Hosts by name after `after`, at most `limit`.
pub fn list(tx: &mut Tx<'_>, after: Option<&str>, limit: i64) -> Result<Vec<Host>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM hosts WHERE name > $1 ORDER BY name LIMIT $2",
        params![after.unwrap_or_default(), limit],
    )?;
    rows.iter().map(|row| read(tx, row)).collect()
}

/// How many hosts there are.
pub fn count(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
    tx.query_one("SELECT COUNT(*) AS n FROM hosts", params![])?
        .int("n")
}

/// Hosts that share a serial number, UUID, MAC address or first label of a name with `facts`,
/// oldest first, at most 64.
pub fn candidates(tx: &mut Tx<'_>, facts: &HostFacts) -> Result<Vec<Host>, StoreError> {
    let keys = keys(facts);
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut values: Vec<Value> = Vec::new();
    let mut conditions = Vec::new();
    for (kind, value) in keys {
        values.push(kind.into());
        values.push(value.into());
        conditions.push(format!(
            "(k.kind = ${} AND k.value = ${})",
            values.len() - 1,
            values.len()
        ));
    }
    let rows = tx.query(
        &format!(
            "SELECT * FROM hosts WHERE id IN (SELECT k.host FROM host_keys k WHERE {}) \
             ORDER BY created, id LIMIT 64",
            conditions.join(" OR ")
        ),
        &values,
    )?;
    rows.iter().map(|row| read(tx, row)).collect()
}

/// Writes a host as it is, new or known, with its keys; sources, items and inventory apart.
pub fn put(tx: &mut Tx<'_>, host: &Host) -> Result<(), StoreError> {
    let facts = &host.facts;
    let monitoring = host.monitoring.as_ref();
    tx.execute(
        "INSERT INTO hosts (id, name, serial, uuid, macs, addresses, os_name, os_version, device_type, \
         number, proxy, monitor_address, monitor_port, created) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         ON CONFLICT (id) DO UPDATE SET name = $2, serial = $3, uuid = $4, macs = $5, addresses = $6, \
         os_name = $7, os_version = $8, device_type = $9, number = $10, proxy = $11, \
         monitor_address = $12, monitor_port = $13",
        params![
            host.id.uuid(),
            facts.name.clone().unwrap_or_else(|| host.id.to_string()),
            facts.serial.clone(),
            facts.uuid.clone(),
            join(&facts.macs),
            join(&facts.addresses),
            facts.os_name.clone(),
            facts.os_version.clone(),
            facts.device_type.clone(),
            monitoring.map(|m| signed(m.number)),
            monitoring.and_then(|m| m.proxy).map(|proxy| proxy.uuid()),
            monitoring.map(|m| m.address.clone()),
            monitoring.map(|m| m.port),
            host.created,
        ],
    )?;
    tx.execute(
        "DELETE FROM host_keys WHERE host = $1",
        params![host.id.uuid()],
    )?;
    for (kind, value) in keys(facts) {
        tx.execute(
            "INSERT INTO host_keys (kind, value, host) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            params![kind, value, host.id.uuid()],
        )?;
    }
    Ok(())
}

/// Writes who told what about a host, in place of what the same source told before.
pub fn put_source(tx: &mut Tx<'_>, host: HostId, source: &Source) -> Result<(), StoreError> {
    let facts = &source.facts;
    tx.execute(
        "INSERT INTO host_sources (host, wire, agent, what, at, name, serial, uuid, macs, addresses, \
         os_name, os_version, device_type) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
         ON CONFLICT (host, wire, agent, what) DO UPDATE SET at = $5, name = $6, serial = $7, uuid = $8, \
         macs = $9, addresses = $10, os_name = $11, os_version = $12, device_type = $13",
        params![
            host.uuid(),
            source.wire.map_or("", Wire::word),
            source.agent.map_or_else(String::new, |agent| agent.to_string()),
            source.what.word(),
            source.at,
            facts.name.clone(),
            facts.serial.clone(),
            facts.uuid.clone(),
            join(&facts.macs),
            join(&facts.addresses),
            facts.os_name.clone(),
            facts.os_version.clone(),
            facts.device_type.clone(),
        ],
    )?;
    Ok(())
}

/// Keeps the inventory of a host, JSON text.
pub fn put_inventory(
    tx: &mut Tx<'_>,
    host: HostId,
    inventory: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE hosts SET inventory = $2, inventory_at = $3 WHERE id = $1",
        params![host.uuid(), inventory, at],
    )?;
    Ok(())
}

/// The inventory of a host, JSON text.
pub fn inventory(tx: &mut Tx<'_>, host: HostId) -> Result<Option<String>, StoreError> {
    let row = tx.query_opt(
        "SELECT inventory FROM hosts WHERE id = $1",
        params![host.uuid()],
    )?;
    match row {
        Some(row) => Ok(row.opt_text("inventory")?.map(str::to_owned)),
        None => Ok(None),
    }
}

/// Gives everything of `from` to `into` and removes `from`. Where both have the same item key or
/// the same source, that of `into` stays.
pub fn merge(tx: &mut Tx<'_>, from: HostId, into: HostId) -> Result<(), StoreError> {
    let both = params![from.uuid(), into.uuid()];
    for sql in [
        "UPDATE host_sources SET host = $2 WHERE host = $1 AND NOT EXISTS (SELECT 1 FROM host_sources o \
         WHERE o.host = $2 AND o.wire = host_sources.wire AND o.agent = host_sources.agent \
         AND o.what = host_sources.what)",
        "UPDATE items SET host = $2 WHERE host = $1 AND NOT EXISTS (SELECT 1 FROM items o \
         WHERE o.host = $2 AND o.key = items.key)",
        "UPDATE agents SET host = $2 WHERE host = $1",
        "UPDATE hosts SET inventory = (SELECT inventory FROM hosts f WHERE f.id = $1), \
         inventory_at = (SELECT inventory_at FROM hosts f WHERE f.id = $1) \
         WHERE id = $2 AND inventory IS NULL",
    ] {
        tx.execute(sql, both)?;
    }
    for sql in [
        "DELETE FROM host_sources WHERE host = $1",
        "DELETE FROM items WHERE host = $1",
        "DELETE FROM host_keys WHERE host = $1",
        "DELETE FROM hosts WHERE id = $1",
    ] {
        tx.execute(sql, params![from.uuid()])?;
    }
    Ok(())
}

/// Monitored hosts of a proxy, or of this server, by number.
pub fn monitored_by(tx: &mut Tx<'_>, proxy: Option<AgentId>) -> Result<Vec<Host>, StoreError> {
    let rows = match proxy {
        Some(proxy) => tx.query(
            "SELECT * FROM hosts WHERE number IS NOT NULL AND proxy = $1 ORDER BY number",
            params![proxy.uuid()],
        )?,
        None => tx.query(
            "SELECT * FROM hosts WHERE number IS NOT NULL AND proxy IS NULL ORDER BY number",
            params![],
        )?,
    };
    rows.iter().map(|row| read(tx, row)).collect()
}

/// Writes a new item.
pub fn insert_item(tx: &mut Tx<'_>, item: &Item, now: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO items (id, number, host, name, key, item_type, value_type, unit, delay, allowed, \
         created) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        params![
            item.id.uuid(),
            signed(item.number),
            item.host.uuid(),
            &item.name,
            &item.key,
            item.item_type.word(),
            item.value_type.word(),
            &item.unit,
            item.delay.map(micros),
            item.allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            now,
        ],
    )?;
    Ok(())
}

/// Looks an item up by its id.
pub fn item(tx: &mut Tx<'_>, id: ItemId) -> Result<Option<Item>, StoreError> {
    let row = tx.query_opt("SELECT * FROM items WHERE id = $1", params![id.uuid()])?;
    row.as_ref().map(read_item).transpose()
}

/// Looks an item of a host up by its key.
pub fn item_by_key(tx: &mut Tx<'_>, host: HostId, key: &str) -> Result<Option<Item>, StoreError> {
    let row = tx.query_opt(
        "SELECT * FROM items WHERE host = $1 AND key = $2",
        params![host.uuid(), key],
    )?;
    row.as_ref().map(read_item).transpose()
}

/// The ids that begin with `prefix`, at most `limit`.
pub fn item_ids_by_prefix(
    tx: &mut Tx<'_>,
    prefix: &str,
    limit: i64,
) -> Result<Vec<ItemId>, StoreError> {
    crate::page::ids_by_prefix(tx, "items", prefix, limit)
}

/// Items of a host by number.
pub fn items_of(tx: &mut Tx<'_>, host: HostId) -> Result<Vec<Item>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM items WHERE host = $1 ORDER BY number",
        params![host.uuid()],
    )?;
    rows.iter().map(read_item).collect()
}

/// Items by number after `after`, at most `limit`, perhaps of one host only.
pub fn list_items(
    tx: &mut Tx<'_>,
    host: Option<HostId>,
    after: u64,
    limit: i64,
) -> Result<Vec<Item>, StoreError> {
    let rows = match host {
        Some(host) => tx.query(
            "SELECT * FROM items WHERE number > $1 AND host = $2 ORDER BY number LIMIT $3",
            params![signed(after), host.uuid(), limit],
        )?,
        None => tx.query(
            "SELECT * FROM items WHERE number > $1 ORDER BY number LIMIT $2",
            params![signed(after), limit],
        )?,
    };
    rows.iter().map(read_item).collect()
}

/// Every item with the name and the proxy of its host, for the index that uploads are checked by.
pub fn all_items(tx: &mut Tx<'_>) -> Result<Vec<(Item, String, Option<AgentId>)>, StoreError> {
    let rows = tx.query(
        "SELECT i.*, h.name AS host_name, h.proxy AS proxy FROM items i JOIN hosts h ON h.id = i.host \
         ORDER BY i.number",
        params![],
    )?;
    rows.iter()
        .map(|row| {
            Ok((
                read_item(row)?,
                row.text("host_name")?.to_owned(),
                row.opt_uuid("proxy")?.map(AgentId::from_uuid),
            ))
        })
        .collect()
}

/// How many items there are.
pub fn count_items(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
    tx.query_one("SELECT COUNT(*) AS n FROM items", params![])?
        .int("n")
}

/// Counts up and returns the new value; the first is `first`.
pub fn next_number(tx: &mut Tx<'_>, counter: &str, first: u64) -> Result<u64, StoreError> {
    let row = tx.query_one(
        "INSERT INTO counters (name, value) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value",
        params![counter, signed(first)],
    )?;
    row.number("value")
}

/// The value of a counter; 0 before it was ever counted.
pub fn counter(tx: &mut Tx<'_>, name: &str) -> Result<u64, StoreError> {
    match tx.query_opt("SELECT value FROM counters WHERE name = $1", params![name])? {
        Some(row) => row.number("value"),
        None => Ok(0),
    }
}

fn keys(facts: &HostFacts) -> Vec<(&'static str, String)> {
    let mut keys = Vec::new();
    if let Some(serial) = &facts.serial {
        keys.push(("serial", serial.to_lowercase()));
    }
    if let Some(uuid) = &facts.uuid {
        keys.push(("uuid", uuid.to_lowercase()));
    }
    keys.extend(facts.macs.iter().map(|mac| ("mac", mac.clone())));
    if let Some(name) = &facts.name {
        let name = name.to_lowercase();
        let label = name.split('.').next().unwrap_or_default().to_owned();
        keys.push(("label", label));
        keys.push(("name", name));
    }
    keys
}

fn read(tx: &mut Tx<'_>, row: &Row) -> Result<Host, StoreError> {
    let id = HostId::from_uuid(row.uuid("id")?);
    let sources = tx
        .query(
            "SELECT * FROM host_sources WHERE host = $1 ORDER BY at, wire, agent, what",
            params![id.uuid()],
        )?
        .iter()
        .map(|row| {
            let wire = Some(row.text("wire")?).filter(|word| !word.is_empty());
            let agent = Some(row.text("agent")?).filter(|text| !text.is_empty());
            Ok(Source {
                wire: wire.map(|_| row.parse("wire")).transpose()?,
                agent: agent
                    .map(|_| row.uuid("agent").map(AgentId::from_uuid))
                    .transpose()?,
                what: row.parse("what")?,
                at: row.timestamp("at")?,
                facts: read_facts(row)?,
            })
        })
        .collect::<Result<_, StoreError>>()?;
    let monitoring = row
        .opt_number::<u64>("number")?
        .map(|number| {
            Ok::<_, StoreError>(Monitoring {
                number,
                proxy: row.opt_uuid("proxy")?.map(AgentId::from_uuid),
                address: row.text("monitor_address")?.to_owned(),
                port: row.number("monitor_port")?,
            })
        })
        .transpose()?;
    Ok(Host {
        id,
        facts: read_facts(row)?,
        sources,
        monitoring,
        created: row.timestamp("created")?,
    })
}

fn read_facts(row: &Row) -> Result<HostFacts, StoreError> {
    let own = |column: &str| Ok::<_, StoreError>(row.opt_text(column)?.map(str::to_owned));
    let addresses = row
        .text("addresses")?
        .split(',')
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().map_err(|_| row.inconsistent("addresses")))
        .collect::<Result<BTreeSet<IpAddr>, _>>()?;
    let macs = row.text("macs")?.split(',').filter(|text| !text.is_empty());
    Ok(HostFacts {
        name: own("name")?,
        serial: own("serial")?,
        uuid: own("uuid")?,
        macs: macs.map(str::to_owned).collect(),
        addresses,
        os_name: own("os_name")?,
        os_version: own("os_version")?,
        device_type: own("device_type")?,
    })
}

fn read_item(row: &Row) -> Result<Item, StoreError> {
    let allowed = row
        .text("allowed")?
        .split(',')
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().map_err(|_| row.inconsistent("allowed")))
        .collect::<Result<_, _>>()?;
    Ok(Item {
        id: ItemId::from_uuid(row.uuid("id")?),
        number: row.number("number")?,
        host: HostId::from_uuid(row.uuid("host")?),
        name: row.text("name")?.to_owned(),
        key: row.text("key")?.to_owned(),
        item_type: row.parse("item_type")?,
        value_type: row.parse("value_type")?,
        unit: row.text("unit")?.to_owned(),
        delay: row.opt_int("delay")?.map(SignedDuration::from_micros),
        allowed,
    })
}

fn join<T: ToString>(set: &BTreeSet<T>) -> String {
    set.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
