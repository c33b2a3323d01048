-- name: positions
-- The last version of each partition in the tables, and the highest stamp there.
SELECT fragment, max(version), max(stamp) FROM fragments WHERE project = 0 GROUP BY fragment
UNION ALL
SELECT fragment, max(version), max(stamp) FROM identity WHERE project = 0 GROUP BY fragment

-- name: intake
-- The last version of the deletions topic that the deleter has taken over, by partition.
SELECT partition, max(version) FROM deletion_positions GROUP BY partition

-- name: requests
-- Deletion requests by state, and the time of the oldest request of each.
SELECT state, count(), min(made)
FROM (SELECT argMax(state, version) AS state, min(created_at) AS made FROM deletion_requests GROUP BY project, request)
GROUP BY state

-- name: block
-- An object with recordings, if there is one.
SELECT object FROM recording_blocks LIMIT 1

-- name: receipts
-- The number of signed receipts.
SELECT count() FROM receipts
