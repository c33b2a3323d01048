-- name: load
-- How busy the engine is: always one row. The share of the pool of merges and mutations that is taken, the lag of the
-- slowest replica in seconds, and the free bytes of the fullest disk.
SELECT
    (
        SELECT if(sumIf(value, metric = 'BackgroundMergesAndMutationsPoolSize') = 0, 0,
            sumIf(value, metric = 'BackgroundMergesAndMutationsPoolTask')
                / sumIf(value, metric = 'BackgroundMergesAndMutationsPoolSize'))
        FROM system.metrics
        WHERE metric IN ('BackgroundMergesAndMutationsPoolTask', 'BackgroundMergesAndMutationsPoolSize')
    ),
    toUInt64((SELECT max(absolute_delay) FROM system.replicas WHERE database = currentDatabase())),
    toUInt64((SELECT min(unreserved_space) FROM system.disks WHERE type = 'Local'))

-- name: probe
-- A read by key, as the API does them.
SELECT properties FROM fragments WHERE project = 0 AND fragment = toUUID('00000000-0000-0000-0000-000000000000')
