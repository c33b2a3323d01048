-- name: fed
-- How far the table is fed: the position rows of both topics.
SELECT fragment, max(version) FROM search WHERE project = 0 GROUP BY fragment

-- name: changed
-- workload: scans
-- Whose rows are newer than these positions: the versions reached, by partition of commands and of identity.
SELECT DISTINCT project, fragment
FROM
(
    SELECT project, fragment, version, 0 AS membership FROM fragments WHERE project != 0
    UNION ALL
    SELECT project, fragment, version, 1 FROM identity WHERE project != 0
)
WHERE version > if(membership = 1, arrayElement({identity:Array(UInt64)}, project % {identities:UInt32} + 1),
        arrayElement({commands:Array(UInt64)}, toUInt32(bitShiftRight(toUInt128(fragment), 64) % {partitions:UInt32}) + 1))
    AND (project, fragment) > ({project:UInt32}, {fragment:UUID})
ORDER BY project, fragment
LIMIT {limit:UInt32}
