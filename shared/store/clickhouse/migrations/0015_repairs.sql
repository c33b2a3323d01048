-- What had to be changed of an event as it was sent: kind, a blank, field. Nothing of a value.

ALTER TABLE captured_events ADD COLUMN IF NOT EXISTS repairs Array(LowCardinality(String)) CODEC(LZ4);

-- Nearly all granules hold no repaired event, and the list of warnings leaves them out.
ALTER TABLE captured_events ADD INDEX IF NOT EXISTS repaired notEmpty(repairs) TYPE set(2) GRANULARITY 8;
