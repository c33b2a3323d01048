-- name: now
-- The engine's clock, microseconds.
SELECT toUnixTimestamp64Micro(now64(6))
