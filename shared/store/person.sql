-- name: fragments
-- The newest row of each fragment asked for, and the position rows (project 0) that say how new the answer is. A row
-- above the bound comes without its texts: whether a person shows them is decided by its size.
SELECT project, fragment, version, distinct_id, number, created_at, effect, stamp, erased, seen_at,
    if(size > {row_bytes_max:UInt64}, '', properties) AS shown, if(size > {row_bytes_max:UInt64}, '', cells) AS moved,
    length(properties) + length(cells) AS size
FROM fragments
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
ORDER BY project, fragment, version DESC
LIMIT 1 BY project, fragment

-- name: identities
-- The newest identity row of each fragment asked for, and position rows; a fragment never merged has none.
SELECT project, fragment, version, root, members, identified, erase, stamp
FROM identity
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)}
ORDER BY project, fragment, version DESC
LIMIT 1 BY project, fragment
