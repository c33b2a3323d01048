-- name: positions
-- How far the tables are in each partition, and the highest stamp given there.
SELECT fragment, max(version), max(stamp) FROM fragments WHERE project = 0 GROUP BY fragment
UNION ALL
SELECT fragment, max(version), max(stamp) FROM identity WHERE project = 0 GROUP BY fragment

-- name: taken
-- How far the deleter has taken requests over.
SELECT partition, max(version) FROM deletion_positions GROUP BY partition

-- name: requests
-- Deletion requests by state, and when the oldest of each was made.
SELECT state, count(), min(made)
FROM (SELECT argMax(state, version) AS state, min(created_at) AS made FROM deletion_requests GROUP BY project, request)
GROUP BY state

-- name: block
-- An object that recordings lie in, if there is one.
SELECT object FROM recording_blocks LIMIT 1

-- name: receipts
-- How many receipts were signed.
SELECT count() FROM receipts
