-- name: generations
-- All generations of the log, oldest first.
SELECT generation, state, identity
FROM log_generations
ORDER BY generation, version DESC
LIMIT 1 BY generation

-- name: positions
-- Every position row: how far the tables are in each partition, and the hash of the record they stand at.
SELECT fragment, version, record
FROM fragments
WHERE project = 0
ORDER BY fragment, version DESC
LIMIT 1 BY fragment
UNION ALL
SELECT fragment, version, record
FROM identity
WHERE project = 0
ORDER BY fragment, version DESC
LIMIT 1 BY fragment
UNION ALL
SELECT toUUID('00000000-0000-0000-0000-000000000064'), version, record
FROM deletion_positions
ORDER BY version DESC
LIMIT 1
