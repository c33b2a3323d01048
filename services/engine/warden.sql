-- Statements of the engine process on its own server.

-- name: stop_native
SYSTEM STOP LISTEN TCP

-- name: running
-- Queries that a stop waits for: those of named users; the library's own session has no name.
SELECT count() FROM system.processes WHERE user NOT IN ('', '{{warden}}')

-- name: end_queries
KILL QUERY WHERE user NOT IN ('', '{{warden}}') ASYNC FORMAT Null

-- name: end_keeper
KILL QUERY WHERE user = '' AND position(query, '{{keeper}}') > 0 ASYNC FORMAT Null
