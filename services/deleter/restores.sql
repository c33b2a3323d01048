-- name: identities_before
-- The identity of fragments as it was before a delete: the last fact of an identity says all of it. A fragment without
-- one was its own person.
SELECT fragment, argMax((identified, erase, erased_at), version)
FROM timeline
WHERE project = {project:UInt32} AND fragment IN {fragments:Array(UUID)} AND startsWith(topic, 'person.')
    AND version < {iver:UInt64}
GROUP BY fragment

-- name: outcome
-- What a restore led to. Its first fact: sent once more, it may have another, when the fold knows its key no longer.
SELECT topic, reason
FROM timeline
WHERE project = {project:UInt32} AND fragment = {fragment:UUID} AND command = {command:UUID}
    AND topic IN ('person.restored', 'person.restore_refused')
ORDER BY version
LIMIT 1
