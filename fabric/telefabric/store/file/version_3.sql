-- Version 3: resets and voids, attempts of a run, seeds, places, and the name of the store. What is filled from rows
-- that are there already is filled by upgrade.py, in pieces; `upgrade` holds how far it has come, and is empty then.

CREATE TABLE store (
    fabric_id BLOB NOT NULL
) STRICT;

INSERT INTO store VALUES (randomblob(16));

CREATE TABLE upgrade (
    piece TEXT PRIMARY KEY,
    done INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO upgrade VALUES ('events', 0), ('runs', 0);

ALTER TABLE streams ADD COLUMN parent BLOB;
ALTER TABLE streams ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1;
ALTER TABLE streams ADD COLUMN role TEXT NOT NULL DEFAULT 'counts';
ALTER TABLE streams ADD COLUMN outcome_reason TEXT;
ALTER TABLE streams ADD COLUMN last_ns INTEGER;

-- An integer, or JSON: in columns of the type TEXT integers would not sort as such.
ALTER TABLE episodes ADD COLUMN seed ANY;

CREATE TABLE resets (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    env_index INTEGER NOT NULL,
    episode_index INTEGER NOT NULL,
    seed ANY,
    time_ns INTEGER NOT NULL,
    control_mode TEXT NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

CREATE INDEX resets_by_episode ON resets (run, agent_id, env_index, episode_index);

-- Episodes that do not count: what their stream has of them below this seq.
CREATE TABLE voids (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    env_index INTEGER NOT NULL,
    episode_index INTEGER NOT NULL,
    reason TEXT,
    time_ns INTEGER NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

CREATE INDEX voids_by_episode ON voids (stream, agent_id, env_index, episode_index, seq);

-- How many rows there are of a stream, kind and agent, and where every 1,024th of them is: the way to the row, the step
-- or the moment n without counting.
CREATE TABLE counts (
    stream INTEGER NOT NULL,
    kind TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (stream, kind, agent_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE places (
    stream INTEGER NOT NULL,
    kind TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    n INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id INTEGER NOT NULL,
    global_step INTEGER,
    time_ns INTEGER NOT NULL,
    PRIMARY KEY (stream, kind, agent_id, n)
) STRICT, WITHOUT ROWID;
