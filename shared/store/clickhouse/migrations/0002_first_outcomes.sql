-- A repeated Idempotency-Key answers with the first outcome: beside each key, a digest of the request and the version
-- of the record that came with it first.

ALTER TABLE fragments ADD COLUMN IF NOT EXISTS key_digests Array(UInt64) CODEC(LZ4) AFTER keys;

ALTER TABLE fragments ADD COLUMN IF NOT EXISTS key_versions Array(UInt64) CODEC(LZ4) AFTER key_digests;

ALTER TABLE identity ADD COLUMN IF NOT EXISTS key_digests Array(UInt64) CODEC(LZ4) AFTER keys;

ALTER TABLE identity ADD COLUMN IF NOT EXISTS key_versions Array(UInt64) CODEC(LZ4) AFTER key_digests;

-- Rebuilds of fragments and identity: how far each is, and how each ended. `epoch` counts them.
CREATE TABLE IF NOT EXISTS rebuilds
(
    epoch    UInt64 CODEC(LZ4),
    version  UInt64 CODEC(LZ4),
    document String CODEC(LZ4)              -- JSON: state, positions, cursor, rows, differences
)
ENGINE = ReplacingMergeTree(version)
ORDER BY epoch
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
