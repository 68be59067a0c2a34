-- Agents, tasks, runs, hosts, items, access, and the record that `explain` walks.
-- Times are microseconds since 1970 UTC, lengths microseconds, ids UUID text.

CREATE TABLE agents (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    wire TEXT NOT NULL,
    software TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL,
    address TEXT,
    -- How it was approved: NULL while it is not. 'key', 'address', 'networks' or 'person'.
    approved_by TEXT,
    -- The address an identity approved without a credential is bound to.
    bound_address TEXT,
    -- SHA-256 of the key that enrolled it, which stays its token.
    token_hash TEXT,
    -- What it came with when it was approved: 'plain', 'psk:IDENTITY', 'cert:SUBJECT'.
    tls_identity TEXT,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    expected_by BIGINT NOT NULL,
    host TEXT
);
CREATE INDEX agents_by_host ON agents (host);

-- The names an agent goes by on each wire.
CREATE TABLE agent_identities (
    wire TEXT NOT NULL,
    peer TEXT NOT NULL,
    agent TEXT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (wire, peer)
);
CREATE INDEX agent_identities_by_agent ON agent_identities (agent);

CREATE TABLE agent_capabilities (
    agent TEXT NOT NULL,
    kind TEXT NOT NULL,
    version TEXT NOT NULL,
    assumed BIGINT NOT NULL,
    wire TEXT NOT NULL,
    PRIMARY KEY (agent, kind)
);
CREATE INDEX agent_capabilities_by_kind ON agent_capabilities (kind);

CREATE TABLE enrol_keys (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    label TEXT NOT NULL,
    once BIGINT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT,
    used BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    hash TEXT NOT NULL PRIMARY KEY,
    label TEXT NOT NULL,
    role TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT
);

CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    origin TEXT NOT NULL,
    -- The spec without its secret members, and the whole of it sealed.
    shown TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    peer_shown TEXT,
    peer_sealed BYTEA,
    targets TEXT NOT NULL,
    workers BIGINT,
    start_at BIGINT,
    slip BIGINT,
    random_slip BIGINT NOT NULL,
    repeat_every BIGINT,
    cron TEXT,
    until_at BIGINT,
    max_runs BIGINT,
    any_agent BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    length BIGINT NOT NULL,
    state TEXT NOT NULL,
    created BIGINT NOT NULL,
    gen BIGINT NOT NULL,
    -- Its past, for the schedule: turns had, planned start of the first and of the latest.
    turns BIGINT NOT NULL,
    first_turn BIGINT,
    latest_turn BIGINT
);
CREATE INDEX tasks_active ON tasks (priority, created) WHERE state = 'active';
CREATE INDEX tasks_by_created ON tasks (created, id);

CREATE TABLE task_agents (
    task TEXT NOT NULL,
    agent TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (task, agent)
);
CREATE INDEX task_agents_by_agent ON task_agents (agent);

CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    task TEXT NOT NULL,
    kind TEXT NOT NULL,
    agent TEXT,
    start_at BIGINT NOT NULL,
    latest_start BIGINT NOT NULL,
    length BIGINT NOT NULL,
    state TEXT NOT NULL,
    lease_agent TEXT,
    lease_expires BIGINT,
    gen BIGINT NOT NULL,
    since BIGINT,
    percent DOUBLE PRECISION,
    eta BIGINT,
    noticed BIGINT,
    end_kind TEXT,
    end_reason TEXT,
    end_at BIGINT,
    priority BIGINT NOT NULL,
    created BIGINT NOT NULL,
    result TEXT,
    diags TEXT
);
CREATE INDEX runs_by_task ON runs (task, start_at, id);
CREATE INDEX runs_by_created ON runs (created, id);
CREATE INDEX runs_planned ON runs (kind, start_at) WHERE state = 'planned';
CREATE INDEX runs_open ON runs (state, agent) WHERE state <> 'ended';
CREATE INDEX runs_leased ON runs (lease_agent) WHERE lease_agent IS NOT NULL;

-- Parts of a result in the order they came.
CREATE TABLE run_parts (
    run TEXT NOT NULL,
    seq BIGINT NOT NULL,
    part TEXT NOT NULL,
    PRIMARY KEY (run, seq)
);

-- Every move of a run.
CREATE TABLE run_events (
    run TEXT NOT NULL,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    verb TEXT NOT NULL,
    ok BIGINT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (run, seq)
);

-- The latest word of each check about a subject ('task:ID', 'agent:ID', 'item:ID').
CREATE TABLE decisions (
    subject TEXT NOT NULL,
    name TEXT NOT NULL,
    at BIGINT NOT NULL,
    ok BIGINT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (subject, name)
);

-- What strangers and peers were refused, counted.
CREATE TABLE refusals (
    wire TEXT NOT NULL,
    address TEXT NOT NULL,
    reason TEXT NOT NULL,
    peer TEXT NOT NULL,
    detail TEXT NOT NULL,
    times BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (wire, address, reason, peer)
);
CREATE INDEX refusals_by_last ON refusals (last_at);

CREATE TABLE hosts (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    serial TEXT,
    uuid TEXT,
    macs TEXT NOT NULL,
    addresses TEXT NOT NULL,
    os_name TEXT,
    os_version TEXT,
    device_type TEXT,
    inventory TEXT,
    inventory_at BIGINT,
    -- How it is monitored: NULL number while it is not.
    number BIGINT UNIQUE,
    proxy TEXT,
    monitor_address TEXT,
    monitor_port BIGINT,
    created BIGINT NOT NULL
);
CREATE INDEX hosts_by_proxy ON hosts (proxy);

-- What finds a host: kind is 'serial', 'uuid', 'mac' or 'name', value in lower case.
CREATE TABLE host_keys (
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    host TEXT NOT NULL,
    PRIMARY KEY (kind, value, host)
);
CREATE INDEX host_keys_by_host ON host_keys (host);

CREATE TABLE host_sources (
    host TEXT NOT NULL,
    wire TEXT NOT NULL,
    agent TEXT NOT NULL,
    what TEXT NOT NULL,
    at BIGINT NOT NULL,
    name TEXT,
    serial TEXT,
    uuid TEXT,
    macs TEXT NOT NULL,
    addresses TEXT NOT NULL,
    os_name TEXT,
    os_version TEXT,
    device_type TEXT,
    PRIMARY KEY (host, wire, agent, what)
);

CREATE TABLE items (
    id TEXT NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    item_type TEXT NOT NULL,
    value_type TEXT NOT NULL,
    unit TEXT NOT NULL,
    delay BIGINT,
    allowed TEXT NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (host, key)
);

-- Numbers that peers know things by, and the revision of what they should know.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

-- Who did what, as far as it changes what somebody may do.
CREATE TABLE audit (
    id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_by_at ON audit (at);
