-- What purges take from the past, as texts that other statements are filled with: the rule of shared/domain/purged.py.
-- {{cuts}} is what was purged of a row's fragment: (name, stamp up to which, version of the fact), of all its purges.

-- name: cuts
-- The cuts of a fragment, of its facts.
groupArrayArrayIf(arrayMap(name -> (toString(name), stamp, version), keys), topic = 'fragment.purged')

-- name: places
-- Of a row of the timeline: the places of the operations that stay; those of a purge are none. {{row}} is what its columns
-- are called with.
arrayFilter(place -> {{row}}topic = 'fragment.purged' OR NOT arrayExists(cut -> cut.3 > {{row}}version
    AND cut.2 >= {{row}}stamp AND cut.1 = toString({{row}}keys[place]), {{cuts}}), arrayEnumerate({{row}}keys))

-- name: taken
-- Whether a purge had left a set_once at this place, [stamp, value], that a later one took.
({{row}}topic = 'fragment.purged' AND {{row}}after[place] != '' AND arrayExists(cut -> cut.3 > {{row}}version
    AND cut.1 = toString({{row}}keys[place]) AND cut.2 >= JSONExtractInt({{row}}after[place], 1), {{cuts}}))

-- name: left
-- A column of arrays without the others; {{element}} is what it has at a place.
if(empty({{cuts}}), {{row}}{{column}}, arrayMap(place -> {{element}}, {{places}}))

-- name: emptied
-- What it has at a place, or {{nothing}} where that was taken.
if({{taken}}, {{nothing}}, {{row}}{{column}}[place])

-- name: before
-- What was before is left out of every fact of before the purge: a later value may have replaced a purged one.
if(arrayExists(cut -> cut.3 > {{row}}version AND cut.1 = toString({{row}}keys[place]), {{cuts}}), '', {{row}}before[place])

-- name: touched
-- Whether a row of the timeline has anything of what was purged.
(topic = 'fragment.changed' AND arrayExists((name, old) -> arrayExists(
        cut -> cut.3 > version AND cut.1 = toString(name) AND (cut.2 >= stamp OR old != ''), {{cuts}}), keys, before)
    OR topic = 'fragment.purged' AND arrayExists(place -> {{taken}}, arrayEnumerate(keys)))

-- name: names
-- What was purged of a captured event: what was received up to the cut-off, and what an import brings from before it. Of
-- events that come after the purge the projector has left it out.
arrayMap(cut -> cut.1, arrayFilter(cut -> cut.3 > {{row}}version AND cut.2 >= least(
    toUnixTimestamp64Micro({{row}}received_at), toUnixTimestamp64Micro({{row}}timestamp)), {{cuts}}))

-- name: members
-- The members of a JSON object, as they stand in its text {{text}} between its braces: cut at the commas that are within
-- no string, list or object. (JSONExtractRaw would write 1.0 as 1.)
arrayMap(member -> if(startsWith(member, ','), substring(member, 2), member), arrayMap(tokens -> arrayStringConcat(tokens),
    arraySplit((token, depth) -> token = ',' AND depth = 0, {{tokens}},
        arrayCumSum(token -> multiIf(token IN ('{', '['), 1, token IN ('}', ']'), -1, 0), {{tokens}}))))

-- name: tokens
extractAll({{text}}, '"(?:[^"\\\\]|\\\\.)*"|[{}\\[\\],]|[^"{}\\[\\],]+')

-- name: name
-- The name of the member {{member}}.
JSONExtractString(concat('[', extract({{member}}, '^"(?:[^"\\\\]|\\\\.)*"'), ']'), 1)

-- name: without
-- A JSON object without the members of some names.
concat('{', arrayStringConcat(arrayFilter(member -> NOT has({{names}}, {{member_name}}), {{members}}), ','), '}')

-- name: stripped
-- The properties of a captured event without what they say of `names`: in `$set` and `$set_once`, and of a lifted one the
-- event's own. Each member stays as it was written.
concat('{', arrayStringConcat(arrayMap(
    outer -> if(match(outer, '^"\\$set(_once)?":\\{'),
        concat(extract(outer, '^"[^"]+":\\{'), arrayStringConcat(arrayFilter(inner -> NOT has({{names}}, {{inner_name}}),
            {{inner_members}}), ','), '}'),
        outer),
    arrayFilter(outer -> NOT (has({{names}}, {{outer_name}}) AND has({{lifted}}, {{outer_name}})), {{outer_members}})), ','), '}')
