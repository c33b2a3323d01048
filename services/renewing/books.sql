-- name: deletion_positions
-- How far the deletions topic was taken over, by partition.
SELECT partition, max(version) FROM deletion_positions GROUP BY partition
