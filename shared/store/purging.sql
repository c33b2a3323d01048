-- Where values of a purged property lie, and how they go; the rule is in purged.sql. {{scope}} says of whom.

-- name: reach_purged_timeline
-- Rows stay: they carry births and stamps.
{{scope}} AND {{touched}}

-- name: reach_purged_events
-- Whether anything is to be left out is told by leaving it out.
{{scope}} AND (position(properties, '"$set') > 0 OR hasAny({{names}}, {{lifted}})) AND {{stripped}} != properties

-- name: reach_purged_fragments
-- Superseded rows that hold the name: the purge has written one without it, as its version says.
{{scope}} AND arrayExists(cut -> cut.3 > version AND JSONHas(cells, cut.1), {{cuts}})

-- name: reach_purged_search
-- Superseded rows, of every person that the fragments were ever part of. The newest was written after the purge.
project IN {projects:Array(UInt32)} AND fragment IN {roots:Array(UUID)}
    AND version < toUInt128(transform(fragment, {roots:Array(UUID)}, {newest:Array(String)}, '0'))

-- name: rewrite
-- Of rows that stay. The comparison with {plan} makes the text of this mutation one of its kind.
ALTER TABLE {{table}} UPDATE {{changes}}
WHERE {{reach}} AND {plan:UUID} != toUUID('00000000-0000-0000-0000-000000000000')
SETTINGS mutations_sync = 2

-- name: preview_purged_search
-- For a dry run: rows of persons that have the name, superseded or not.
{{scope}} AND hasAny(JSONAllPaths(properties), {paths:Array(String)})

-- name: preview
-- Rows within reach, and their partitions; always one row.
SELECT count(), groupUniqArray(_partition_id) FROM {{table}} WHERE {{reach}}

-- name: showing
-- How many persons show one of the names now.
SELECT count() FROM search FINAL
WHERE project IN {projects:Array(UInt32)} AND living = 1 AND hasAny(JSONAllPaths(properties), {paths:Array(String)})

-- name: cuts
-- What was purged of these names, of some fragments or of everybody, up to a cut-off or a later one; page by page.
SELECT fragment, groupArrayArray(arrayMap(name -> (toString(name), stamp, version), keys))
FROM
(
    SELECT * FROM timeline
    WHERE project = {project:UInt32} AND topic = 'fragment.purged' AND stamp >= {cutoff:Int64}
        AND hasAny(arrayMap(name -> toString(name), keys), {names:Array(String)})
        AND ({everybody:UInt8} = 1 OR fragment IN {fragments:Array(UUID)})
        AND fragment > {after:UUID}
    LIMIT 1 BY fragment, version
)
GROUP BY fragment
ORDER BY fragment
LIMIT {limit:UInt32}

-- name: unpurged
-- Who has anything of these names from up to the cut-off, in the timeline (what an earlier purge had left included) or in a
-- captured event, and no fact that says that it is gone; page by page.
WITH purges AS
(
    SELECT fragment, {{cuts}} AS cuts
    FROM timeline
    WHERE project = {project:UInt32} AND fragment > {after:UUID} AND topic = 'fragment.purged'
    GROUP BY fragment
)
SELECT DISTINCT fragment
FROM
(
    SELECT timeline.fragment AS fragment
    FROM timeline LEFT JOIN purges ON timeline.fragment = purges.fragment
    WHERE timeline.project = {project:UInt32} AND timeline.fragment > {after:UUID}
        AND topic IN ('fragment.changed', 'fragment.purged')
        AND arrayExists((name, value) -> has({names:Array(String)}, toString(name))
            AND multiIf(topic = 'fragment.changed', stamp, value = '', {{forever}}, JSONExtractInt(value, 1)) <= {cutoff:Int64}
            AND NOT arrayExists(cut -> cut.1 = toString(name) AND cut.2 >= {cutoff:Int64} AND cut.3 > version, cuts),
            keys, after)
    UNION ALL
    SELECT captured_events.fragment AS fragment
    FROM captured_events LEFT JOIN purges ON captured_events.fragment = purges.fragment
    WHERE captured_events.project = {project:UInt32} AND captured_events.fragment > {after:UUID}
        AND least(toUnixTimestamp64Micro(received_at), toUnixTimestamp64Micro(timestamp)) <= {cutoff:Int64}
        AND NOT arrayExists(cut -> cut.1 = {name:String} AND cut.2 >= {cutoff:Int64} AND cut.3 > version, cuts)
        AND (position(properties, '"$set') > 0 OR hasAny({names:Array(String)}, {{lifted}})) AND {{stripped}} != properties
)
ORDER BY fragment
LIMIT {limit:UInt32}

-- name: roots
-- Every person that these fragments were ever part of.
SELECT DISTINCT fragment, root FROM timeline
WHERE project IN {projects:Array(UInt32)} AND fragment IN {fragments:Array(UUID)} AND startsWith(topic, 'person.')

-- name: newest
-- The version of the newest search row of each of these.
SELECT fragment, toString(max(version)) FROM search
WHERE project IN {projects:Array(UInt32)} AND fragment IN {roots:Array(UUID)}
GROUP BY fragment

-- name: fed
-- How far the search table is fed.
SELECT fragment, max(version) FROM search WHERE project = 0 AND fragment IN {keys:Array(UUID)} GROUP BY fragment
