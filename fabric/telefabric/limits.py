"""Every limit and interval of the fabric, with its unit in its name and its reason beside it."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
NS = 1_000_000_000
"""In a second."""

# -- events and batches ------------------------------------------------------------------------------------------
EVENT_BYTES_MAX = 8 * MIB
"""Largest encoded event: a step whose observation is a raw 1080p picture fits."""
BATCH_BYTES_MAX = 256 * KIB
"""Body of one durable batch, unless a single event is larger. 1,800 steps: each send may cost the sender's thread the
interpreter's switch interval beside a loop that never yields, and a batch is what it gets across for that."""
BATCH_EVENTS_MAX = 4_096
"""Keeps the store's decode of one batch under some milliseconds however small the events are."""
MESSAGE_BYTES_MAX = EVENT_BYTES_MAX + 64 * KIB
OVERSIZED_BYTES = 1 * MIB
"""A message that is over its limit by less than this gets to a service, which counts it under its sender's name and
answers. A larger one costs its sender the connection, by ZeroMQ's MAXMSGSIZE: ZeroMQ says neither whose it was nor why.
"""
CONTROL_BYTES_MAX = 1 * MIB
STATUS_BYTES_MAX = MESSAGE_BYTES_MAX
"""A status names every stream of the broker and all that it goes to: some kilobytes for each."""
METADATA_BYTES_MAX = 256 * KIB
"""Metadata travels in HELLO, on the control socket."""
NAME_BYTES_MAX = 255
"""Run, worker and agent ids, in UTF-8."""

# -- credit ------------------------------------------------------------------------------------------------------
CREDIT_BASE_BYTES = 64 * KIB
"""Bytes that each stream may have in flight before it asks for more: one batch of some hundred steps."""
STREAMS_MAX = 1_024
DURABLE_BYTES_MAX = 128 * MIB
"""All unacknowledged bytes that broker and store may hold together."""
CREDIT_STREAM_BYTES_MAX = 16 * MIB
"""More in flight does not make one stream faster, only its rewinds longer."""
BATCH_OVERHEAD_BYTES = 256
"""Header, topic and bookkeeping of a batch, counted against credit."""

# -- timing ------------------------------------------------------------------------------------------------------
HEARTBEAT_S = 1.0
MISSED_HEARTBEATS_MAX = 3
DURABLE_ABSENT_S = 15.0
"""A durable subscriber is silent for the length of a commit; SQLite's worst is a few seconds on a busy disk."""
STREAM_ABSENT_S = 30.0
"""After this time without a heartbeat a stream's credit goes to others; its worker says HELLO when it is back."""
BATCH_INTERVAL_MIN_S = 0.02
BATCH_INTERVAL_MAX_S = 1.0
BATCH_INTERVAL_PER_STREAM_S = 0.001
"""All streams together send at most 1,000 small batches a second: 15 % of a core of the broker and the store."""
THROTTLED_BYTES = CREDIT_STREAM_BYTES_MAX
"""A stream with more than that waiting is throttled: it is more than it could ever have in flight."""
RESUMED_BYTES = THROTTLED_BYTES // 4
RECONNECT_MIN_S = 0.2
RECONNECT_MAX_S = 30.0
ACK_STALL_S = 5.0
"""After this time without progress, with batches in flight, say HELLO again and rewind."""
CREDIT_REVIEW_S = 0.05
LIVING_S = 2.0
"""How often the broker informs durable subscribers which workers are heard."""
LOST_AFTER_S = 60.0
"""So long a store waits for word of a worker: twice as long as one may wait before it dials a broker again."""
IDLE_AFTER_S = 10.0
"""A stream that has emitted nothing for this time is idle: an evaluation, a checkpoint, a debugger."""
BEAT_STREAMS_MAX = 8_192
"""Streams in a heartbeat of one process; each that the broker does not know costs it an answer."""
REVIVED_S = 30.0
"""How long a stream that was stalled and speaks again is called revived."""
BEHIND_S = 3.0
"""A hop is behind if, for this time, it has not reached the seq that the hop before it had."""
DURABLES_MAX = 16
"""Durable subscribers of one broker: the store, and what exports or relays."""
LANE_TAIL_BYTES_MAX = 16 * MIB
"""Batches that the store has been sent and a durable subscriber that is not required has not."""

# -- edits of runs -----------------------------------------------------------------------------------------------
EDIT_VALUE_BYTES_MAX = 64 * KIB
"""A note of some thousand words; the audit keeps every value."""
EDITS_MAX = 64
"""Edits that a broker waits for: the store applies each in a transaction of its own, some milliseconds."""
EDIT_S = 10.0
"""How long a broker waits for the store's answer."""
EDIT_ASKED_S = 15.0
"""How long an asker repeats an edit: longer than a broker or store takes to be restarted."""
EDIT_REPEAT_S = 1.0
TAGS_MAX = 64
BOOKMARKS_MAX = 10_000
"""Of one run."""

