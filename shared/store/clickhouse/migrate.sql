-- name: create_migrations
-- The ledger of migrations; a row written twice by two processes collapses.
CREATE TABLE IF NOT EXISTS migrations
(
    number     UInt32 CODEC(LZ4),
    name       String CODEC(LZ4),
    checksum   String CODEC(LZ4),
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6) CODEC(LZ4)
)
ENGINE = ReplacingMergeTree
ORDER BY number;

-- name: applied_migrations
-- The ledger, in order.
SELECT number, name, checksum FROM migrations FINAL ORDER BY number;
