-- name: numbers
-- The fragments behind integer ids.
SELECT project, number, any(fragment)
FROM numbers
WHERE project IN {projects:Array(UInt32)} AND number IN {numbers:Array(UInt64)}
GROUP BY project, number

-- name: watermarks
-- Every position row: how far reads reach in each partition, and the highest stamp given there.
SELECT fragment, max(version), max(stamp) FROM fragments WHERE project = 0 GROUP BY fragment
UNION ALL
SELECT fragment, max(version), max(stamp) FROM identity WHERE project = 0 GROUP BY fragment
UNION ALL
SELECT toUUID('00000000-0000-0000-0000-000000000064'), max(version), 0 FROM deletion_positions
HAVING count() > 0

-- name: roots_page
-- workload: scans
-- One page of living persons, newest first: the root, by (created_at, root) below the cursor; or, to find the page
-- before, those from the cursor up, oldest first: reads.page_of puts the direction in.
WITH
    living AS
    (
        SELECT fragment, created_at, erased
        FROM fragments
        WHERE project = {project:UInt32}
        ORDER BY fragment, version DESC
        LIMIT 1 BY fragment
    ),
    membership AS
    (
        SELECT fragment, root, erase
        FROM identity
        WHERE project = {project:UInt32}
        ORDER BY fragment, version DESC
        LIMIT 1 BY fragment
    )
SELECT if(membership.root = toUUID('00000000-0000-0000-0000-000000000000'), living.fragment, membership.root) AS person,
    min(living.created_at) AS created
FROM living LEFT JOIN membership ON living.fragment = membership.fragment
WHERE living.created_at != 0 AND living.erased >= membership.erase
GROUP BY person
HAVING (created, toString(person)) {{beyond}} ({created:Int64}, {person:String})
ORDER BY created {{order}}, toString(person) {{order}}
LIMIT {limit:UInt32}

-- name: refusals
-- What the record at this version was refused for; no fragments: wherever it was recorded.
SELECT reason
FROM timeline
WHERE project = {project:UInt32} AND ({fragments:Array(UUID)} = [] OR fragment IN {fragments:Array(UUID)})
    AND version = {version:UInt64} AND topic IN {topics:Array(String)} AND reason != ''
LIMIT 1

-- name: left_out
-- What the record at this version asked for and the fragment had no room for.
SELECT left_out
FROM timeline
WHERE project = {project:UInt32} AND fragment = {fragment:UUID} AND version = {version:UInt64} AND left_out != ''
LIMIT 1

-- name: fragment_keys
-- The recent Idempotency-Keys of a fragment, with the digests of their requests and the versions they came with.
SELECT keys, key_digests, key_versions
FROM fragments
WHERE project = {project:UInt32} AND fragment = {fragment:UUID}
ORDER BY version DESC
LIMIT 1

-- name: identity_keys
-- The same of its identity.
SELECT keys, key_digests, key_versions
FROM identity
WHERE project = {project:UInt32} AND fragment = {fragment:UUID}
ORDER BY version DESC
LIMIT 1

-- name: deletes_of
-- The last delete of each of these fragments, and when it was asked for; 0 is not known.
SELECT fragment, erase, erased_at
FROM identity
WHERE project = {project:UInt32} AND fragment IN {fragments:Array(UUID)}
ORDER BY fragment, version DESC
LIMIT 1 BY fragment

-- name: remains
-- Those of these fragments of which {{table}} holds rows that no delete covers: the last one did not mean them, or they
-- came after it. What a delete covers lies there until the window.
WITH deletes AS
(
    SELECT fragment, argMax(has(splitByChar(' ', toString(scope)), {kind:String}), version) AS covered,
        argMax(toUnixTimestamp64Micro(at), version) AS asked_at
    FROM timeline
    WHERE project = {project:UInt32} AND fragment IN {fragments:Array(UUID)} AND topic = 'person.deleted'
    GROUP BY fragment
)
SELECT DISTINCT held.fragment
FROM {{table}} AS held LEFT JOIN deletes ON held.fragment = deletes.fragment
WHERE project = {project:UInt32} AND held.fragment IN {fragments:Array(UUID)}
    AND (covered = 0 OR toUnixTimestamp64Micro(received_at) > asked_at)

-- name: captured_events
-- The captured events of these fragments' present lives by their own time, each once: a resent one has another arrival.
WITH
    {{lives_of_fragments}}
