-- Version 4: edits of runs and their audit, bookmarks, and what stays of runs that were deleted.

ALTER TABLE runs ADD COLUMN archived_ns INTEGER;
ALTER TABLE runs ADD COLUMN mark TEXT;
ALTER TABLE runs ADD COLUMN mark_reason TEXT;
ALTER TABLE runs ADD COLUMN mark_by TEXT;
ALTER TABLE runs ADD COLUMN mark_ns INTEGER;

CREATE TABLE edits (
    edit INTEGER PRIMARY KEY,
    edit_id BLOB NOT NULL UNIQUE,
    time_ns INTEGER NOT NULL,
    by TEXT NOT NULL,
    command TEXT NOT NULL,
    run_id TEXT NOT NULL,
    value BLOB NOT NULL,
    outcome TEXT NOT NULL,
    sentence TEXT NOT NULL
) STRICT;

CREATE TABLE bookmarks (
    bookmark INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (run),
    agent_id TEXT NOT NULL,
    env_index INTEGER NOT NULL,
    episode_index INTEGER NOT NULL,
    step_index INTEGER NOT NULL,
    stream_id BLOB,
    label TEXT NOT NULL,
    by TEXT NOT NULL,
    time_ns INTEGER NOT NULL
) STRICT;

CREATE INDEX bookmarks_by_run ON bookmarks (run);

-- Numbers and ids of what was deleted are never used again: `last_id` is the newest that there was.
CREATE TABLE deleted_runs (
    run INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    last_id INTEGER NOT NULL
) STRICT;

CREATE INDEX deleted_runs_by_name ON deleted_runs (run_id);

-- A spool that comes later is acknowledged up to here, and its events are counted and not stored.
CREATE TABLE deleted_streams (
    stream INTEGER PRIMARY KEY,
    stream_id BLOB NOT NULL UNIQUE,
    run INTEGER NOT NULL REFERENCES deleted_runs (run),
    stored_seq INTEGER NOT NULL DEFAULT 0,
    discarded INTEGER NOT NULL DEFAULT 0,
    rows_left INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX deleted_streams_left ON deleted_streams (stream) WHERE rows_left;
