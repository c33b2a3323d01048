-- A purge takes one property's values from the past.

-- JSON: name -> the stamp up to which its values are gone; imports of before count no more. '' for none.
ALTER TABLE fragments ADD COLUMN IF NOT EXISTS purged String CODEC(LZ4);

-- The name of the property whose values a request purges; '' for a request of anything else.
ALTER TABLE deletion_requests ADD COLUMN IF NOT EXISTS purge String CODEC(LZ4);
