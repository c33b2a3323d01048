-- name: deletions
-- The number of deletion requests after a moment that cover a command of a fragment: by its person, or by its kind.
SELECT count()
FROM
(
    SELECT state, members, cutoff, profile, events, recordings
    FROM deletion_requests
    WHERE project = {project:UInt32} AND has(members, {fragment:UUID})
    ORDER BY request, version DESC
    LIMIT 1 BY request
)
WHERE state != 'cancelled' AND cutoff >= {at:Int64}
    AND (profile OR ({events:UInt8} AND events) OR ({recordings:UInt8} AND recordings))
