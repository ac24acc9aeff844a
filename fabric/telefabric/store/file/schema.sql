-- Version 1 of the store. Times are nanoseconds since 1970-01-01 UTC. `id` is the order of arrival, one sequence over
-- all event tables. `event` holds the event's MessagePack bytes as they were received; columns repeat what people query.

CREATE TABLE runs (
    run INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL DEFAULT 'pending',
    reason TEXT,
    created_ns INTEGER NOT NULL,
    started_ns INTEGER,
    finished_ns INTEGER,
    control_mode TEXT NOT NULL DEFAULT 'unknown',
    metadata BLOB NOT NULL DEFAULT x'80',
    tags TEXT NOT NULL DEFAULT '[]',
    notes TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX runs_by_control_mode ON runs (control_mode);

CREATE TABLE streams (
    stream INTEGER PRIMARY KEY,
    stream_id BLOB NOT NULL UNIQUE,
    run INTEGER NOT NULL REFERENCES runs (run),
    worker_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    host TEXT,
    pid INTEGER,
    sdk_version TEXT,
    outcome TEXT
) STRICT;

CREATE INDEX streams_by_run ON streams (run);

-- Every seq of a stream up to stored_seq is in an event table, in quarantine, or covered by a gap.
CREATE TABLE watermarks (
    stream INTEGER PRIMARY KEY REFERENCES streams (stream),
    stored_seq INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL
) STRICT;

CREATE TABLE steps (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    env_index INTEGER NOT NULL,
    episode_index INTEGER NOT NULL,
    step_index INTEGER NOT NULL,
    global_step INTEGER,
    reward REAL,
    terminated INTEGER NOT NULL,
    truncated INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    control_mode TEXT NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

CREATE INDEX steps_by_episode ON steps (run, agent_id, env_index, episode_index, step_index);
-- Nearly all steps are an agent's: indexing those would cost every insert and select nothing.
CREATE INDEX steps_by_control_mode ON steps (control_mode) WHERE control_mode <> 'agent';

CREATE TABLE episodes (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    env_index INTEGER NOT NULL,
    episode_index INTEGER NOT NULL,
    total_reward REAL,
    length INTEGER,
    global_step INTEGER,
    end_reason TEXT,
    game_id TEXT,
    time_ns INTEGER NOT NULL,
    control_mode TEXT NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

CREATE INDEX episodes_by_index ON episodes (run, agent_id, env_index, episode_index);
CREATE INDEX episodes_by_control_mode ON episodes (control_mode);

CREATE TABLE metrics (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value REAL,
    unit TEXT,
    global_step INTEGER,
    time_ns INTEGER NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

CREATE INDEX metrics_by_name ON metrics (run, name, agent_id, global_step);

CREATE TABLE logs (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    level TEXT NOT NULL,
    message TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    env_index INTEGER NOT NULL,
    episode_index INTEGER NOT NULL,
    step_index INTEGER NOT NULL,
    frame_ref TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

CREATE INDEX frames_by_ref ON frames (run, frame_ref);

-- run_started, run_metadata, run_completed
CREATE TABLE lifecycle (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

-- Ranges that are known to be lost.
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    event BLOB NOT NULL,
    UNIQUE (stream, seq)
) STRICT;

-- Events that could not be read or stored as their kind, byte for byte.
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    event BLOB NOT NULL
) STRICT;

CREATE INDEX quarantine_by_stream ON quarantine (stream, seq);

-- What time lines and charts draw until one zooms in: buckets of 256 ** level steps. A total whose parts overflow to
-- both sides is no number, which SQLite keeps as null.
CREATE TABLE overview (
    stream INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    series TEXT NOT NULL,
    level INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    min REAL,
    max REAL,
    first REAL,
    last REAL,
    total REAL,
    count INTEGER NOT NULL,
    PRIMARY KEY (stream, agent_id, series, level, bucket)
) STRICT, WITHOUT ROWID;
