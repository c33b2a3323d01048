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

-- name: masked_partitions
-- Where rows are hidden and not erased, and how many bytes rewriting takes; the smallest first, so that most is done
-- when a window is short.
SELECT table, partition_id, sum(bytes_on_disk) AS bytes
FROM system.parts
WHERE database = currentDatabase() AND active AND has_lightweight_delete AND table IN {tables:Array(String)}
GROUP BY table, partition_id
ORDER BY bytes, table, partition_id

-- name: unfinished_mutations
-- Somebody's mutations that still run; always one row.
SELECT count(), any(latest_fail_reason)
FROM system.mutations
WHERE database = currentDatabase() AND NOT is_done AND table IN {tables:Array(String)}

-- name: erase_partitions
-- Rewrite the parts of some partitions without their hidden rows, all in one mutation. Not waited for here: a large one
-- takes longer than any answer may.
ALTER TABLE {table:Identifier} {{commands}}
SETTINGS mutations_sync = 0

-- name: masked_parts
-- Parts of some partitions that still hide rows, and why their mutations fail; always one row.
SELECT
    (
        SELECT count() FROM system.parts
        WHERE database = currentDatabase() AND active AND has_lightweight_delete
            AND table = {table:String} AND partition_id IN {partitions:Array(String)}
    ),
    (
        SELECT anyIf(latest_fail_reason, latest_fail_reason != '') FROM system.mutations
        WHERE database = currentDatabase() AND NOT is_done AND table = {table:String}
    )

-- name: now
-- The engine's clock, in seconds, which is what it stamps its parts with.
SELECT toUInt32(now())

-- name: superseded_parts
-- Files of parts that were rewritten by then and are still on the disk.
SELECT count()
FROM system.parts
WHERE database = currentDatabase() AND NOT active AND table IN {tables:Array(String)}
    AND toUInt32(remove_time) <= {until:UInt32}

-- name: copies
-- Where else rows may lie: parts that somebody detached, and tables that a rebuild fills or has left behind.
SELECT concat('detached parts of ', table) AS place FROM system.detached_parts
WHERE database = currentDatabase() AND table IN {tables:Array(String)}
UNION DISTINCT
SELECT concat('the table ', name) FROM system.tables
WHERE database = currentDatabase() AND name IN {shadows:Array(String)}
