-- name: find_requests
-- The newest row of each request asked for.
SELECT request, document
FROM deletion_requests
WHERE project IN {projects:Array(UInt32)} AND request IN {requests:Array(UUID)}
ORDER BY project, request, version DESC
LIMIT 1 BY project, request

-- name: open_requests
-- Requests in some states, oldest first: so many, and so many members together, but always one.
SELECT request, document
FROM
(
    SELECT request, document, created_at, row_number() OVER oldest AS place, sum(length(members)) OVER oldest AS load
    FROM
    (
        SELECT project, request, state, document, created_at, members
        FROM deletion_requests
        ORDER BY project, request, version DESC
        LIMIT 1 BY project, request
    )
    WHERE state IN {states:Array(String)}
    WINDOW oldest AS (ORDER BY created_at, request ROWS UNBOUNDED PRECEDING)
)
WHERE place = 1 OR (place <= {requests:UInt32} AND load <= {members:UInt64})
ORDER BY created_at, request

-- name: open_purges
-- Purges in some states, oldest first.
SELECT request, document
FROM
(
    SELECT project, request, state, document, created_at
    FROM deletion_requests
    WHERE purge != ''
    ORDER BY project, request, version DESC
    LIMIT 1 BY project, request
)
WHERE state IN {states:Array(String)}
ORDER BY created_at, request

-- name: states
-- How many requests are in each state.
SELECT state, count()
FROM (SELECT argMax(state, version) AS state FROM deletion_requests GROUP BY project, request)
GROUP BY state

-- name: oldest
-- When the oldest request that is not ended was made, microseconds; 0 without one.
SELECT ifNull(min(made), 0)
FROM
(
    SELECT argMax(state, version) AS state, toNullable(min(created_at)) AS made
    FROM deletion_requests GROUP BY project, request
)
WHERE state IN {states:Array(String)}

-- name: position
-- How far the deletions topic was taken over, and the hash of the last record.
SELECT max(version), argMax(record, version) FROM deletion_positions WHERE partition = {partition:UInt32}
