-- Where a life ends is told by four facts: a delete, the erasures that follow from it, and a restore, which takes them back.
-- They are few among all facts, so an index of topics finds them without reading the rest.

-- On person.deleted: what the delete covered, of 'profile events recordings'; '' before this version.
ALTER TABLE timeline ADD COLUMN IF NOT EXISTS scope LowCardinality(String) CODEC(LZ4);

-- On the facts of an identity: when the delete that covers the fragment was asked for, microseconds; imports of what was
-- before it tie nobody to anybody. 0: never, or before this version.
ALTER TABLE timeline ADD COLUMN IF NOT EXISTS erased_at Int64 CODEC(ZSTD(1));

ALTER TABLE identity ADD COLUMN IF NOT EXISTS erased_at Int64 CODEC(LZ4);

-- Identity version of the last delete that was taken back here; an erase record of it that comes late erases nothing.
ALTER TABLE fragments ADD COLUMN IF NOT EXISTS restored UInt64 CODEC(LZ4);

ALTER TABLE timeline ADD INDEX IF NOT EXISTS topics topic TYPE set(32) GRANULARITY 1;
