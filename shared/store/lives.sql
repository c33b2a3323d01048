-- Where the present life of a fragment begins, and what belongs to it: the only text that says so. lives.py fills queries and
-- views with it. Nobody else may tell a life by its facts, but for the sweep and the rebuild, which see the former ones too.

-- name: lives
-- A CTE with a row for each fragment that was ever deleted or purged, of those that {{whose}} chooses; who has none was born
-- once and lives. A restore takes an erasure back, so a life ends with the last one that stands.
--   began: what the fragment was told with a higher version is of its present life; nothing is while the erase record of a
--     delete is on its way.
--   joined: the same for its identity.
--   asked: the stamp of the delete that ended the life before.
--   cuts: what purged.sql takes from the facts and the captured events that are left.
--   gone: captured events up to this version were deleted with their life; others of a former life were kept.
lives AS
(
    SELECT project, fragment,
        groupArrayIf(erase, topic = 'fragment.restored') AS restored,
        arrayFilter(one -> NOT has(restored, one.2), groupArrayIf((version, erase), topic = 'fragment.erased')) AS erasures,
        groupArrayIf((version, stamp, toString(scope)), topic = 'person.deleted') AS deletes,
        argMaxIf(erase, version, startsWith(topic, 'person.')) AS joined,
        arrayMax(arrayPushBack(arrayMap(one -> one.2, erasures), 0)) < joined AS leaving,
        if(leaving, 18446744073709551615, arrayMax(arrayPushBack(arrayMap(one -> one.1, erasures), 0))) AS began,
        arrayMax(arrayPushBack(arrayMap(one -> if(one.1 = joined, one.2, 0), deletes), 0)) AS asked,
        arrayMap(one -> one.1, arrayFilter(one -> one.3 = '' OR has(splitByChar(' ', one.3), 'events'), deletes)) AS whole,
        if(leaving AND has(whole, joined), 18446744073709551615,
            arrayMax(arrayPushBack(arrayMap(one -> if(has(whole, one.2), one.1, 0), erasures), 0))) AS gone,
        {{cuts}} AS cuts
    FROM timeline
    WHERE {{whose}} AND topic IN ('fragment.erased', 'fragment.restored', 'person.deleted', 'person.restored',
        'fragment.purged')
    GROUP BY project, fragment
)

-- name: own
-- A captured event or a block of a recording that belongs to the present life. (ifNull: an analyst may set join_use_nulls.)
version > ifNull(lives.began, 0)

-- name: present
-- A fact of the present life.
version > ifNull(if(startsWith(topic, 'person.'), lives.joined, lives.began), 0)
    AND topic NOT IN ('fragment.erased', 'person.deleted')

-- name: replayed
-- A fact that made a fragment what it is: of its present life, or the end of the one before.
(version > if(startsWith(topic, 'person.'), lives.joined, lives.began) AND topic NOT IN ('fragment.erased', 'person.deleted')
    OR version = if(startsWith(topic, 'person.'), lives.joined, lives.began))

-- name: told
-- A fact for the list of what was done: of the present life, what ended the one before, and what was taken back.
(version > if(startsWith(topic, 'person.'), lives.joined, lives.began) OR topic = 'person.deleted' AND version = lives.joined)

-- name: cut
-- What counts at a moment: facts up to it, and whenever they came, births and the ends of lives.
(stamp <= {until:Int64} OR created_at != 0 OR topic IN ('fragment.erased', 'person.deleted'))
