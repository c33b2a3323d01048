-- name: projects
-- Every project, as last written.
SELECT project, name, token, zone, recordings, delete_everything
FROM projects
ORDER BY project, version DESC
LIMIT 1 BY project

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
