-- Whether a DELETE of a person of this project always covers its captured events and recordings.
ALTER TABLE projects ADD COLUMN IF NOT EXISTS delete_everything UInt8 DEFAULT 0 CODEC(LZ4);
