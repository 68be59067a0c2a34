-- What an agent owes its servers, and what it has begun for them; in the agent's own database.
CREATE TABLE spool_queue (
    name       TEXT   PRIMARY KEY,
    session    TEXT   NOT NULL,         -- under which a server counts this queue's ids
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

-- Jobs: the intent is written before the agent acts, so that it acts at most once.
CREATE TABLE spool_job (
    peer         TEXT   NOT NULL,
    run          TEXT   NOT NULL,
    generation   TEXT   NOT NULL,       -- unsigned 64 bits
    kind         TEXT   NOT NULL,
    fingerprint  TEXT   NOT NULL,
    begun_at     BIGINT NOT NULL,
    ended_at     BIGINT,
    ending       TEXT,
    acknowledged BIGINT NOT NULL,
    PRIMARY KEY (peer, run)
);
CREATE INDEX spool_job_begun ON spool_job (begun_at);

-- Small things an agent keeps: its id, tokens, pinned certificates.
CREATE TABLE spool_kept (
    name TEXT PRIMARY KEY,
    body BYTEA NOT NULL
);
