-- Version 5: the key that carried a stream last, null without keys; and episodes sorted by how they ended.

ALTER TABLE streams ADD COLUMN carrier TEXT;

CREATE INDEX episodes_by_end_reason ON episodes (run, end_reason);