SELECT fragment, uuid, event, toUnixTimestamp64Micro(timestamp), version, toUnixTimestamp64Micro(received_at)
FROM captured_events LEFT JOIN lives ON captured_events.fragment = lives.fragment
WHERE project = {project:UInt32} AND fragment IN {fragments:Array(UUID)} AND {{own}}
    AND timestamp >= fromUnixTimestamp64Micro({since:Int64}) AND timestamp <= fromUnixTimestamp64Micro({until:Int64})
    AND toUnixTimestamp64Micro(received_at) <= {received:Int64}
    AND ({names:Array(String)} = [] OR event IN {names:Array(String)})
ORDER BY received_at, version
LIMIT 1 BY uuid
LIMIT {limit:UInt32}

-- name: ingestion_warnings
-- workload: scans
-- The newest events of present lives that were stored otherwise than they were sent. Those of an hour may lie anywhere in a
-- month, so that all months since are looked through; the index leaves out what holds no such event.
WITH
    {{lives_of_project}}
SELECT uuid, repairs, toUnixTimestamp64Micro(received_at)
FROM captured_events LEFT JOIN lives ON captured_events.fragment = lives.fragment
WHERE project = {project:UInt32} AND notEmpty(repairs) AND {{own}}
    AND received_at >= fromUnixTimestamp64Micro({since:Int64})
ORDER BY received_at DESC, version DESC
LIMIT 1 BY uuid
LIMIT {limit:UInt32}

-- name: exported_events
-- The captured events of these fragments' present lives, whole, page by page.
WITH
    {{lives_of_fragments}}
SELECT fragment, uuid, event, distinct_id, toUnixTimestamp64Micro(timestamp), toUnixTimestamp64Micro(received_at),
    {{properties_left}} AS properties
FROM captured_events LEFT JOIN lives ON captured_events.fragment = lives.fragment
WHERE project = {project:UInt32} AND fragment IN {fragments:Array(UUID)} AND {{own}}
    AND toUnixTimestamp64Micro(received_at) <= {until:Int64}
    AND (fragment, uuid) > ({after:UUID}, {uuid:UUID})
ORDER BY fragment, uuid, version DESC
LIMIT 1 BY fragment, uuid
LIMIT {limit:UInt32}

-- name: sessions
-- One page of the sessions recorded of these fragments in their present lives, newest first: by (began, session) below
-- the cursor, or from it up. A block that was sent again counts once.
WITH
    {{lives_of_fragments}},
    blocks AS
    (
        SELECT blocks.fragment AS fragment, blocks.session AS name, started_at, ended_at, length, `window`
        FROM recording_blocks AS blocks LEFT JOIN lives ON blocks.fragment = lives.fragment
        WHERE project = {project:UInt32} AND blocks.fragment IN {fragments:Array(UUID)} AND {{own}}
            AND toUnixTimestamp64Micro(received_at) <= {until:Int64}
        ORDER BY name, uuid, version
        LIMIT 1 BY name, uuid
    )
SELECT name, toUnixTimestamp64Micro(min(started_at)) AS began, toUnixTimestamp64Micro(max(ended_at)),
    groupUniqArray(fragment), groupUniqArray(`window`), count(), sum(length)
FROM blocks
GROUP BY name
HAVING (began, name) {{beyond}} ({began:Int64}, {session:String})
ORDER BY began {{order}}, name {{order}}
LIMIT {limit:UInt32}

-- name: session_blocks
-- One page of the blocks of a session of these fragments in their present lives, by their time. Each with its copies, the
-- oldest first: a block that was sent again has several, and of those that were not acknowledged the object may be missing.
WITH
    {{lives_of_fragments}}
SELECT toUnixTimestamp64Micro(min(started_at)) AS began, uuid,
    arrayMap(one -> (one.2, one.3, one.4), arraySort(groupArray(((version, block), object, start, length))))
FROM
(
    SELECT uuid, version, block, object, start, length, started_at
    FROM recording_blocks AS blocks LEFT JOIN lives ON blocks.fragment = lives.fragment
    WHERE project = {project:UInt32} AND blocks.fragment IN {fragments:Array(UUID)} AND session = {session:String}
        AND {{own}} AND toUnixTimestamp64Micro(received_at) <= {until:Int64}
    LIMIT 1 BY block
)
GROUP BY uuid
HAVING (began, uuid) > ({began:Int64}, {uuid:UUID})
ORDER BY began, uuid
LIMIT {limit:UInt32}

