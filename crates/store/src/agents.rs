//! Rows of agents: who they are, how they were approved, what they can do.

use std::net::IpAddr;

use jiff::Timestamp;
use muster_core::agent::{Agent, AgentState, Capability, Wire};
use muster_core::{AgentId, HostId, Kind};

use crate::error::StoreError;
use crate::params;
use crate::sql::{Row, Tx};

/// How an identity came to be approved, and what it must show from then on (threat model, section 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bond {
    /// `key`, `address`, `networks` or `person`; `None` while it is not approved.
    pub approved_by: Option<String>,
    /// The address an identity approved without a credential is bound to.
    pub address: Option<IpAddr>,
    /// SHA-256, in hex, of the key that enrolled it.
    pub token_hash: Option<String>,
    /// `plain`, `psk:IDENTITY` or `cert:SUBJECT`.
    pub tls_identity: Option<String>,
}

/// An agent with what it is bound to.
#[derive(Clone, Debug, PartialEq)]
pub struct Enrolled {
    /// The agent.
    pub agent: Agent,
    /// Its bond.
    pub bond: Bond,
}

/// Looks an agent up by its id.
pub fn by_id(tx: &mut Tx<'_>, id: AgentId) -> Result<Option<Enrolled>, StoreError> {
    one(tx, "SELECT * FROM agents WHERE id = $1", &id.to_string())
}

/// Looks an agent up and keeps others from handing it work until this transaction ends.
pub fn by_id_locked(tx: &mut Tx<'_>, id: AgentId) -> Result<Option<Enrolled>, StoreError> {
    // An update that changes nothing takes the row's lock on both engines.
    one(
        tx,
        "UPDATE agents SET id = id WHERE id = $1 RETURNING *",
        &id.to_string(),
    )
}

/// Looks an agent up by its name.
pub fn by_name(tx: &mut Tx<'_>, name: &str) -> Result<Option<Enrolled>, StoreError> {
    one(tx, "SELECT * FROM agents WHERE name = $1", name)
}

/// Looks an agent up by the name it goes by on a wire.
pub fn by_peer(tx: &mut Tx<'_>, wire: Wire, peer: &str) -> Result<Option<Enrolled>, StoreError> {
    let row = tx.query_opt(
        "SELECT a.* FROM agents a JOIN agent_identities i ON i.agent = a.id \
         WHERE i.wire = $1 AND i.peer = $2",
        params![wire.word(), peer],
    )?;
    row.map(|row| read(tx, &row)).transpose()
}

/// The ids that begin with `prefix`, at most `limit`.
pub fn ids_by_prefix(
    tx: &mut Tx<'_>,
    prefix: &str,
    limit: i64,
) -> Result<Vec<AgentId>, StoreError> {
    crate::page::ids_by_prefix(tx, "agents", prefix, limit)
}

/// Agents by name after `after`, at most `limit`.
pub fn list(tx: &mut Tx<'_>, after: Option<&str>, limit: i64) -> Result<Vec<Enrolled>, StoreError> {
    let rows = tx.query(
        "SELECT * FROM agents WHERE name > $1 ORDER BY name LIMIT $2",
        params![after.unwrap_or_default(), limit],
    )?;
    rows.iter().map(|row| read(tx, row)).collect()
}

/// How many agents there are in a state.
pub fn count(tx: &mut Tx<'_>, state: AgentState) -> Result<i64, StoreError> {
    tx.query_one(
        "SELECT COUNT(*) AS n FROM agents WHERE state = $1",
        params![state.word()],
    )?
    .int("n")
}

/// Writes an agent as it is, new or known; capabilities and identities apart.
pub fn put(tx: &mut Tx<'_>, agent: &Agent, bond: &Bond) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO agents (id, name, wire, software, version, state, address, approved_by, \
         bound_address, token_hash, tls_identity, first_seen, last_seen, expected_by, host) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
         ON CONFLICT (id) DO UPDATE SET name = $2, wire = $3, software = $4, version = $5, state = $6, \
         address = $7, approved_by = $8, bound_address = $9, token_hash = $10, tls_identity = $11, \
         last_seen = $13, expected_by = $14, host = $15",
        params![
            agent.id.uuid(),
            &agent.name,
            agent.wire.word(),
            &agent.software,
            &agent.version,
            agent.state.word(),
            agent.address.map(|address| address.to_string()),
            bond.approved_by.clone(),
            bond.address.map(|address| address.to_string()),
            bond.token_hash.clone(),
            bond.tls_identity.clone(),
            agent.first_seen,
            agent.last_seen,
            agent.expected_by,
            agent.host.map(|host| host.uuid()),
        ],
    )?;
    Ok(())
}

/// Notes a contact that changed nothing else.
pub fn touch(
    tx: &mut Tx<'_>,
    id: AgentId,
    wire: Wire,
    address: Option<IpAddr>,
    now: Timestamp,
    expected_by: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE agents SET wire = $2, address = COALESCE($3, address), last_seen = $4, \
         expected_by = CASE WHEN expected_by > $5 THEN expected_by ELSE $5 END WHERE id = $1",
        params![
            id.uuid(),
            wire.word(),
            address.map(|a| a.to_string()),
            now,
            expected_by
        ],
    )?;
    Ok(())
}

/// Notes the name an agent goes by on a wire.
pub fn put_identity(
    tx: &mut Tx<'_>,
    id: AgentId,
    wire: Wire,
    peer: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO agent_identities (wire, peer, agent, last_seen) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (wire, peer) DO UPDATE SET agent = $3, last_seen = $4",
        params![wire.word(), peer, id.uuid(), now],
    )?;
    Ok(())
}

