-- What analysts ask; made anew at every `migrate`, outside the numbered files, with lives.sql filled in: of people who were
-- deleted nothing is seen from that moment on. Each reads with the rights of who made it, so that an analyst needs none on
-- the tables. FINAL in all of them: a record that was folded again after a crash is the same row again until the engine has
-- merged its parts, and must not count twice. Partitions are merged one by one, for a row never moves.

-- name: property_changes
CREATE OR REPLACE VIEW property_changes
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    {{lives}}
SELECT
    project, fragment, at, stamp, version, actor, source, command,
    key, before, after
FROM
(
    SELECT timeline.project AS project, timeline.fragment AS fragment, at, stamp, version, actor, source, command,
        {{keys_left}} AS keys, {{before_left}} AS before, {{after_left}} AS after
    FROM timeline FINAL LEFT JOIN lives ON timeline.project = lives.project AND timeline.fragment = lives.fragment
    WHERE {{present}} AND topic != 'fragment.purged'
    SETTINGS do_not_merge_across_partitions_select_final = 1
)
ARRAY JOIN keys AS key, before AS before, after AS after
WHERE before != after;

-- name: changes_of
-- The same for one property, without unrolling all others: 2 to 3 times as fast.
CREATE OR REPLACE VIEW changes_of
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    {{lives}}
SELECT
    timeline.project AS project, timeline.fragment AS fragment, at, stamp, version, actor, source, command,
    {{before_left}}[indexOf({{keys_left}}, {key:String})] AS before, {{after_left}}[indexOf({{keys_left}}, {key:String})] AS after
FROM timeline FINAL LEFT JOIN lives ON timeline.project = lives.project AND timeline.fragment = lives.fragment
WHERE has(keys, {key:String})
    AND before != after
    AND {{present}} AND topic != 'fragment.purged'
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: holders
-- Who holds a fragment now; only fragments that were ever merged, split or deleted have a row.
CREATE OR REPLACE VIEW holders
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS SELECT project, fragment, root AS person FROM identity FINAL WHERE project != 0;

-- name: persons
-- Living persons as filters see them, some tenths of a second behind the REST API.
CREATE OR REPLACE VIEW persons
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    {{lives}}
SELECT search.project AS project, search.fragment AS person, fromUnixTimestamp64Micro(created_at, 'UTC') AS created_at,
    distinct_ids, properties
FROM search FINAL LEFT JOIN lives ON search.project = lives.project AND search.fragment = lives.fragment
WHERE search.project != 0 AND living = 1 AND bitShiftRight(search.version, 64) >= ifNull(lives.joined, 0);

-- name: events
-- Captured events. Those that a delete kept are nobody's any more: without the distinct id and all that told of the person.
CREATE OR REPLACE VIEW events
DEFINER = CURRENT_USER SQL SECURITY DEFINER
AS WITH
    {{lives}}
SELECT project, fragment, uuid, event, timestamp, received_at, if(former, '', sent_as) AS distinct_id,
    if(former, {{impersonal}}, whole) AS properties
FROM
(
    SELECT captured_events.project AS project, captured_events.fragment AS fragment, uuid, event, timestamp, received_at,
        distinct_id AS sent_as, {{properties_left}} AS whole, NOT ({{own}}) AS former
    FROM captured_events FINAL
        LEFT JOIN lives ON captured_events.project = lives.project AND captured_events.fragment = lives.fragment
    WHERE version > ifNull(lives.gone, 0)
    SETTINGS do_not_merge_across_partitions_select_final = 1
);