-- name: requests_of
-- The ledger's rows that name any of these fragments, newest first: every one, or those of their present lives.
WITH
    {{lives_of_fragments}},
    begun AS (SELECT groupArray(fragment) AS fragments, groupArray(asked) AS moments FROM lives)
SELECT request, state, created_at, updated_at, person, profile, events, recordings, document, purge, members
FROM
(
    SELECT *
    FROM deletion_requests
    WHERE project = {project:UInt32} AND (person IN {fragments:Array(UUID)} OR hasAny(members, {fragments:Array(UUID)}))
    ORDER BY request, version DESC
    LIMIT 1 BY request
)
WHERE {every:UInt8} = 1
    OR arrayExists(one -> (person = one OR has(members, one)) AND created_at > transform(one,
        (SELECT fragments FROM begun), (SELECT moments FROM begun), toInt64(0)), {fragments:Array(UUID)})
ORDER BY created_at DESC, request DESC

-- name: activity
-- workload: scans
-- What people did to persons: REST edits, merges, splits, deletes, and requests that keep the person. One call makes one
-- item, however many distinct ids it reached. The items of a deleted life are hidden at once.
WITH
    {{lives_of_project}},
    facts AS
    (
        SELECT timeline.fragment AS fragment, version, toString(topic) AS topic, toUnixTimestamp64Micro(at) AS moment, stamp,
            command, toString(actor) AS actor, toString(source) AS source,
            arrayMap(one -> toString(one), {{keys_left}}) AS keys, {{kinds_left}} AS kinds, {{before_left}} AS before,
            {{after_left}} AS after, members, peer, toString(reason) AS reason, left_out
        FROM timeline LEFT JOIN lives ON timeline.fragment = lives.fragment
        WHERE project = {project:UInt32}
            AND ({fragments:Array(UUID)} = [] OR timeline.fragment IN {fragments:Array(UUID)})
            AND {{told}}
            AND (topic IN ('person.merged', 'person.merge_refused', 'person.split', 'person.deleted', 'person.restored')
                OR (topic IN ('fragment.changed', 'fragment.left_out') AND source IN ('update', 'delete_property')))
        ORDER BY fragment, version DESC
        LIMIT 1 BY fragment, version, topic
    ),
    calls AS
    (
        SELECT * FROM facts
        WHERE topic != 'fragment.changed' OR notEmpty(keys) OR left_out != ''
        ORDER BY command, fragment = peer DESC, arrayExists(one -> one != '', before) DESC, fragment
        LIMIT 1 BY command, topic, if(topic IN ('fragment.changed', 'fragment.left_out', 'person.deleted', 'person.restored'), command, fragment)
    ),
    requests AS
    (
        SELECT person AS fragment, version, kind.2 AS topic, created_at AS moment, created_at AS stamp, request AS command,
            actor, 'request' AS source, [] AS keys, [] AS kinds, [] AS before, [] AS after, members, person AS peer,
            purge AS reason, '' AS left_out
        FROM
        (
            SELECT * FROM deletion_requests
            WHERE project = {project:UInt32} AND profile = 0
                AND ({fragments:Array(UUID)} = [] OR hasAny(members, {fragments:Array(UUID)}))
            ORDER BY request, version
            LIMIT 1 BY request
        )
        ARRAY JOIN [(events, 'delete_events'), (recordings, 'delete_recordings'), (purge != '', 'purge_property')] AS kind
        WHERE kind.1 = 1
    )
SELECT items.fragment, version, topic, moment, command, actor, source, keys, kinds, before, after, members, peer, reason,
    count() OVER () AS total, left_out
FROM (SELECT * FROM calls UNION ALL SELECT * FROM requests) AS items LEFT JOIN lives ON items.fragment = lives.fragment
WHERE stamp >= lives.asked
ORDER BY moment DESC, version DESC
LIMIT {limit:UInt32} OFFSET {offset:UInt32}

-- name: departures
-- workload: scans
-- Who left in these splits and lives still, the first so many of each.
WITH
    {{lives_of_project}}
SELECT DISTINCT command, timeline.fragment AS fragment
FROM timeline LEFT JOIN lives ON timeline.fragment = lives.fragment
WHERE project = {project:UInt32} AND topic = 'person.left' AND command IN {commands:Array(UUID)} AND {{present}}
ORDER BY command, fragment
LIMIT {limit:UInt32} BY command

