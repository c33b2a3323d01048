-- name: load_fragments
-- The newest row of each fragment asked for, the position rows (project 0) among them: one SELECT, one snapshot.
-- LIMIT 1 BY, not FINAL: 3-4 times faster over unmerged parts. A row above the bound comes without its texts and with
-- their size as `large`.
SELECT project, fragment, version, distinct_id, number, created_at, effect, stamp, erased, erased_at, seen_at,
    if(large = 0, properties, '') AS shown, if(large = 0, cells, '') AS moved, keys, key_digests, key_versions, events,
    restored, purged,
    if(length(properties) + length(cells) > {row_bytes_max:UInt64}, length(properties) + length(cells), 0) AS large,
    kind, epoch, generation, record
FROM fragments
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
ORDER BY project, fragment, version DESC
LIMIT 1 BY project, fragment

-- name: load_identity
-- The same for identity rows.
SELECT project, fragment, version, root, members, identified, erase, stamp, keys, key_digests, key_versions, erased_at, kind,
    epoch, generation, record
FROM identity
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
ORDER BY project, fragment, version DESC
LIMIT 1 BY project, fragment

-- name: ends_of_lives
-- Where the lives of a fragment ended, what of that was taken back, and what was purged, up to a version.
SELECT project, fragment, version, topic, toUnixTimestamp64Micro(at) AS at, stamp, command, actor, source, distinct_id,
    number, created_at, keys, kinds, before, after, root, members, identified, erase, peer, reason, scope, erased_at,
    left_out
FROM timeline
WHERE project = {project:UInt32} AND fragment = {fragment:UUID} AND version < {until:UInt64}
    AND topic IN ('fragment.erased', 'fragment.restored', 'fragment.purged')
ORDER BY version
LIMIT 1 BY version

-- name: facts_of_life
-- What happened to a fragment between two versions, page by page; one record tells at most one fact of it.
SELECT project, fragment, version, topic, toUnixTimestamp64Micro(at) AS at, stamp, command, actor, source, distinct_id,
    number, created_at, keys, kinds, '' AS before, after, root, members, identified, erase, peer, reason, scope,
    erased_at, left_out
FROM timeline
WHERE project = {project:UInt32} AND fragment = {fragment:UUID} AND version > {after:UInt64}
    AND version < {until:UInt64} AND startsWith(topic, 'fragment.')
ORDER BY version
LIMIT 1 BY version
LIMIT {limit:UInt32}

-- name: last_seen
-- When a fragment was last seen in a life, microseconds: by an event with person processing. 0 without one.
SELECT toUnixTimestamp64Micro(max(timestamp))
FROM captured_events
WHERE project = {project:UInt32} AND fragment = {fragment:UUID} AND version > {since:UInt64}
    AND version < {until:UInt64} AND JSONExtractRaw(properties, '$process_person_profile') != 'false'
