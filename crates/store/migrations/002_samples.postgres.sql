-- Sample values (architecture, section 10): a row is a block of values, not a value.
CREATE TABLE sample_block (
    period      BIGINT NOT NULL,        -- day of arrival, since 1970; retention goes by it
    writer      TEXT   NOT NULL,        -- process that wrote it
    seq         BIGINT NOT NULL,        -- its order within that writer
    value_count BIGINT NOT NULL,
    clock_min   BIGINT NOT NULL,        -- seconds
    clock_max   BIGINT NOT NULL,
    item_min    BIGINT NOT NULL,
    item_max    BIGINT NOT NULL,
    items       BYTEA  NOT NULL,        -- interval set of the items within; empty: see item_min, item_max
    data        BYTEA  NOT NULL,
    PRIMARY KEY (period, writer, seq)
) PARTITION BY RANGE (period);       -- one partition a period, made on its first block
-- Compressed already.
ALTER TABLE sample_block ALTER COLUMN items SET STORAGE EXTERNAL;
ALTER TABLE sample_block ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX sample_block_writer ON sample_block (writer, seq);
CREATE INDEX sample_block_newest ON sample_block (clock_max);
CREATE INDEX sample_block_oldest ON sample_block (clock_min);

-- Which ids of an upload session were accepted.
CREATE TABLE sample_session (
    peer       TEXT   NOT NULL,
    session    TEXT   NOT NULL,
    ids        BYTEA  NOT NULL,         -- interval set
    touched_at BIGINT NOT NULL,
    PRIMARY KEY (peer, session)
);
CREATE INDEX sample_session_touched ON sample_session (touched_at);

ALTER TABLE sample_session ALTER COLUMN ids SET STORAGE EXTERNAL;

-- Newest value and newest error of each item as of the marks below; younger ones are in younger blocks.
CREATE TABLE sample_last (
    item        BIGINT PRIMARY KEY,
    value_clock BIGINT,
    value_ns    BIGINT,
    value       BYTEA,                  -- block of one value
    error_clock BIGINT,
    error_ns    BIGINT,
    error       BYTEA                   -- block of one error
);
CREATE TABLE sample_mark (
    writer TEXT PRIMARY KEY,
    seq    BIGINT NOT NULL
);
