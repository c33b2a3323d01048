-- What a reader of a recording needs beside the place of a block: the window of the browser, and the captured event's
-- uuid, by which one that was sent again is recognised.

ALTER TABLE recording_blocks ADD COLUMN IF NOT EXISTS window String CODEC(ZSTD(1));

ALTER TABLE recording_blocks ADD COLUMN IF NOT EXISTS uuid UUID CODEC(LZ4);