# -- live path ---------------------------------------------------------------------------------------------------
LIVE_QUEUE_EVENTS = 20_000
"""A subscriber that falls four seconds behind a fast run begins to lose the oldest of it."""
LIVE_QUEUE_EVENTS_MAX = 1_000_000
LIVE_QUEUE_BYTES_MAX = 32 * MIB
LIVE_QUEUES_BYTES_MAX = 64 * MIB
"""Bytes in the queues of all live subscribers, in equal shares: 1 MiB each for `WATCHERS_MAX` subscribers."""
LIVE_QUEUE_AGE_MS = 10_000
LIVE_QUEUE_AGE_MS_MAX = 3_600_000
LIVE_SAMPLE_MAX = 1_000_000
LIVE_BATCH_BYTES_MAX = 64 * KIB
LIVE_RECENT_BATCHES = 256
LIVE_RECENT_BYTES = 256 * KIB
LIVE_HWM = 128
"""Messages; with many streams each holds an event or two. What is newest stays new by the bytes in the socket below:
what does not fit waits in the spool or in our queue, where it can be dropped and counted."""
LIVE_PIPES_BYTES_MAX = 32 * MIB
"""Bytes of batches over 64 KiB in the pipes to all live subscribers, in equal shares; one batch fits in any."""
LIVE_WORKERS_HWM = 16
TAP_HWM = 1_000
TAP_PIPES_BYTES_MAX = 32 * MIB
"""Bytes of batches over 64 KiB that wait in the pipes to the tap's listeners."""
TAP_TOPICS_MAX = 256
SUBSCRIPTION_BYTES_MAX = NAME_BYTES_MAX + 64
"""libzmq walks a subscription byte by byte, each a call deeper: one of a megabyte is the end of the process.
Workers take twice that: between libzmqs a subscription that the broker passes on is a command with a name."""
TOKEN_SUBSCRIPTION_BYTES_MAX = 64
"""A subscription to a token of 16 bytes, as a command with a name, and the properties that a SUB sends first."""
SUBSCRIPTIONS_HWM = 2
"""libzmq takes in all subscriptions that are here at one stroke, 14 kB for a long one: 100,000 of them were 1.5 GB and
three seconds. With so short a pipe it waits for its I/O thread after each, and the broker has its turn in between. (1
is shorter, and with CURVE nothing at all comes through it in libzmq 4.3.5.)"""
SUBSCRIPTIONS_NOWHERE_MAX = 512
"""Subscriptions of one connection to tokens that were not issued, or beyond the tap's limit."""
STATUSES_A_SECOND = 10
"""Long answers (a status, recent batches) to one peer."""
UNREAD_BYTES_MAX = 256 * KIB
"""A peer for whose connection the system holds more gets no long answer: libzmq keeps all that a peer does not read."""
ERRORS_A_SECOND = 5
"""Answers of a broker to what a peer said wrong, to one peer: somebody reads the first of them."""
ERRORS_OF_ALL_A_SECOND = 100
"""Answers to all peers: strangers with ever new names get no more than 50 kB a second out of it."""
ERROR_BYTES_MAX = 512
MISTAKES_KEPT = 16
"""Kinds of mistakes that a status names, the newest."""
LIVE_SOCKET_BYTES = 128 * KIB
LIVE_BEHIND_EVENTS_MAX = 5_000
"""A worker's live feed further behind its own head than this skips ahead, and counts what it skipped."""
LIVE_WAKE_EVENTS_PER_S = 2_000
"""A watched stream's sender is woken by each event until they come faster than this; then it looks each 2 ms."""
LIVE_WAKE_AGAIN_EVENTS_PER_S = 1_200
"""Lower, so that a rate that varies a little does not go to and fro."""
LIVE_ABSENT_S = 5.0
LIVE_ABSENT_MAX_S = 60.0
"""A live subscriber that says nothing is absent once all that waits for it is too old; within these two."""
WATCHERS_MAX = 64
WATCHED_TOPICS_MAX = 65_536
"""Topics that a worker keeps for its live socket: `WATCHERS_MAX` subscribers of a thousand runs each."""
WATCH_NAMES_MAX = 4_096
"""Runs, kinds or agents that one WATCH may name."""
TICK_S = 1.0
LIVE_STUCK_S = 5 * TICK_S
"""A live subscriber that gets no delivery, not even a tick, for this time subscribes again."""

