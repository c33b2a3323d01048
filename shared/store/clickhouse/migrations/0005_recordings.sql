-- Recordings by block. The table of 0001 was never written: sessions whole, in it, would have to be read and written
-- again for every block, and rewritten for every person that leaves one.

DROP TABLE IF EXISTS recordings SYNC;

CREATE TABLE IF NOT EXISTS recording_blocks
(
    project     UInt32 CODEC(LZ4),
    fragment    UUID CODEC(LZ4),                          -- of the distinct id that the block was sent with
    session     String CODEC(ZSTD(1)),
    block       UUID CODEC(LZ4),
    version     UInt64 CODEC(ZSTD(1)),
    object      String CODEC(ZSTD(1)),                    -- path in the object store; it holds blocks of others too
    start       UInt64 CODEC(ZSTD(1)),                    -- bytes
    length      UInt64 CODEC(ZSTD(1)),
    started_at  DateTime64(6, 'UTC') CODEC(ZSTD(1)),      -- of the first and the last snapshot in it
    ended_at    DateTime64(6, 'UTC') CODEC(ZSTD(1)),
    received_at DateTime64(6, 'UTC') CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(received_at)
ORDER BY (project, fragment, session, block)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 1, cleanup_delay_period = 1, max_cleanup_delay_period = 2, cleanup_delay_period_random_add = 0;

-- The engine keeps the old part beside a rewritten one for eight minutes, for the case that the new one was not synced,
-- and then looks for it every half minute to five minutes: erased rows, in clear. Here every new part is synced before
-- the old one goes (min_rows_to_fsync_after_merge). A table takes the new delay when the one that runs has ended.
ALTER TABLE fragments MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1,
    max_cleanup_delay_period = 2, cleanup_delay_period_random_add = 0;

ALTER TABLE timeline MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1,
    max_cleanup_delay_period = 2, cleanup_delay_period_random_add = 0;

ALTER TABLE captured_events MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1,
    max_cleanup_delay_period = 2, cleanup_delay_period_random_add = 0;

ALTER TABLE search MODIFY SETTING old_parts_lifetime = 1, cleanup_delay_period = 1,
    max_cleanup_delay_period = 2, cleanup_delay_period_random_add = 0;
