-- name: of_requests
-- The receipts that these requests have already.
SELECT request, body FROM receipts
WHERE project IN {projects:Array(UInt32)} AND request IN {requests:Array(UUID)}

-- name: ends
-- The last receipt of each project's chain.
SELECT project, max(sequence), argMax(hash, sequence) FROM receipts
WHERE project IN {projects:Array(UInt32)}
GROUP BY project

-- name: all
-- Whose receipts there are.
SELECT request FROM receipts
