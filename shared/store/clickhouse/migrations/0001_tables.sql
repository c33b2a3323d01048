-- The tables of DESIGN.md §2. Codecs are explicit everywhere: a delete on the default codec grew a table by 48 %.
-- fragments and identity have no PARTITION BY: one INSERT must stay one part, or the position row could be torn
-- from the rows it vouches for. Point-read tables: granularity 64, LZ4 by name, small compressed blocks.

CREATE TABLE IF NOT EXISTS fragments
(
    project     UInt32 CODEC(LZ4),
    fragment    UUID CODEC(LZ4),
    version     UInt64 CODEC(LZ4),
    distinct_id String CODEC(LZ4),
    number      UInt64 CODEC(LZ4),
    created_at  Int64 CODEC(LZ4),          -- microseconds; 0: never born, or erased and not born again
    effect      UInt64 CODEC(LZ4),         -- version of the last record that changed something
    stamp       Int64 CODEC(LZ4),          -- microseconds; the highest stamp given so far
    erased      UInt64 CODEC(LZ4),         -- identity version of the last delete that was applied here
    erased_at   Int64 CODEC(LZ4),
    seen_at     Int64 CODEC(LZ4),          -- microseconds, floored to the hour; 0: never by a captured event
    properties  String CODEC(LZ4),         -- the visible document, JSON
    cells       String CODEC(LZ4),         -- JSON: name -> [kind, hard stamp, once stamp]
    keys        Array(UInt64) CODEC(LZ4),  -- recent Idempotency-Key hashes
    events      Array(UInt64) CODEC(LZ4)   -- recent captured-event uuids, hashed
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project, fragment)
SETTINGS index_granularity = 64, min_compress_block_size = 4096, max_compress_block_size = 8192,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS identity
(
    project    UInt32 CODEC(LZ4),
    fragment   UUID CODEC(LZ4),
    version    UInt64 CODEC(LZ4),
    root       UUID CODEC(LZ4),
    members    Array(UUID) CODEC(LZ4),     -- on the root's row only, in order of joining
    identified UInt8 CODEC(LZ4),
    erase      UInt64 CODEC(LZ4),          -- version of the last delete that covers this fragment
    stamp      Int64 CODEC(LZ4),
    keys       Array(UInt64) CODEC(LZ4)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project, fragment)
SETTINGS index_granularity = 64, min_compress_block_size = 4096, max_compress_block_size = 8192,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