-- name: deletion_requests
-- workload: scans
-- The ledger of a project, newest first; or one request of it.
SELECT request, state, created_at, updated_at, person, profile, events, recordings, document, purge
FROM
(
    SELECT *
    FROM deletion_requests
    WHERE project = {project:UInt32}
        AND ({request:UUID} = toUUID('00000000-0000-0000-0000-000000000000') OR request = {request:UUID})
    ORDER BY request, version DESC
    LIMIT 1 BY request
)
ORDER BY created_at DESC, request DESC
LIMIT {limit:UInt32} OFFSET {offset:UInt32}

-- name: receipts
-- The receipts of these requests.
SELECT request, body FROM receipts
WHERE project = {project:UInt32} AND request IN {requests:Array(UUID)}

-- name: deletion_status
-- workload: scans
-- Requests that include events, without cancelled ones; state 1: not done yet, 2: done, 0: both.
WITH ledger AS
(
    SELECT request, version, state, created_at, updated_at, person, events
    FROM deletion_requests
    WHERE project = {project:UInt32}
    ORDER BY request, version DESC
    LIMIT 1 BY request
)
SELECT person, created_at, state, updated_at, count() OVER () AS total
FROM ledger
WHERE events = 1 AND state != 'cancelled'
    AND ({state:UInt8} = 0 OR ({state:UInt8} = 2) = (state = 'verified'))
    AND ({person:UUID} = toUUID('00000000-0000-0000-0000-000000000000') OR person = {person:UUID})
ORDER BY created_at DESC, request DESC
LIMIT {limit:UInt32} OFFSET {offset:UInt32}

-- name: facts
-- What these fragments went through in their present lives up to a stamp, and what counts whenever it came. In the order of
-- versions, page by page.
WITH
    {{lives_of_fragments}}
SELECT project, fragment, version, topic, toUnixTimestamp64Micro(at) AS at, stamp, command, actor, source, distinct_id,
    number, created_at, {{keys_left}} AS keys, {{kinds_left}} AS kinds, {{before_left}} AS before, {{after_left}} AS after,
    root, members, identified, erase, peer, reason, scope, erased_at, left_out
FROM timeline LEFT JOIN lives ON timeline.fragment = lives.fragment
WHERE project = {project:UInt32} AND fragment IN {fragments:Array(UUID)} AND {{replayed}} AND {{cut}}
    AND (fragment, version, toString(topic)) > ({fragment:UUID}, {version:UInt64}, {topic:String})
ORDER BY fragment, version, topic
LIMIT 1 BY fragment, version, topic
LIMIT {limit:UInt32}

-- name: stamp_of
-- The moment of a position: that of the last fact of this project at or before it, in its partition.
SELECT argMax(greatest(stamp, toUnixTimestamp64Micro(at)), version), count()
FROM timeline
WHERE project = {project:UInt32} AND version <= {version:UInt64}
    AND startsWith(topic, {kind:String})
    AND ({kind:String} = 'person.' OR bitShiftRight(toUInt128(fragment), 64) % {partitions:UInt32} = {partition:UInt32})

-- name: roots_page_at
-- workload: scans
-- The same page as roots_page, of the persons of a moment: of fragments that have a fact up to it in their present
-- life, each under the root that it had then. A root whose memberships were erased since holds nobody.
WITH
    {{lives_of_project}},
    facts AS
    (
        SELECT timeline.fragment AS fragment, version, topic, stamp, timeline.created_at AS birth, root
        FROM timeline LEFT JOIN lives ON timeline.fragment = lives.fragment
        WHERE project = {project:UInt32} AND {{present}}
    ),
    born AS
    (
        SELECT fragment, minIf(birth, birth != 0) AS created, min(stamp) AS began
        FROM facts
        WHERE topic = 'fragment.changed'
        GROUP BY fragment
        HAVING began <= {until:Int64}
    ),
    membership AS
    (
        SELECT fragment, argMax(root, version) AS root
        FROM facts
        WHERE startsWith(topic, 'person.') AND stamp <= {until:Int64}
        GROUP BY fragment
    ),
    people AS
    (
        SELECT membership.fragment AS fragment, if(roots.root = membership.root, membership.root, membership.fragment) AS root
        FROM membership LEFT JOIN membership AS roots ON membership.root = roots.fragment
    )
