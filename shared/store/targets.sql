-- Where personal data lies, row by row: the conditions of what a request reaches in each target (`reach_…`), and what is
-- done with them. Counting, hiding and a dry run are the same conditions, filled in at {{reach}}.

-- name: reach_search
-- Rows of persons as they were before the delete, or before a fragment left them: the upper half of their version is
-- the root's identity version.
project IN {projects:Array(UInt32)} AND fragment IN {keys:Array(UUID)}
    AND bitShiftRight(version, 64) < transform(fragment, {keys:Array(UUID)}, {bounds:Array(UInt64)}, toUInt64(0))

-- name: reach_timeline
-- Everything of the life before the erasure; the two tombstone topics stay.
project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
    AND topic NOT IN ('fragment.erased', 'person.deleted')
    AND version < if(startsWith(topic, 'person.'),
        transform(fragment, {fragments:Array(UUID)}, {iver:Array(UInt64)}, toUInt64(0)),
        transform(fragment, {fragments:Array(UUID)}, {life:Array(UInt64)}, toUInt64(0)))

-- name: reach_fragments
-- Superseded rows: the engine keeps them, old properties and all, until it happens to merge their parts. Every row of
-- a life before the erasure says `erased` below the delete's identity version; the erased row and what follows do not.
-- Not OPTIMIZE FINAL: that would rewrite the whole table for one person.
project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
    AND erased < transform(fragment, {fragments:Array(UUID)}, {iver:Array(UInt64)}, toUInt64(0))

-- name: reach_captured_events
-- Of an erased person: what came before the erase record. Of one who stays: what was received up to the cut-off.
project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
    AND (version < transform(fragment, {fragments:Array(UUID)}, {captured:Array(UInt64)}, toUInt64(0))
        OR toUnixTimestamp64Micro(received_at)
            <= transform(fragment, {fragments:Array(UUID)}, {captured_at:Array(Int64)}, toInt64(-1)))

-- name: reach_causes
-- Of one who stays without its events: what they were called stands beside what they changed.
project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)} AND actor = 'capture' AND source != ''
    AND toUnixTimestamp64Micro(at) <= transform(fragment, {fragments:Array(UUID)}, {captured_at:Array(Int64)}, toInt64(-1))

-- name: reach_recordings
-- As of captured events.
project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
    AND (version < transform(fragment, {fragments:Array(UUID)}, {recorded:Array(UInt64)}, toUInt64(0))
        OR toUnixTimestamp64Micro(received_at)
            <= transform(fragment, {fragments:Array(UUID)}, {recorded_at:Array(Int64)}, toInt64(-1)))

-- name: count
-- Rows by fragment and partition. Always one row: the sum, and three columns of equal length.
SELECT sum(found), groupArray(fragment), groupArray(partition), groupArray(found)
FROM
(
    SELECT fragment, _partition_id AS partition, count() AS found
    FROM {{table}}
    WHERE {{reach}}
    GROUP BY fragment, partition
)

-- name: hide
-- The comparison with {plan} is always true: it makes the text of this mutation one of its kind, so that no other run
-- can take its end for theirs.
DELETE FROM {{table}}
WHERE {{reach}} AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS lightweight_deletes_sync = 2, mutations_sync = 2

-- name: clear
-- Of rows that stay.
ALTER TABLE {{table}} UPDATE {{column}} = ''
WHERE {{reach}} AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS mutations_sync = 2

-- name: blocks
-- Where the blocks of recordings lie, object by object.
SELECT object, groupArray(fragment), groupArray(start), groupArray(length), toUnixTimestamp64Micro(max(received_at))
FROM {{table}}
WHERE {{reach}}
GROUP BY object
ORDER BY object

-- name: objects
-- How many objects have blocks.
SELECT uniqExact(object) FROM {{table}} WHERE {{reach}}

-- name: partition_bytes
-- Bytes on disk of some partitions of a table; always one row.
SELECT sum(bytes_on_disk)
FROM system.parts
WHERE database = currentDatabase() AND active AND table = {table:String} AND partition_id IN {partitions:Array(String)}
