-- Where personal data lies, row by row: what a request reaches in each target, counted by fragment and partition. The
-- sweep counts so before it hides and after it has erased (through the mask); a dry run counts what is visible.
-- Always one row: the sum, and three columns of equal length.

-- name: remnants_search
-- The rows that hide_search hides.
SELECT sum(found), groupArray(fragment), groupArray(partition), groupArray(found)
FROM
(
    SELECT fragment, _partition_id AS partition, count() AS found
    FROM search
    WHERE project IN {projects:Array(UInt32)} AND fragment IN {keys:Array(UUID)}
        AND bitShiftRight(version, 64) < transform(fragment, {keys:Array(UUID)}, {bounds:Array(UInt64)}, toUInt64(0))
    GROUP BY fragment, partition
)

-- name: remnants_timeline
-- The rows that hide_timeline hides.
SELECT sum(found), groupArray(fragment), groupArray(partition), groupArray(found)
FROM
(
    SELECT fragment, _partition_id AS partition, count() AS found
    FROM timeline
    WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
        AND topic NOT IN ('fragment.erased', 'person.deleted')
        AND version < if(startsWith(topic, 'person.'),
            transform(fragment, {fragments:Array(UUID)}, {iver:Array(UInt64)}, toUInt64(0)),
            transform(fragment, {fragments:Array(UUID)}, {life:Array(UInt64)}, toUInt64(0)))
    GROUP BY fragment, partition
)

-- name: remnants_fragments
-- The rows that hide_fragments hides.
SELECT sum(found), groupArray(fragment), groupArray(partition), groupArray(found)
FROM
(
    SELECT fragment, _partition_id AS partition, count() AS found
    FROM fragments
    WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
        AND erased < transform(fragment, {fragments:Array(UUID)}, {iver:Array(UInt64)}, toUInt64(0))
    GROUP BY fragment, partition
)

-- name: remnants_captured_events
-- The rows that hide_captured_events hides.
SELECT sum(found), groupArray(fragment), groupArray(partition), groupArray(found)
FROM
(
    SELECT fragment, _partition_id AS partition, count() AS found
    FROM captured_events
    WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
        AND (version < transform(fragment, {fragments:Array(UUID)}, {captured:Array(UInt64)}, toUInt64(0))
            OR toUnixTimestamp64Micro(received_at)
                <= transform(fragment, {fragments:Array(UUID)}, {captured_at:Array(Int64)}, toInt64(-1)))
    GROUP BY fragment, partition
)

-- name: remnants_causes
-- The rows that hide_causes changes.
SELECT sum(found), groupArray(fragment), groupArray(partition), groupArray(found)
FROM
(
    SELECT fragment, _partition_id AS partition, count() AS found
    FROM timeline
    WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)} AND actor = 'capture'
        AND source != '' AND toUnixTimestamp64Micro(at)
            <= transform(fragment, {fragments:Array(UUID)}, {captured_at:Array(Int64)}, toInt64(-1))
    GROUP BY fragment, partition
)

-- name: remnants_recordings
-- The rows that hide_recordings hides, each counted for every member in it.
SELECT sum(found), groupArray(fragment), groupArray(partition), groupArray(found)
FROM
(
    SELECT arrayJoin(arrayIntersect(fragments, {fragments:Array(UUID)})) AS fragment, _partition_id AS partition, count() AS found
    FROM recordings
    WHERE project IN {projects:Array(UInt32)} AND hasAny(fragments, {fragments:Array(UUID)})
        AND arrayExists(member -> toUnixTimestamp64Micro(started_at)
            <= transform(member, {fragments:Array(UUID)}, {recorded_at:Array(Int64)}, toInt64(-1)), fragments)
    GROUP BY fragment, partition
)

-- name: partition_bytes
-- Bytes on disk of some partitions of a table; always one row.
SELECT sum(bytes_on_disk)
FROM system.parts
WHERE database = currentDatabase() AND active AND table = {table:String} AND partition_id IN {partitions:Array(String)}
