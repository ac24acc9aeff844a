"""How a run ended, from how its streams did. Pure: streams in, a verdict out.

A stream with a parent *helps* it: the process of a pool, a child that was forked. A stream that was lost, failed or
cancelled is *superseded* when a later stream of the run began after its last word: the run was taken up again. The
worst of the streams that are neither is the outcome of the run, and while one of them runs, the run runs.

When all are superseded, the last stream to begin was a helper: a program went on in its child and ended itself, as a
daemon does. Then the helpers that began after the last word of their parent count in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

COMPLETED, CANCELLED, FAILED, LOST = WORDS = ("completed", "cancelled", "failed", "lost")
"""Every outcome of a stream, the worse one later."""
RUNNING = "running"
COUNTS, HELPER, SUPERSEDED = ROLES = ("counts", "helper", "superseded")


class StreamEnd(NamedTuple):
    """Start, end and outcome of one stream."""

    stream: int
    stream_id: bytes
    parent: bytes | None
    started_ns: int
    last_ns: int | None
    """Its last word; None while it runs."""
    outcome: str | None
    """None while it runs."""
    reason: str | None = None

    @property
    def gave_up(self) -> bool:
        return self.outcome is not None and self.outcome != COMPLETED

    @property
    def word_ns(self) -> int:
        """Its last word; a clock that was set back does not bring that before its start."""
        return max(self.last_ns or self.started_ns, self.started_ns)

    def ended_before(self, start_ns: int) -> bool:
        return self.last_ns is not None and self.word_ns < start_ns


class StreamRole(NamedTuple):
    """A stream's role in its run."""

    role: str
    attempt: int


class Verdict(NamedTuple):
    """How a run is doing: the status, why it is so, when it ended, and the part of each stream by its number."""

    status: str
    reason: str | None
    finished_ns: int | None
    parts: dict[int, StreamRole]


def known_outcome(word: str, reason: str | None) -> tuple[str, str | None]:
    """The outcome and reason of a worker's word. One that is not known here is a failure; the reason quotes it.

    ``lost`` is the store's own word: a worker that can say so is not.
    """
    if word in (COMPLETED, CANCELLED, FAILED):
        return word, reason
    return FAILED, f"ended as {word!r}" + (f": {reason}" if reason else "")


def judge(streams: Iterable[StreamEnd]) -> Verdict:
    """The verdict on a run of at least one stream."""
    ordered = sorted(streams, key=lambda each: (each.started_ns, each.stream))
    newest_ns = ordered[-1].started_ns
    superseded = {each.stream_id: each for each in ordered if each.gave_up and each.ended_before(newest_ns)}
    counting = _counting(ordered, superseded)
    attempts = _attempts(ordered)
    roles = {each.stream: HELPER if each.parent else COUNTS for each in ordered}
    roles.update({each.stream: SUPERSEDED for each in superseded.values() if not each.parent})
    roles.update({each.stream: COUNTS for each in counting})
    parts = {each.stream: StreamRole(roles[each.stream], attempts[each.stream_id]) for each in ordered}
    if any(each.outcome is None for each in counting):
        return Verdict(RUNNING, None, None, parts)
    worst = max(counting, key=lambda each: WORDS.index(each.outcome or COMPLETED))  # the first one of several
    return Verdict(worst.outcome or COMPLETED, worst.reason, max(each.word_ns for each in counting), parts)


def _counting(ordered: list[StreamEnd], superseded: dict[bytes, StreamEnd]) -> list[StreamEnd]:
    """The streams that decide the run's outcome: the first generation with any left, beginning with the parents."""
    generation = [each for each in ordered if each.parent is None]
    while generation:
        left = [each for each in generation if each.stream_id not in superseded]
        if left:
            return left
        gone = {each.stream_id: each for each in generation}
        generation = [
            each for each in ordered if each.parent in gone and gone[each.parent].ended_before(each.started_ns)
        ]
    return [each for each in ordered if each.stream_id not in superseded]  # helpers of parents that are not here


def _attempts(ordered: list[StreamEnd]) -> dict[bytes, int]:
    """Stream → attempt: one more than the attempts that had ended when it began; a helper has its parent's."""
    own = [each for each in ordered if each.parent is None]
    ended = sorted((each for each in own if each.last_ns is not None), key=lambda each: each.word_ns)
    found: dict[bytes, int] = {}
    largest = at = 0
    for each in own:
        while at < len(ended) and ended[at].ended_before(each.started_ns):
            largest = max(largest, found[ended[at].stream_id])
            at += 1
        found[each.stream_id] = largest + 1
    for each in ordered:  # a parent begins before its helpers
        if each.parent is not None:
            found[each.stream_id] = found.get(each.parent, 1)
    return found
