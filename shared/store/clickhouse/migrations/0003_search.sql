-- Persons as filters see them: one row for the root of each, fed behind the hot path by the projector. `version` is the
-- root's identity version in its upper half and the sum of its fragments' versions in its lower one: both only rise, so
-- the newest reading of a person wins, whoever wrote it. The rows of project 0 say how far the table is fed.
CREATE TABLE IF NOT EXISTS search
(
    project      UInt32 CODEC(LZ4),
    fragment     UUID CODEC(LZ4),
    version      UInt128 CODEC(LZ4),
    living       UInt8 CODEC(LZ4),             -- 0: absorbed, or deleted
    created_at   Int64 CODEC(LZ4),
    distinct_ids Array(String) CODEC(ZSTD(1)),
    properties   JSON(max_dynamic_paths = 512) CODEC(ZSTD(1)) -- dots in names are %2E; lists and objects are JSON text; nulls are left out
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project, fragment)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1;
