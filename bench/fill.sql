-- name: fragments
-- Fragments of persons by number, as the projector writes them; 3 % of the persons have two or three. Births spread over
-- 600 days, in no order of the numbers. The rows are older than every position (generation 0).
INSERT INTO fragments
    (project, fragment, version, distinct_id, number, created_at, effect, stamp, seen_at, properties, cells)
WITH
    ['free', 'free', 'free', 'free', 'pro', 'pro', 'team', 'enterprise'] AS plans,
    ['US', 'DE', 'FR', 'GB', 'IN', 'BR', 'JP', 'CA', 'AU', 'NL', 'SE', 'PL', 'ES', 'IT', 'MX', 'KR'] AS countries,
    ['Ada', 'Bob', 'Cyd', 'Dan', 'Eve', 'Fay', 'Gus', 'Hal', 'Ida', 'Jan', 'Kai', 'Liv', 'Max', 'Nia', 'Oda', 'Pia'] AS names,
    ['Stone', 'Rivers', 'Field', 'Hill', 'Wood', 'Lake', 'Moor', 'Marsh', 'Cliff', 'Vale', 'Brook', 'Heath'] AS surnames,
    people.number AS n,
    arrayJoin(range(1 + (n % 33 = 0) + (n % 99 = 0))) AS index,
    if(index = 0, concat('person-', toString(n)), concat('device-', toString(n), '-', toString(index - 1))) AS id,
    lower(hex(SHA1(concat(unhex({namespace:String}), '1:', id)))) AS digest,
    toUUID(concat(substring(digest, 1, 8), '-', substring(digest, 9, 4), '-5', substring(digest, 14, 3), '-',
        ['8', '9', 'a', 'b'][1 + bitAnd(reinterpretAsUInt8(unhex(concat('0', substring(digest, 17, 1)))), 3)],
        substring(digest, 18, 3), '-', substring(digest, 21, 12))) AS uuid,
    n * 3 + 1 + index AS at,
    toInt64(1735689600000000 + n * 2654435761 % 4294967296 * 12069 + n % 1000 + index) AS born,
    bitShiftLeft(at, 16) + bitShiftLeft(toUInt64(bitShiftRight(toUInt128(uuid), 64) % {partitions:UInt32}), 6) AS wire,
    arrayConcat(['email', 'name', 'plan', 'country', 'signed_up_at', 'seats'], if(n % 4 = 0, ['company'], []), ['address'])
        AS keys_of_root,
    if(index = 0, keys_of_root, if(index = 1, ['device_0', 'referrer'], ['device_1'])) AS cell_names,
    concat('{"email":"', id, '@example.com","name":"', names[1 + n % 16], ' ', surnames[1 + n * 31 % 12], ' ',
        toString(n % 997), '","plan":"', plans[1 + n * 13 % 8], '","country":"', countries[1 + n * 7 % 16],
        '","signed_up_at":"2025-', leftPad(toString(n % 12 + 1), 2, '0'), '-', leftPad(toString(n % 28 + 1), 2, '0'), 'T',
        leftPad(toString(n % 24), 2, '0'), ':', leftPad(toString(n % 60), 2, '0'), ':00Z","seats":',
        toString(n * 37 % 500), if(n % 4 = 0, concat(',"company":"Company ', toString(n % 5000), '"'), ''),
        ',"address":{"city":"City ', toString(n % 300), '","zip":"', leftPad(toString(n % 90000), 5, '0'), '"}}')
        AS document
SELECT 1, uuid, at, id, wire, born, at, born, born,
    multiIf(index = 0, document, index = 1, '{"device_0":"phone","referrer":"ad"}', '{"device_1":"phone"}'),
    concat('{', arrayStringConcat(arrayMap(name -> concat('"', name, '":[1,', toString(born), ',0]'), cell_names), ','), '}')
FROM numbers({start:UInt64}, {count:UInt64}) AS people

-- name: numbers
-- The integer ids of these persons' fragments.
INSERT INTO numbers (project, number, fragment)
SELECT project, number, fragment FROM fragments
WHERE project = 1 AND version > {start:UInt64} * 3 AND version <= ({start:UInt64} + {count:UInt64}) * 3

-- name: identity
-- Memberships of the persons with several fragments.
INSERT INTO identity (project, fragment, version, root, members, identified, stamp)
SELECT 1, member, n + 1, all[1], if(member = all[1], all, []), 1, born + 9
FROM
(
    SELECT intDiv(version - 1, 3) AS n, arrayMap(pair -> pair.2, arraySort(groupArray((version, fragment)))) AS all,
        min(created_at) AS born
    FROM fragments
    WHERE project = 1 AND version > {start:UInt64} * 3 AND version <= ({start:UInt64} + {count:UInt64}) * 3 AND n % 33 = 0
    GROUP BY n
)
ARRAY JOIN all AS member

-- name: search
-- Rows as the feeder writes them: a merged person under its root, and a row without a person for each absorbed fragment.
INSERT INTO search (project, fragment, version, living, created_at, distinct_ids, properties)
WITH
    persons AS
    (
        SELECT intDiv(version - 1, 3) AS n, arraySort(groupArray((version, fragment, distinct_id, properties))) AS all,
            min(created_at) AS born, if(n % 33 = 0, bitShiftLeft(toUInt128(n + 1), 64), toUInt128(0)) AS joined
        FROM fragments
        WHERE project = 1 AND version > {start:UInt64} * 3 AND version <= ({start:UInt64} + {count:UInt64}) * 3
        GROUP BY n
    ),
    concat('{"city":"City ', toString(n % 300), '","zip":"', leftPad(toString(n % 90000), 5, '0'), '"}') AS address
SELECT 1, member.2, joined + if(member = all[1], arraySum(part -> toUInt128(part.1), all), toUInt128(0)), member = all[1],
    if(member = all[1], born, 0), if(member = all[1], arrayMap(part -> part.3, all), []),
    CAST(if(member = all[1],
        replaceOne(concat('{', arrayStringConcat(arrayMap(part -> substring(part.4, 2, length(part.4) - 2), all), ','), '}'),
            address, concat('"', replaceAll(address, '"', '\\"'), '"')),
        '{}'), 'JSON(max_dynamic_paths = 0)')
FROM persons ARRAY JOIN all AS member
SETTINGS input_format_try_infer_dates = 0, input_format_try_infer_datetimes = 0
