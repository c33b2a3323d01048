-- name: deletion_positions
-- The last version of the deletions topic that was taken over, by partition.
SELECT partition, max(version) FROM deletion_positions GROUP BY partition
