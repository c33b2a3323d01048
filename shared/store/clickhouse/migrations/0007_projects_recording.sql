-- Whether the SDKs of a project are told to record sessions: their answer is part of the remote configuration.
ALTER TABLE projects ADD COLUMN IF NOT EXISTS recordings UInt8 DEFAULT 0 CODEC(LZ4);