# -- watching the services ---------------------------------------------------------------------------------------
LOG_INTERVAL_S = 1.0
"""How often at most a warning or an error of one name is logged."""
LOG_LINES_MAX = 1_000
"""Lines that wait for a slow log handler; further lines are counted and left out."""
FIGURES_S = 1.0
"""How often a service computes its figures while it has a metrics endpoint."""
START_SILENCE_S = 20.0
"""A service that prints, reads, writes and computes nothing for this time while it starts is stuck. One that does any
of these may take as long as it needs: the migration of a large store takes minutes."""
READY_S = 5.0
"""A store that no broker takes in for this time is ready all the same: its file can be read, and a broker may come."""
HANG_S = 30.0
"""A service whose loop shows no sign of life for this time is killed and started again. A commit on a busy disk takes
seconds."""
ALIVE_S = 5.0
LET_GO_S = 2.0
"""How long a service waits for a file or a port that another one has: the parts of a killed `up` end by themselves."""
STOP_S = 10.0
"""A service that does not end within this time after it was asked to is killed."""
STOP_STORE_S = 40.0
"""A store at its end: its query service, its last commit, and all of its log into the file on a slow disk."""
SUMMARY_S = 60.0
REASONS_MAX = 32
"""Series of one metric for reasons that other processes choose; further reasons share one series."""

# -- sockets -----------------------------------------------------------------------------------------------------
DATA_HWM = 64
DURABLE_HWM = 64
CONTROL_HWM = 10_000
"""Towards a peer: small messages; the mark only stops one that has died without a word."""
CONTROL_RECEIVE_HWM = 16
"""From a peer: messages of up to a megabyte; what is more waits at the peer."""
SOCKET_BUFFER_BYTES = 1 * MIB
CONTROL_A_TURN = 500
"""Messages that are read in one turn, so that a flood at one socket does not keep the loop from the others."""
BATCHES_A_TURN = 200

# -- spool -------------------------------------------------------------------------------------------------------
SEGMENT_BYTES = 4 * MIB
SPOOL_AHEAD_BYTES = 64 * KIB
"""So much of a spool is in memory before it is written. The link looks each 20 ms, so that is enough for 3 MB of events
a second; it is 34 µs of work, which holds the interpreter's lock."""
SPOOL_BYTES_MAX = 4096 * MIB
SPOOL_FREE_BYTES_MIN = 64 * MIB
"""Below so much free room on its file system a spool does not grow: a full disk would hurt what else runs there."""
WHEN_FULL = ("drop_oldest", "block", "error")
FSYNC = ("off", "interval", "always")
SYNC_INTERVAL_S = 1.0
"""How often at least a spool with ``fsync = interval`` is synced: what a power loss may cost."""
ORPHANS_AT_ONCE = 4
"""Spools of dead workers that one process drains beside its own work."""
ORPHANS_TRIED_A_TURN = 64
"""Folders that are looked at between two turns for the process's own streams: some milliseconds among thousands."""

LINE_BYTES_MAX = 64 * MIB
"""Of a longer line of a foreign program this much is kept, as text: an event of 8 MiB may take several times as much as
JSON."""

# -- ring --------------------------------------------------------------------------------------------------------
RING_SLOTS_MAX = 64
RING_FPS_MAX = 60.0
FRAME_SIDE_MAX = 16_384
"""Pixels."""
RING_SHARE_OF_FREE = 0.25
"""Share of the free room that a ring may take: other programs need shared memory too."""
RING_STALLED_S = 3.0
"""Without a frame."""
RING_SUSPECT_S, RING_DEAD_S = 5.0, 30.0
"""Time without a heartbeat, for a writer whose process cannot be examined."""
RING_GRACE_S = 30.0
"""How long the last frame of a writer that has gone stays to be looked at."""

