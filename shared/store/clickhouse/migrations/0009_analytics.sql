-- What analysts ask. FINAL in all of them: a record that was folded again after a crash is the same row again until the
-- engine has merged its parts, and must not count twice. Partitions are merged one by one, for a row never moves.

CREATE OR REPLACE VIEW property_changes AS
SELECT
    project, fragment, at, stamp, version, actor, source, command,
    key, before, after
FROM (SELECT * FROM timeline FINAL SETTINGS do_not_merge_across_partitions_select_final = 1)
ARRAY JOIN keys AS key, kinds AS kind, before AS before, after AS after
WHERE before != after;

-- The same for one property, without unrolling all others: 2 to 3 times as fast.
CREATE OR REPLACE VIEW changes_of AS
SELECT
    project, fragment, at, stamp, version, actor, source, command,
    timeline.before[indexOf(keys, {key:String})] AS before, timeline.after[indexOf(keys, {key:String})] AS after
FROM timeline FINAL
WHERE has(keys, {key:String})
    AND timeline.before[indexOf(keys, {key:String})] != timeline.after[indexOf(keys, {key:String})]
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- Who holds a fragment now; only fragments that were ever merged, split or deleted have a row.
CREATE OR REPLACE VIEW holders AS
SELECT project, fragment, root AS person FROM identity FINAL WHERE project != 0;
