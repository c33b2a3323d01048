-- What queries of many rows may take of the processor. Whoever names no workload is not held back: reads by key, inserts.
-- Of the embedded engine at each start; for a server they are among what `personlog grants` prints.

-- name: resource
CREATE OR REPLACE RESOURCE processor (MASTER THREAD, WORKER THREAD)

-- name: slots
CREATE OR REPLACE RESOURCE slots (QUERY)

-- name: root
CREATE OR REPLACE WORKLOAD everything

-- name: scans
-- Lists, searches, counts.
CREATE OR REPLACE WORKLOAD scans IN everything SETTINGS weight = 9, max_concurrent_threads = 2

-- name: analysts
-- One query at a time, and nine wait; a further one is refused with code 745.
CREATE OR REPLACE WORKLOAD analysts IN everything
SETTINGS weight = 1, max_concurrent_threads = 1, max_concurrent_queries = 1, max_waiting_queries = 9
