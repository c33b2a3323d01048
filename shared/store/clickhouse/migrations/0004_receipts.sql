-- Receipts of verified erasures: signed, and chained by project. A row is never changed; `sequence` counts from 1.
CREATE TABLE IF NOT EXISTS receipts
(
    project  UInt32 CODEC(LZ4),
    sequence UInt64 CODEC(LZ4),
    request  UUID CODEC(LZ4),
    hash     String CODEC(LZ4),             -- sha-256 of the signed part, hex: what the next one names as `previous`
    body     String CODEC(ZSTD(1))          -- the whole receipt, JSON
)
ENGINE = ReplacingMergeTree
ORDER BY (project, sequence)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
