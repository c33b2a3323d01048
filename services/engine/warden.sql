-- How the engine process keeps its own server in order.

-- name: stop_native
SYSTEM STOP LISTEN TCP

-- name: running
-- Queries that a stop waits for: of those who log in with a name, which the library's own session does not.
SELECT count() FROM system.processes WHERE user NOT IN ('', '{{warden}}')

-- name: end_queries
KILL QUERY WHERE user NOT IN ('', '{{warden}}') ASYNC FORMAT Null

-- name: end_keeper
KILL QUERY WHERE user = '' AND position(query, '{{keeper}}') > 0 ASYNC FORMAT Null