/// The names an agent goes by: wire and peer, sorted.
pub fn identities(tx: &mut Tx<'_>, id: AgentId) -> Result<Vec<(Wire, String)>, StoreError> {
    let rows = tx.query(
        "SELECT wire, peer FROM agent_identities WHERE agent = $1 ORDER BY wire, peer",
        params![id.uuid()],
    )?;
    rows.iter()
        .map(|row| Ok((row.parse("wire")?, row.text("peer")?.to_owned())))
        .collect()
}

/// Replaces what the agent said on `wire` it can do. What it said on another wire stays; what was
/// assumed gives way to what is said.
pub fn put_capabilities(
    tx: &mut Tx<'_>,
    id: AgentId,
    wire: Wire,
    capabilities: &[Capability],
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM agent_capabilities WHERE agent = $1 AND wire = $2",
        params![id.uuid(), wire.word()],
    )?;
    for capability in capabilities {
        tx.execute(
            "INSERT INTO agent_capabilities (agent, kind, version, assumed, wire) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (agent, kind) DO UPDATE SET \
             version = $3, assumed = $4, wire = $5",
            params![
                id.uuid(),
                capability.kind.as_str(),
                &capability.version,
                capability.assumed,
                wire.word()
            ],
        )?;
    }
    Ok(())
}

/// Turns an assumed capability into a proven one, or takes it away.
pub fn settle_assumed(
    tx: &mut Tx<'_>,
    id: AgentId,
    kind: &Kind,
    proven: bool,
) -> Result<(), StoreError> {
    let sql = if proven {
        "UPDATE agent_capabilities SET assumed = 0 WHERE agent = $1 AND kind = $2 AND assumed = 1"
    } else {
        "DELETE FROM agent_capabilities WHERE agent = $1 AND kind = $2 AND assumed = 1"
    };
    tx.execute(sql, params![id.uuid(), kind.as_str()])?;
    Ok(())
}

/// Notes the host an agent runs on.
pub fn set_host(tx: &mut Tx<'_>, id: AgentId, host: HostId) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE agents SET host = $2 WHERE id = $1",
        params![id.uuid(), host.uuid()],
    )?;
    Ok(())
}

/// Removes an agent with its identities and capabilities. Its runs stay as they are.
pub fn remove(tx: &mut Tx<'_>, id: AgentId) -> Result<bool, StoreError> {
    tx.execute(
        "DELETE FROM agent_identities WHERE agent = $1",
        params![id.uuid()],
    )?;
    tx.execute(
        "DELETE FROM agent_capabilities WHERE agent = $1",
        params![id.uuid()],
    )?;
    Ok(tx.execute("DELETE FROM agents WHERE id = $1", params![id.uuid()])? == 1)
}

/// Approved agents that can do `kind`, those heard of last first.
pub fn able(tx: &mut Tx<'_>, kind: &Kind) -> Result<Vec<Enrolled>, StoreError> {
    let rows = tx.query(
        "SELECT a.* FROM agents a JOIN agent_capabilities c ON c.agent = a.id \
         WHERE c.kind = $1 AND a.state = 'approved' ORDER BY a.last_seen DESC, a.name",
        params![kind.as_str()],
    )?;
    rows.iter().map(|row| read(tx, row)).collect()
}

fn one(tx: &mut Tx<'_>, sql: &str, key: &str) -> Result<Option<Enrolled>, StoreError> {
    let row = tx.query_opt(sql, params![key])?;
    row.map(|row| read(tx, &row)).transpose()
}

fn read(tx: &mut Tx<'_>, row: &Row) -> Result<Enrolled, StoreError> {
    let id = AgentId::from_uuid(row.uuid("id")?);
    let capabilities = tx
        .query(
            "SELECT kind, version, assumed FROM agent_capabilities WHERE agent = $1 ORDER BY kind",
            params![id.uuid()],
        )?
        .iter()
        .map(|row| {
            Ok(Capability {
                kind: row.parse("kind")?,
                version: row.text("version")?.to_owned(),
                assumed: row.bool("assumed")?,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    let wires = tx
        .query(
            "SELECT DISTINCT wire FROM agent_identities WHERE agent = $1",
            params![id.uuid()],
        )?
        .iter()
        .map(|row| row.parse("wire"))
        .collect::<Result<std::collections::BTreeSet<Wire>, StoreError>>()?;
    let agent = Agent {
        id,
        name: row.text("name")?.to_owned(),
        wire: row.parse("wire")?,
        wires: wires.into_iter().collect(),
        software: row.text("software")?.to_owned(),
        version: row.text("version")?.to_owned(),
        state: row.parse("state")?,
        capabilities,
        address: row.opt_parse("address")?,
        first_seen: row.timestamp("first_seen")?,
        last_seen: row.timestamp("last_seen")?,
        expected_by: row.timestamp("expected_by")?,
        host: row.opt_uuid("host")?.map(HostId::from_uuid),
    };
    let bond = Bond {
        approved_by: row.opt_text("approved_by")?.map(str::to_owned),
        address: row.opt_parse("bound_address")?,
        token_hash: row.opt_text("token_hash")?.map(str::to_owned),
        tls_identity: row.opt_text("tls_identity")?.map(str::to_owned),
    };
    Ok(Enrolled { agent, bond })
}
