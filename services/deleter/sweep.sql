-- name: tombstones
-- The two facts of an erasure that stay in the timeline, for the fragments of a run.
SELECT fragment, topic, version, erase, toUnixTimestamp64Micro(at) AS at
FROM timeline
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
    AND topic IN ('fragment.erased', 'person.deleted')
LIMIT 1 BY fragment, topic, version

-- name: erased
-- Which delete each fragment's row has applied; it only rises, so the highest is the newest.
SELECT fragment, max(erased) AS erased
FROM fragments
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
GROUP BY fragment

-- name: positions
-- How far the projector is: the position rows of both topics that it folds.
SELECT fragment, max(version) FROM fragments WHERE project = 0 AND fragment IN {keys:Array(UUID)} GROUP BY fragment
UNION ALL
SELECT fragment, max(version) FROM identity WHERE project = 0 AND fragment IN {keys:Array(UUID)} GROUP BY fragment

-- name: former_roots
-- The roots that these fragments had before they last left a person, and when that was.
SELECT joined.root, max(gone.version)
FROM
(
    SELECT fragment, root, version FROM timeline
    WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
        AND topic IN ('person.joined', 'person.rerooted')
) AS joined
INNER JOIN
(
    SELECT fragment, version FROM timeline
    WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)} AND topic = 'person.left'
) AS gone ON joined.fragment = gone.fragment
WHERE joined.version < gone.version
GROUP BY joined.root

-- name: hide_search
-- Rows of persons as they were before the delete, or before a fragment left them: the upper half of their version is
-- the root's identity version.
DELETE FROM search
WHERE project IN {projects:Array(UInt32)} AND fragment IN {keys:Array(UUID)}
    AND bitShiftRight(version, 64) < transform(fragment, {keys:Array(UUID)}, {bounds:Array(UInt64)}, toUInt64(0))
    AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS lightweight_deletes_sync = 2, mutations_sync = 2

-- name: hide_timeline
-- Everything of the life before the erasure; the two tombstone topics stay. The comparison with {plan} is always true:
-- it makes the text of this mutation one of its kind, so that no other run can take its end for theirs.
DELETE FROM timeline
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
    AND topic NOT IN ('fragment.erased', 'person.deleted')
    AND version < if(startsWith(topic, 'person.'),
        transform(fragment, {fragments:Array(UUID)}, {iver:Array(UInt64)}, toUInt64(0)),
        transform(fragment, {fragments:Array(UUID)}, {life:Array(UInt64)}, toUInt64(0)))
    AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS lightweight_deletes_sync = 2, mutations_sync = 2

-- name: hide_fragments
-- Superseded rows: the engine keeps them, old properties and all, until it happens to merge their parts. Every row of
-- a life before the erasure says `erased` below the delete's identity version; the erased row and what follows do not.
-- Not OPTIMIZE FINAL: that would rewrite the whole table for one person.
DELETE FROM fragments
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
    AND erased < transform(fragment, {fragments:Array(UUID)}, {iver:Array(UInt64)}, toUInt64(0))
    AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS lightweight_deletes_sync = 2, mutations_sync = 2

-- name: hide_captured_events
-- Of an erased person: what came before the erase record. Of one who stays: what was received up to the cut-off.
DELETE FROM captured_events
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
    AND (version < transform(fragment, {fragments:Array(UUID)}, {captured:Array(UInt64)}, toUInt64(0))
        OR toUnixTimestamp64Micro(received_at)
            <= transform(fragment, {fragments:Array(UUID)}, {captured_at:Array(Int64)}, toInt64(-1)))
    AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS lightweight_deletes_sync = 2, mutations_sync = 2

-- name: hide_causes
-- Of one who stays without its events: what they were called stands beside what they changed.
ALTER TABLE timeline UPDATE source = ''
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)} AND actor = 'capture' AND source != ''
    AND toUnixTimestamp64Micro(at) <= transform(fragment, {fragments:Array(UUID)}, {captured_at:Array(Int64)}, toInt64(-1))
    AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS mutations_sync = 2

-- name: hide_recordings
-- Sessions in which a member took part and that began up to the cut-off.
DELETE FROM recordings
WHERE project IN {projects:Array(UInt32)} AND hasAny(fragments, {fragments:Array(UUID)})
    AND arrayExists(member -> toUnixTimestamp64Micro(started_at)
        <= transform(member, {fragments:Array(UUID)}, {recorded_at:Array(Int64)}, toInt64(-1)), fragments)
    AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS lightweight_deletes_sync = 2, mutations_sync = 2

-- name: masked_partitions
-- Where rows are hidden and not erased.
SELECT DISTINCT table, partition_id
FROM system.parts
WHERE database = currentDatabase() AND active AND has_lightweight_delete AND table IN {tables:Array(String)}
ORDER BY table, partition_id

-- name: unfinished_mutations
-- Somebody's mutations that still run; always one row.
SELECT count(), any(latest_fail_reason)
FROM system.mutations
WHERE database = currentDatabase() AND NOT is_done AND table IN {tables:Array(String)}

-- name: erase_partition
-- Rewrite the parts of one partition without their hidden rows.
ALTER TABLE {table:Identifier} APPLY DELETED MASK IN PARTITION ID {partition:String}
SETTINGS mutations_sync = 2
