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
