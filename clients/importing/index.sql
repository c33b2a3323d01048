-- name: cache
-- Kibibytes of the index in memory; the rest is on disk.
PRAGMA cache_size = -65536;

-- name: no_journal
-- The index is made anew for each run, so that a crash costs nothing.
PRAGMA journal_mode = OFF;

-- name: create_joins
-- Rows of several ids, by each id.
CREATE TABLE joins (id TEXT, row INTEGER);

-- name: create_mappings
-- Rows of a persons batch export: whose a distinct id is.
CREATE TABLE mappings (
    distinct_id TEXT, person TEXT, id_version INTEGER, version INTEGER, row INTEGER, deleted INTEGER
);

-- name: create_members
-- Of each distinct id the row that counts.
CREATE TABLE members (person TEXT, distinct_id TEXT, version INTEGER, row INTEGER);

-- name: create_states
-- The latest properties of each person of an events export.
CREATE TABLE states (person TEXT PRIMARY KEY, at INTEGER, properties BLOB) WITHOUT ROWID;

-- name: create_pairs
-- Persons with the distinct ids that came of them so far.
CREATE TABLE pairs (first TEXT, second TEXT, PRIMARY KEY (first, second)) WITHOUT ROWID;

-- name: create_links
-- Ids of devices that a user has.
CREATE TABLE links (id TEXT PRIMARY KEY) WITHOUT ROWID;

-- name: add_link
INSERT OR IGNORE INTO links VALUES (?);

-- name: add_join
INSERT INTO joins VALUES (?, ?);

-- name: add_mapping
INSERT INTO mappings VALUES (?, ?, ?, ?, ?, ?);

-- name: select_members
-- The row of the highest version counts; of equal ones a deletion, then the last.
INSERT INTO members
SELECT person, distinct_id, version, row
FROM (
    SELECT *, row_number() OVER (
        PARTITION BY distinct_id ORDER BY id_version DESC, version DESC, deleted DESC, row DESC
    ) AS place
    FROM mappings
) AS latest
WHERE place = 1 AND NOT deleted AND NOT EXISTS (
    SELECT 1 FROM mappings_deleted WHERE mappings_deleted.person = latest.person
        AND mappings_deleted.version > latest.version
);

-- name: create_deletions
-- The version at which a person was deleted.
CREATE TABLE mappings_deleted (person TEXT PRIMARY KEY, version INTEGER) WITHOUT ROWID;

-- name: select_deletions
INSERT INTO mappings_deleted SELECT person, max(version) FROM mappings WHERE deleted GROUP BY person;

-- name: index_members
CREATE INDEX members_by_person ON members (person, version, row);

-- name: excess_join
-- The first row whose id is in more rows before it than is believed.
SELECT min(row) FROM (
    SELECT row, row_number() OVER (PARTITION BY id ORDER BY row) AS place FROM joins
) WHERE place > ?;

-- name: excess_member
SELECT min(row) FROM (
    SELECT row, row_number() OVER (PARTITION BY person ORDER BY row) AS place FROM members
) WHERE place > ?;

-- name: speaker
-- The row whose properties count for a person.
SELECT row FROM members WHERE person = ? ORDER BY version DESC, row LIMIT 1;

-- name: distinct_ids
SELECT distinct_id FROM members WHERE person = ? ORDER BY row;

-- name: state
SELECT at, properties FROM states WHERE person = ?;

-- name: set_state
INSERT OR REPLACE INTO states VALUES (?, ?, ?);

-- name: add_pair
INSERT OR IGNORE INTO pairs VALUES (?, ?);
