-- What an agent owes its servers, in its own database.
CREATE TABLE spool_queue (
    name       TEXT   PRIMARY KEY,
    session    TEXT   NOT NULL,         -- name under which a server counts this queue's ids
    next_id    BIGINT NOT NULL,
    entries    BIGINT NOT NULL,
    size_bytes BIGINT NOT NULL,
    dropped    BIGINT NOT NULL          -- entries lost to the bound, ever
);
CREATE TABLE spool_entry (
    queue   TEXT   NOT NULL,
    id      BIGINT NOT NULL,
    body    BYTEA  NOT NULL,
    made_at BIGINT NOT NULL,
    PRIMARY KEY (queue, id)
);

-- Tasks this agent has begun: written before it acts, so that it acts at most once.
CREATE TABLE spool_intent (
    task     TEXT   PRIMARY KEY,
    made_at  BIGINT NOT NULL,
    ended_at BIGINT,
    outcome  BYTEA
);
CREATE INDEX spool_intent_made ON spool_intent (made_at);

-- Small things an agent keeps: its id, tokens' places, pinned certificates.
CREATE TABLE spool_kept (
    name TEXT PRIMARY KEY,
    body BYTEA NOT NULL
);
