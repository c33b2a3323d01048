-- One fragment is bounded: what a command asks for beyond that is left out, and told.

-- JSON: how many names, their bytes with the values, and the first few; '' for nothing. LZ4: it is empty nearly always.
ALTER TABLE timeline ADD COLUMN IF NOT EXISTS left_out String CODEC(LZ4);
