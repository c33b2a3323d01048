-- What the public token of a project may do: merge dangerously; and which properties only a personal key may set.
ALTER TABLE projects ADD COLUMN IF NOT EXISTS merge_dangerously UInt8 DEFAULT 1 CODEC(LZ4);
ALTER TABLE projects ADD COLUMN IF NOT EXISTS server_only Array(String) CODEC(LZ4);
