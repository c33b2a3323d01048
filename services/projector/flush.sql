-- name: load_fragments
-- The newest row of each fragment asked for, the position rows (project 0) among them: one SELECT, one snapshot.
-- LIMIT 1 BY, not FINAL: 3-4 times faster over unmerged parts.
SELECT project, fragment, version, distinct_id, number, created_at, effect, stamp, erased, erased_at, seen_at,
    properties, cells, keys, key_digests, key_versions, events, restored
FROM fragments
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
ORDER BY project, fragment, version DESC
LIMIT 1 BY project, fragment

-- name: load_identity
-- The same for identity rows.
SELECT project, fragment, version, root, members, identified, erase, stamp, keys, key_digests, key_versions, erased_at
FROM identity
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
ORDER BY project, fragment, version DESC
LIMIT 1 BY project, fragment
