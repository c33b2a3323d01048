-- name: fragments
-- The newest row of each fragment asked for, and the position rows (project 0) that say how new the answer is.
SELECT project, fragment, version, distinct_id, number, created_at, effect, stamp, erased, seen_at, properties, cells
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

-- name: numbers
-- The fragments behind integer ids.
SELECT project, number, any(fragment)
FROM numbers
WHERE project IN {projects:Array(UInt32)} AND number IN {numbers:Array(UInt64)}
GROUP BY project, number

-- name: watermarks
-- Every position row: how far reads reach in each partition, and the highest stamp given there.
SELECT fragment, max(version), max(stamp) FROM fragments WHERE project = 0 GROUP BY fragment
UNION ALL
SELECT fragment, max(version), max(stamp) FROM identity WHERE project = 0 GROUP BY fragment
UNION ALL
SELECT toUUID('00000000-0000-0000-0000-000000000064'), max(version), 0 FROM deletion_positions
HAVING count() > 0

-- name: roots_page
-- One page of living persons, newest first: the root, by (created_at, root) below the cursor. Filters are hints that
-- narrow the fragments; the caller judges the merged view.
WITH
    living AS
    (
        SELECT fragment, created_at, erased, distinct_id, properties
        FROM fragments
        WHERE project = {project:UInt32}
        ORDER BY fragment, version DESC
        LIMIT 1 BY fragment
    ),
    membership AS
    (
        SELECT fragment, root, erase
        FROM identity
        WHERE project = {project:UInt32}
        ORDER BY fragment, version DESC
        LIMIT 1 BY fragment
    )
SELECT if(membership.root = toUUID('00000000-0000-0000-0000-000000000000'), living.fragment, membership.root) AS person,
    min(living.created_at) AS created
FROM living LEFT JOIN membership ON living.fragment = membership.fragment
WHERE living.created_at != 0 AND living.erased >= membership.erase
GROUP BY person
HAVING (created, toString(person)) < ({created:Int64}, {person:String})
    AND ({text:String} = '' OR countIf(position(living.properties, {text:String}) > 0) > 0)
    AND ({search:String} = ''
        OR countIf(positionCaseInsensitiveUTF8(living.properties, {escaped:String}) > 0
            OR positionCaseInsensitiveUTF8(living.distinct_id, {search:String}) > 0
            OR positionCaseInsensitive(toString(living.fragment), {search:String}) > 0) > 0)
ORDER BY created DESC, toString(person) DESC
LIMIT {limit:UInt32}
