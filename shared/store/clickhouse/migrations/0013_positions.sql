-- Position rows (project 0) say of which log they tell: columns of their own, which no row of a person uses.

-- 'position' on a position row.
ALTER TABLE fragments ADD COLUMN IF NOT EXISTS kind LowCardinality(String) CODEC(LZ4);

ALTER TABLE identity ADD COLUMN IF NOT EXISTS kind LowCardinality(String) CODEC(LZ4);

-- Counts the rebuilds of the table; rows of before this version have it in number, or in erase.
ALTER TABLE fragments ADD COLUMN IF NOT EXISTS epoch UInt64 CODEC(LZ4);

ALTER TABLE identity ADD COLUMN IF NOT EXISTS epoch UInt64 CODEC(LZ4);

-- Of the log.
ALTER TABLE fragments ADD COLUMN IF NOT EXISTS generation UInt8 CODEC(LZ4);

ALTER TABLE identity ADD COLUMN IF NOT EXISTS generation UInt8 CODEC(LZ4);

-- Hash of the bytes of the last record that the row vouches for; 0: not known.
ALTER TABLE fragments ADD COLUMN IF NOT EXISTS record UInt64 CODEC(LZ4);

ALTER TABLE identity ADD COLUMN IF NOT EXISTS record UInt64 CODEC(LZ4);

ALTER TABLE deletion_positions ADD COLUMN IF NOT EXISTS record UInt64 CODEC(LZ4);

-- A rebuild of before this version: it would refuse the epoch where it stands now.
ALTER TABLE fragments DROP CONSTRAINT IF EXISTS epoch;

ALTER TABLE identity DROP CONSTRAINT IF EXISTS epoch;

-- The generations of the log: what it is known by, as JSON (shared/log/identity.py), and its partition counts by topic.
CREATE TABLE IF NOT EXISTS log_generations
(
    generation UInt8 CODEC(LZ4),
    version    UInt64 CODEC(LZ4),              -- microseconds
    state      LowCardinality(String) CODEC(LZ4), -- open, closed
    identity   String CODEC(LZ4),
    partitions Map(String, UInt32) CODEC(LZ4)
)
ENGINE = ReplacingMergeTree(version)
ORDER BY generation
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
