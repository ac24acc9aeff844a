-- Version 5: the key that carried a stream last; null without keys.

ALTER TABLE streams ADD COLUMN carrier TEXT;