# -- keys --------------------------------------------------------------------------------------------------------
KEYS_MAX = 4_096
"""Keys in a registry: each change writes the file, 300 bytes a key."""
KEYS_KEPT_DAYS = 30
"""A key or ticket that has ended stays known so long, to be told why it is refused."""
REGISTRY_LOOK_S = 0.2
"""How often a service looks whether the registry's file has changed: a revoked key is out within a second."""
REGISTRY_LOCK_S = 2.0
"""How long a change of the registry waits for another, which takes milliseconds."""
SEEN_WRITE_S = 5.0
"""How often a broker writes down when each key was last heard."""
WORDS_OF_KEY_A_SECOND, WORDS_OF_KEY_BYTES_A_SECOND = 2_000, 8 * MIB
"""Control messages, or questions to the store, of one key: heartbeats of a thousand processes, and their HELLOs."""
BATCHES_OF_KEY_A_SECOND, BATCHES_OF_KEY_BYTES_A_SECOND = 20_000, 256 * MIB
"""Batches of one key, durable and live each: more than a network of 1 Gbit/s carries."""
STREAMS_OF_KEY_MAX = STREAMS_MAX // 2
WATCHERS_OF_KEY_MAX = WATCHERS_MAX // 2
"""Live subscribers of one key. One key alone shuts nobody else out."""
CONNECTIONS_MAX = 4 * STREAMS_MAX
"""Connections to one socket: all workers that a broker serves, those that wait for a place, and clients. All
eight sockets together need half of the files that a unit of systemd grants."""
HANDSHAKE_BYTES_MAX = 1 * KIB
"""MAXMSGSIZE holds for the frames of a CURVE handshake too; its longest has 257 bytes and the peer's properties."""
JOIN_S = 10.0
"""How long `telefabric join` waits for an answer: three handshakes on a bad line."""
JOIN_BYTES_MAX = 4 * KIB
"""A message on the socket `enrol`."""

# -- store -------------------------------------------------------------------------------------------------------
STREAMS_KNOWN_MAX = 4 * STREAMS_MAX
"""Streams that the store keeps in memory, a kilobyte each; any other is found in the file when it speaks again."""
FRAME_BYTES_KEPT = 4 * 1024 * MIB
RETENTION_S = 10.0
"""How often the store looks whether it keeps too many bytes of frames."""
RETENTION_TURN_S = 0.02
"""So long, but one frame at least, before the store takes in events again."""
COMMIT_EVENTS_MAX = 20_000
COMMIT_BYTES_MAX = CREDIT_STREAM_BYTES_MAX // 4
"""A transaction is full then: one is written while the next gathers, and a stream that fills both still has credit."""
COMMIT_INTERVAL_S = 0.03
"""When nothing more is waiting; a transaction is then small and its acknowledgement early."""
COMMIT_INTERVAL_BUSY_S = 0.15
"""While more is waiting: one sync for many events, and still within what a heartbeat's worth of credit covers."""
LOG_BYTES_LONG = 256 * MIB
"""A write-ahead log that is longer than this between two commits is being read, or was: it shrinks to this, or less."""
LOG_BYTES_MAX = 1024 * MIB
"""If a reader makes the log longer than this, nothing is stored until it has ended; events wait in the spools."""
SEED_CHARACTERS_MAX = 255
"""Length of a seed that is not an integer, in an indexed column: some dozen numbers. The event holds any seed."""
UPGRADE_IDS = 20_000
"""Rows of a store of an older version that one transaction brings to this one: a commit under load is as large."""
DELETED_ROWS_A_PIECE = 1_000
"""Rows of a deleted run that one transaction removes: some milliseconds."""
DELETION_S = 0.1
"""How often the store removes some, for `RETENTION_TURN_S`: a fifth of its time at most."""
QUERY_ROWS_MAX = 2_000
QUERY_BYTES_MAX = 4 * MIB
QUERY_DEADLINE_S = 5.0
QUERY_NUMBERS_MAX = 65_536
"""Rows of a page of columns or points: 512 KiB a column."""
EXPORT_CHUNK_EVENTS, EXPORT_CHUNK_BYTES = 250_000, 256 * MIB
"""An export that is interrupted loses one chunk of work, half a minute; a format's files are a chunk long, too."""
PLOTJUGGLER_EVENTS_MAX = 10_000
"""Events that wait for one listener: a second or two of a fast run."""
EXPORT_MEMORY_BYTES = 1024 * MIB
"""For DuckDB, which needs several times the largest event, and some hundred MiB for a chunk."""

# -- client --------------------------------------------------------------------------------------------------------
CLIENT_MEMORY_MB = 1_024
"""A laptop of 8 GB has room for it beside a browser and a training run; a run of ten million steps takes a quarter."""
CLIENT_MEMORY_MB_MIN = 256
"""The program without data takes some 200."""

assert DURABLE_BYTES_MAX >= STREAMS_MAX * CREDIT_BASE_BYTES + EVENT_BYTES_MAX
assert CREDIT_STREAM_BYTES_MAX >= EVENT_BYTES_MAX + BATCH_OVERHEAD_BYTES
assert MESSAGE_BYTES_MAX > EVENT_BYTES_MAX
assert LOG_BYTES_MAX > LOG_BYTES_LONG
assert DURABLE_ABSENT_S > MISSED_HEARTBEATS_MAX * HEARTBEAT_S
