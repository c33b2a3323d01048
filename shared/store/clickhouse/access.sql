-- name: projects
-- Every project, as last written.
SELECT project, name, token, zone, recordings, delete_everything, merge_dangerously, server_only
FROM projects
ORDER BY project, version DESC
LIMIT 1 BY project

-- name: set_by_capture
-- Properties of living fragments that the public token set last: whose, which, and when. Never a value.
SELECT fragment, key, argMax(at, version) AS set_at
FROM property_changes
WHERE project = {project:UInt32} AND key IN {names:Array(String)}
GROUP BY fragment, key
HAVING argMax(actor, version) = 'capture' AND argMax(after, version) != ''
ORDER BY key, set_at, fragment
LIMIT {limit:UInt32}

-- name: keys
-- Every key, as last written; revoked ones too.
SELECT id, name, hash, scopes, projects, expires_at, revoked
FROM api_keys
ORDER BY id, version DESC
LIMIT 1 BY id

-- name: newest_project
-- The version of a project's newest row, 0 without one: the next lies above it, whatever the clock says.
SELECT max(version) FROM projects WHERE project = {project:UInt32}

-- name: newest_key
-- The same of a key.
SELECT max(version) FROM api_keys WHERE id = {key:UUID}
