-- name: page
-- Facts behind the cursor in the order of their keys: of everybody, or of some fragments. An erasure that was taken back
-- up to the positions that are derived is left out, as if it had never been. What a fold does not need
-- stays away: it would be most of the bytes. A uuid that comes often is decoded once: of four columns 0.3 µs a row, not
-- 3.4; their names are others than the table's, whose order is wanted.
SELECT project, toLowCardinality(fragment) AS one_fragment, version, topic,
    if(topic = 'fragment.erased', toUnixTimestamp64Micro(at), 0) AS at, stamp, '' AS command, '' AS actor, '' AS source,
    distinct_id, number, created_at, keys, kinds, '' AS before, after, toLowCardinality(root) AS one_root, members,
    identified, erase, toLowCardinality(toUUID('00000000-0000-0000-0000-000000000000')) AS peer, '' AS reason,
    scope, erased_at, left_out
FROM timeline
WHERE project != 0 AND project >= {project:UInt32} AND (project > {project:UInt32} OR fragment >= {fragment:UUID})
    AND (topic != 'fragment.erased' OR (project, fragment, erase) NOT IN (
        SELECT project, fragment, erase FROM timeline
        WHERE topic = 'fragment.restored' AND project >= {project:UInt32} AND version <= arrayElement(
            {commands:Array(UInt64)}, toUInt32(bitShiftRight(toUInt128(fragment), 64) % {partitions:UInt32}) + 1)))
    AND (project, fragment, version, toString(topic))
        > ({project:UInt32}, {fragment:UUID}, {version:UInt64}, {topic:String})
    AND ({everybody:UInt8} = 1 OR fragment IN {fragments:Array(UUID)})
ORDER BY project, fragment, version, topic
LIMIT 1 BY project, fragment, version, topic
LIMIT {limit:UInt32}

-- name: cuts
-- What was purged up to the positions that are derived, of the fragments from one key up to another: everybody, or some.
SELECT project, fragment, {{cuts}}
FROM timeline
WHERE topic = 'fragment.purged'
    AND project >= {project:UInt32} AND (project > {project:UInt32} OR fragment >= {fragment:UUID})
    AND project <= {last_project:UInt32} AND (project < {last_project:UInt32} OR fragment <= {last_fragment:UUID})
    AND ({everybody:UInt8} = 1 OR fragment IN {fragments:Array(UUID)})
    AND version <= arrayElement(
        {commands:Array(UInt64)}, toUInt32(bitShiftRight(toUInt128(fragment), 64) % {partitions:UInt32}) + 1)
GROUP BY project, fragment

-- name: live_fragments
-- The rows that are to be derived again, from behind one key up to another: what they hold of retries is carried over.
SELECT project, fragment, version, distinct_id, number, created_at, effect, stamp, erased, erased_at, seen_at,
    properties, cells, keys, key_digests, key_versions, events, restored, purged
FROM fragments
WHERE project != 0 AND project >= {project:UInt32} AND (project > {project:UInt32} OR fragment >= {fragment:UUID})
    AND (project, fragment) > ({project:UInt32}, {fragment:UUID})
    AND project <= {last_project:UInt32} AND (project < {last_project:UInt32} OR fragment <= {last_fragment:UUID})
    AND ({everybody:UInt8} = 1 OR fragment IN {fragments:Array(UUID)})
ORDER BY project, fragment, version DESC
LIMIT 1 BY project, fragment
LIMIT {limit:UInt32}

-- name: live_identity
-- The same of identity.
SELECT project, fragment, version, root, members, identified, erase, stamp, keys, key_digests, key_versions, erased_at
FROM identity
WHERE project != 0 AND project >= {project:UInt32} AND (project > {project:UInt32} OR fragment >= {fragment:UUID})
    AND (project, fragment) > ({project:UInt32}, {fragment:UUID})
    AND project <= {last_project:UInt32} AND (project < {last_project:UInt32} OR fragment <= {last_fragment:UUID})
    AND ({everybody:UInt8} = 1 OR fragment IN {fragments:Array(UUID)})
ORDER BY project, fragment, version DESC
LIMIT 1 BY project, fragment
LIMIT {limit:UInt32}