-- The durable event store: fragments and identity can be rebuilt from it. `topic` ends the key because a fragment's
-- version (an offset of its commands partition) and its identity version (an offset of its project's identity
-- partition) are numbers of two logs, and may be equal.
CREATE TABLE IF NOT EXISTS timeline
(
    project     UInt32 CODEC(LZ4),
    fragment    UUID CODEC(LZ4),
    version     UInt64 CODEC(ZSTD(1)),
    topic       LowCardinality(String) CODEC(LZ4),
    at          DateTime64(6, 'UTC') CODEC(ZSTD(1)),      -- server receive time
    stamp       Int64 CODEC(ZSTD(1)),                     -- the order across fragments
    command     UUID CODEC(LZ4),
    actor       LowCardinality(String) CODEC(LZ4),
    source      LowCardinality(String) CODEC(LZ4),        -- the captured event's name, or the REST reason
    distinct_id String CODEC(ZSTD(1)),                    -- set where the fragment is born
    number      UInt64 CODEC(ZSTD(1)),                    -- set where the fragment is born
    created_at  Int64 CODEC(ZSTD(1)),                     -- set where the fragment is born
    keys        Array(LowCardinality(String)) CODEC(LZ4),
    kinds       Array(UInt8) CODEC(LZ4),                  -- 1 set, 2 set to null, 3 unset, 4 set_once
    before      Array(String) CODEC(ZSTD(1)),             -- JSON of the visible value before; '' when absent
    after       Array(String) CODEC(ZSTD(1)),             -- JSON of the operation's value; '' for unset
    root        UUID CODEC(LZ4),                          -- the identity after a merge, split or delete
    members     Array(UUID) CODEC(LZ4),
    identified  UInt8 CODEC(LZ4),
    erase       UInt64 CODEC(ZSTD(1)),                    -- also the identity version on an erasure
    peer        UUID CODEC(LZ4),                          -- the other person of a merge or split
    reason      LowCardinality(String) CODEC(LZ4)         -- why a command was refused
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(at)
ORDER BY (project, fragment, version, topic)
SETTINGS index_granularity = 512,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS numbers
(
    project  UInt32 CODEC(LZ4),
    number   UInt64 CODEC(LZ4),
    fragment UUID CODEC(LZ4)
)
ENGINE = ReplacingMergeTree
ORDER BY (project, number)
SETTINGS index_granularity = 64, min_compress_block_size = 4096, max_compress_block_size = 8192,
    fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

-- Ordered by uuid without the timestamp: a resent event has a new sent_at, so its skew-corrected time moves, and with
-- the time in the key it was a second row for ever.
CREATE TABLE IF NOT EXISTS captured_events
(
    project     UInt32 CODEC(LZ4),
    fragment    UUID CODEC(LZ4),
    timestamp   DateTime64(6, 'UTC') CODEC(ZSTD(1)),      -- the event's own time, skew corrected
    uuid        UUID CODEC(LZ4),
    version     UInt64 CODEC(ZSTD(1)),
    event       LowCardinality(String) CODEC(LZ4),
    distinct_id String CODEC(ZSTD(1)),
    properties  String CODEC(ZSTD(1)),
    received_at DateTime64(6, 'UTC') CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (project, fragment, uuid)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS recordings
(
    project     UInt32 CODEC(LZ4),
    session     String CODEC(LZ4),
    version     UInt64 CODEC(LZ4),
    fragments   Array(UUID) CODEC(LZ4),
    started_at  DateTime64(6, 'UTC') CODEC(LZ4),
    ended_at    DateTime64(6, 'UTC') CODEC(LZ4),
    bytes       UInt64 CODEC(LZ4),
    blocks      String CODEC(LZ4)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project, session);

-- The deleter's ledger. `version` counts the events of one request.
CREATE TABLE IF NOT EXISTS deletion_requests
(
    project    UInt32 CODEC(LZ4),
    request    UUID CODEC(LZ4),
    version    UInt64 CODEC(LZ4),
    state      LowCardinality(String) CODEC(LZ4),
    created_at Int64 CODEC(LZ4),
    updated_at Int64 CODEC(LZ4),
    person     UUID CODEC(LZ4),
    members    Array(UUID) CODEC(LZ4),
    profile    UInt8 CODEC(LZ4),
    events     UInt8 CODEC(LZ4),
    recordings UInt8 CODEC(LZ4),
    cutoff     Int64 CODEC(LZ4),
    actor      String CODEC(LZ4),
    document   String CODEC(LZ4)            -- JSON: counts by target, partition i of n, reason, history
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project, request)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

-- How far the deleter has taken requests over from the log: (topic partition) -> version.
CREATE TABLE IF NOT EXISTS deletion_positions
(
    partition UInt32 CODEC(LZ4),
    version   UInt64 CODEC(LZ4)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY partition
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;

CREATE TABLE IF NOT EXISTS projects
(
    project UInt32 CODEC(LZ4),
    version UInt64 CODEC(LZ4),
    name    String CODEC(LZ4),
    token   String CODEC(LZ4),              -- phc_…: public, capture only
    zone    String CODEC(LZ4)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY project;

CREATE TABLE IF NOT EXISTS api_keys
(
    id         UUID CODEC(LZ4),
    version    UInt64 CODEC(LZ4),
    name       String CODEC(LZ4),
    hash       String CODEC(LZ4),           -- sha-256 of the phx_… key, hex
    scopes     Array(String) CODEC(LZ4),
    projects   Array(UInt32) CODEC(LZ4),    -- empty: all
    expires_at Int64 CODEC(LZ4),            -- microseconds; 0: never
    revoked    UInt8 CODEC(LZ4)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id;

-- For analysts: one row per property whose visible value differs, in the order of the changes.
CREATE VIEW IF NOT EXISTS property_changes AS
SELECT
    project, fragment, at, stamp, version, actor, source, command,
    key, before, after
FROM timeline
ARRAY JOIN keys AS key, kinds AS kind, timeline.before AS before, timeline.after AS after
WHERE before != after;