SELECT if(people.root = toUUID('00000000-0000-0000-0000-000000000000'), born.fragment, people.root) AS person,
    min(born.created) AS created
FROM born LEFT JOIN people ON born.fragment = people.fragment
GROUP BY person
HAVING (created, toString(person)) {{beyond}} ({created:Int64}, {person:String})
ORDER BY created {{order}}, toString(person) {{order}}
LIMIT {limit:UInt32}

-- name: property_history
-- Every operation on one property of these fragments in their present lives, newest first.
WITH
    {{lives_of_fragments}},
    operations AS
    (
        SELECT timeline.fragment AS fragment, version, topic, at, stamp, command, actor, source, {{keys_left}} AS names,
            indexOf(names, {key:String}) AS i, {{kinds_left}}[i] AS kind, {{before_left}}[i] AS old,
            if(topic = 'fragment.purged', '', {{after_left}}[i]) AS new
        FROM timeline LEFT JOIN lives ON timeline.fragment = lives.fragment
        WHERE project = {project:UInt32} AND timeline.fragment IN {fragments:Array(UUID)} AND has(keys, {key:String})
            AND {{present}} AND stamp <= {until:Int64} AND i > 0
        ORDER BY fragment, version
        LIMIT 1 BY fragment, version
    )
SELECT fragment, version, toUnixTimestamp64Micro(at), stamp, command, actor, source, kind, old, new, count() OVER (),
    topic = 'fragment.purged'
FROM operations
ORDER BY stamp DESC, fragment DESC
LIMIT {limit:UInt32} OFFSET {offset:UInt32}

-- name: memberships
-- How these fragments came to where they belong, in order.
WITH
    {{lives_of_fragments}}
SELECT fragment, version, topic, toUnixTimestamp64Micro(at), command, actor, root, peer
FROM timeline LEFT JOIN lives ON timeline.fragment = lives.fragment
WHERE project = {project:UInt32} AND fragment IN {fragments:Array(UUID)} AND startsWith(topic, 'person.') AND {{present}}
    AND stamp <= {until:Int64}
ORDER BY fragment, version
LIMIT 1 BY fragment, version, topic
LIMIT {limit:UInt32}

-- name: search_watermarks
-- How far the search table is fed; it gives no stamps.
SELECT fragment, max(version), 0 FROM search WHERE project = 0 GROUP BY fragment

-- name: search_page
-- workload: scans
-- One page of persons that a filter finds, newest first. {{filter}} is put together in filters.py, of bound parameters.
SELECT fragment, created_at
FROM search FINAL
WHERE project = {project:UInt32} AND living = 1
    AND (created_at, toString(fragment)) {{beyond}} ({created:Int64}, {person:String})
    AND {{filter}}
ORDER BY created_at {{order}}, toString(fragment) {{order}}
LIMIT {limit:UInt32}

-- name: search_given
-- workload: scans
-- Which of the given persons, JSON objects, a filter finds: those of the past are in no table.
WITH given AS
(
    SELECT toUUID(JSONExtractString(row, 'fragment')) AS fragment,
        JSONExtract(row, 'distinct_ids', 'Array(String)') AS distinct_ids,
        JSONExtractRaw(row, 'properties')::JSON AS properties
    FROM (SELECT arrayJoin({rows:Array(String)}) AS row)
)
SELECT fragment FROM given WHERE {{filter}}

-- name: search_count
-- workload: scans
-- How many a filter finds.
SELECT count()
FROM search FINAL
WHERE project = {project:UInt32} AND living = 1 AND {{filter}}

-- name: property_values
-- workload: scans
-- The most frequent values of one property. {{column}} is put together in filters.py, of a bound parameter.
SELECT assumeNotNull({{column}}) AS value, count() AS persons
FROM search FINAL
WHERE project = {project:UInt32} AND living = 1 AND isNotNull({{column}})
    AND ({part:String} = '' OR positionCaseInsensitiveUTF8(assumeNotNull({{column}}), {part:String}) > 0)
GROUP BY value
ORDER BY persons DESC, value
LIMIT {limit:UInt32}

-- name: patterns
-- workload: scans
-- Whether the engine can compile these regular expressions; an error says that it cannot.
SELECT count() FROM (SELECT arrayJoin({patterns:Array(String)}) AS pattern) WHERE match('', pattern)