-- name: changed
-- Who has a fact or a newer row since these positions: the versions reached, by partition of commands and of identity.
SELECT DISTINCT project, fragment
FROM
(
    SELECT project, fragment, version, startsWith(topic, 'person.') AS membership FROM timeline WHERE project != 0
    UNION ALL
    SELECT project, fragment, version, 0 FROM fragments WHERE project != 0
    UNION ALL
    SELECT project, fragment, version, 1 FROM identity WHERE project != 0
)
WHERE version > if(membership = 1, arrayElement({identity:Array(UInt64)}, project % {identities:UInt32} + 1),
        arrayElement({commands:Array(UInt64)}, toUInt32(bitShiftRight(toUInt128(fragment), 64) % {partitions:UInt32}) + 1))
    AND (project, fragment) > ({project:UInt32}, {fragment:UUID})
ORDER BY project, fragment
LIMIT {limit:UInt32}

-- name: facts
-- How many facts there are, for the progress bar: an estimate, while duplicates wait to be merged.
SELECT count() FROM timeline WHERE project != 0

-- name: epochs
-- The newest rebuild.
SELECT epoch, max(version), argMax(document, version) FROM rebuilds GROUP BY epoch ORDER BY epoch DESC LIMIT 1

-- name: shadow_fragments
-- An empty table like the live one, that a table of another epoch's worker cannot write to.
CREATE TABLE IF NOT EXISTS fragments_rebuild AS fragments

-- name: shadow_identity
CREATE TABLE IF NOT EXISTS identity_rebuild AS identity

-- name: shadow_search
CREATE TABLE IF NOT EXISTS search_rebuild AS search

-- name: compare_search
-- Rows that are live and were made again from the same versions, and how many of them differ.
SELECT count(), countIf(live.hash != made.hash)
FROM
(
    SELECT project, fragment, version, cityHash64(living, created_at, distinct_ids, toString(properties)) AS hash
    FROM search FINAL WHERE project != 0
) AS live
INNER JOIN
(
    SELECT project, fragment, version, cityHash64(living, created_at, distinct_ids, toString(properties)) AS hash
    FROM search_rebuild FINAL WHERE project != 0
) AS made
ON live.project = made.project AND live.fragment = made.fragment AND live.version = made.version

-- name: drop
DROP TABLE IF EXISTS {table:Identifier} SYNC

-- name: release
-- Let projectors write again; also drops what the shadow copied from the live table.
ALTER TABLE {table:Identifier} DROP CONSTRAINT IF EXISTS held

-- name: forget_epoch
ALTER TABLE {table:Identifier} DROP CONSTRAINT IF EXISTS epoch

-- name: epoch_of_fragments
-- Position rows of another epoch are refused, and with them the block that they came in.
ALTER TABLE fragments_rebuild ADD CONSTRAINT IF NOT EXISTS epoch CHECK project != 0 OR epoch = {epoch:UInt64}

-- name: epoch_of_identity
ALTER TABLE identity_rebuild ADD CONSTRAINT IF NOT EXISTS epoch CHECK project != 0 OR epoch = {epoch:UInt64}

-- name: hold
-- Refuse every batch for a while; a rebuild that dies lets go by itself.
ALTER TABLE {table:Identifier} ADD CONSTRAINT held
    CHECK project != 0 OR now64(3) >= fromUnixTimestamp64Milli({until:Int64})

-- name: now
SELECT toUnixTimestamp64Milli(now64(3))

-- name: inserting
-- INSERTs that began before the hold and still run.
SELECT count() FROM system.processes
WHERE startsWith(query, 'INSERT INTO fragments ') OR startsWith(query, 'INSERT INTO identity ')
    OR startsWith(query, 'INSERT INTO `fragments`') OR startsWith(query, 'INSERT INTO `identity`')

-- name: count_fragments
-- Keys, each once.
SELECT count() FROM fragments FINAL WHERE project != 0

-- name: count_fragments_rebuild
SELECT count() FROM fragments_rebuild FINAL WHERE project != 0

-- name: count_identity
SELECT count() FROM identity FINAL WHERE project != 0

-- name: count_identity_rebuild
SELECT count() FROM identity_rebuild FINAL WHERE project != 0

-- name: compact
-- What is superseded in the shadow must not outlive the life that it tells of.
OPTIMIZE TABLE {table:Identifier} FINAL

-- name: swap
EXCHANGE TABLES {table:Identifier} AND {shadow:Identifier}
